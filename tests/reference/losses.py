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


def log_sigmoid(z: float) -> float:
    """Log of 1 / (1 + exp(-z)), without overflow."""
    return -math.log1p(math.exp(-z)) if z >= 0 else z - math.log1p(math.exp(z))


def pairwise(anchors: Rows, keys: Rows, scale: float, bias: float, targets: str, labels: list[int]) -> float:
    """SigLIP's loss: yes or no for every pair, summed, over N."""
    losses = []
    for i, anchor in enumerate(anchors):
        for j, key in enumerate(keys):
            z = scale * dot(anchor, key) + bias
            equal = labels[i] == labels[j]
            if targets == "masked" and equal and i != j:
                continue
            yes = i == j or (targets == "multi_positive" and equal)
            losses.append(-log_sigmoid(z if yes else -z))
    return math.fsum(losses) / len(anchors)


def sigmoid_icl(s_image, s_text, t_image, t_text, scale, bias, targets: str, labels: list[int]) -> float:
    """Half the sum of both cross-anchor losses."""
    image = pairwise(s_image, t_text, scale, bias, targets, labels)
    return 0.5 * (image + pairwise(s_text, t_image, scale, bias, targets, labels))


def bernoulli(teacher: float, student: float) -> float:
    """KL of two yes-or-no answers from their logits."""
    return math.fsum(
        math.exp(log_sigmoid(sign * teacher)) * (log_sigmoid(sign * teacher) - log_sigmoid(sign * student))
        for sign in (1, -1)
    )


def sigmoid_crd(s_image, s_text, s_scale, s_bias, t_image, t_text, t_scale, t_bias) -> float:
    """Every pair once, over N."""
    rows = range(len(s_image))
    return math.fsum(
        bernoulli(t_scale * dot(t_image[i], t_text[j]) + t_bias, s_scale * dot(s_image[i], s_text[j]) + s_bias)
        for i in rows
        for j in rows
    ) / len(rows)


def sigmoid_cross_kd(s_image, s_text, s_scale, s_bias, t_image, t_text, t_scale, t_bias) -> float:
    """Student image i with teacher text j, and teacher image i with student text j, halved."""
    total = 0.0
    for i in range(len(s_image)):
        for j in range(len(s_image)):
            teacher = t_scale * dot(t_image[i], t_text[j]) + t_bias
            total += bernoulli(teacher, s_scale * dot(s_image[i], t_text[j]) + s_bias)
            total += bernoulli(teacher, s_scale * dot(t_image[i], s_text[j]) + s_bias)
    return 0.5 * total / len(s_image)
