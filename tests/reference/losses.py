"""Every loss once more, in plain Python loops over float64 numbers: slow, and easy to check against the paper."""

import math

Rows = list[list[float]]


def dot(a: list[float], b: list[float]) -> float:
    """Inner product."""
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def logs(anchor: list[float], keys: Rows, scale: float) -> list[float]:
    """Log of the softmax of one anchor over all keys."""
    scores = [scale * dot(anchor, key) for key in keys]
    top = max(scores)
    total = math.log(math.fsum(math.exp(s - top) for s in scores))
    return [s - top - total for s in scores]


def cross_entropy(anchors: Rows, keys: Rows, scale: float, targets: str, labels: list[int]) -> float:
    """Mean cross-entropy of one direction, with the three kinds of targets."""
    losses = []
    for i, anchor in enumerate(anchors):
        positives = [j for j in range(len(keys)) if labels[j] == labels[i]]
        if targets == "diagonal":
            losses.append(-logs(anchor, keys, scale)[i])
        elif targets == "multi_positive":
            row = logs(anchor, keys, scale)
            losses.append(-math.fsum(row[j] for j in positives) / len(positives))
        else:
            kept = [j for j in range(len(keys)) if j == i or j not in positives]
            losses.append(-logs(anchor, [keys[j] for j in kept], scale)[kept.index(i)])
    return math.fsum(losses) / len(losses)


def info_nce(image: Rows, text: Rows, scale: float, targets: str, labels: list[int]) -> float:
    """Mean of the two directions."""
    return 0.5 * (
        cross_entropy(image, text, scale, targets, labels) + cross_entropy(text, image, scale, targets, labels)
    )


def icl(s_image, s_text, t_image, t_text, scale: float, targets: str, labels: list[int]) -> float:
    """Equation (24)."""
    return 0.5 * (
        cross_entropy(s_image, t_text, scale, targets, labels) + cross_entropy(s_text, t_image, scale, targets, labels)
    )


def fd(s_image: Rows, s_text: Rows, t_image: Rows, t_text: Rows) -> float:
    """Equation (20)."""
    total = 0.0
    for i in range(len(s_image)):
        for ours, theirs in ((s_image[i], t_image[i]), (s_text[i], t_text[i])):
            total += math.fsum((b - a) ** 2 for a, b in zip(ours, theirs, strict=True))
    return total / len(s_image)


def divergence(teacher: list[float], student: list[float]) -> float:
    """KL(teacher || student) from two rows of log-probabilities."""
    return math.fsum(math.exp(t) * (t - s) for t, s in zip(teacher, student, strict=True))


def crd(s_image, s_text, s_scale, t_image, t_text, t_scale) -> float:
    """Equation (23)."""
    rows = range(len(s_image))
    images = [divergence(logs(t_image[i], t_text, t_scale), logs(s_image[i], s_text, s_scale)) for i in rows]
    texts = [divergence(logs(t_text[i], t_image, t_scale), logs(s_text[i], s_image, s_scale)) for i in rows]
    return math.fsum(images + texts) / len(rows)


def cross_kd(s_image, s_text, s_scale, t_image, t_text, t_scale) -> float:
    """Equation (27)."""
    rows = range(len(s_image))
    images = [divergence(logs(t_image[i], t_text, t_scale), logs(s_image[i], t_text, s_scale)) for i in rows]
    texts = [divergence(logs(t_text[i], t_image, t_scale), logs(s_text[i], t_image, s_scale)) for i in rows]
    return 0.5 * math.fsum(images + texts) / len(rows)
