"""A linear classifier on frozen features: logistic regression by L-BFGS, or SGD from a given head.

Legend: n examples, D width, C classes; W ``(C, D)`` weight, b ``(C,)`` bias; P the softmax of logits X W^T + b, Y the
labels as one-hot rows; c inverse strength of regularisation.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tracerft.errors import ArgumentError, ShapeError, one_of

SOLVERS = ("lbfgs", "sgd")
INVERSES = tuple(10.0**k for k in range(-6, 3))  # of features at unit deviation
HELD_OUT = 5  # one example in five judges the strengths
ITERATIONS, GRADIENT = 200, 1e-6  # L-BFGS stops at the first that is reached
EPOCHS, BATCH, MOMENTUM = 10, 128, 0.9
CHUNK = 8192  # examples whose logits are held at once

Linear = tuple[Tensor, Tensor]


def fit_probe(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    solver: str = "lbfgs",
    head: Tensor | None = None,
    seed: int = 0,
    epochs: int = EPOCHS,
) -> Linear:
    """Fit a linear classifier on the features of a frozen model.

    Args:
        features: ``(n, D)``, n >= 2, of training images only; a part of them is held out to choose the strength.
        labels: ``(n,)`` integer class ids in [0, C); a class may be absent.
        num_classes: C.
        solver: ``lbfgs``: multinomial logistic regression, the strength by accuracy on a held-out fifth, then all
            examples (Kornblith et al. 2019; Radford et al. 2021); passes over all data many times, so meant for some
            ten thousand examples. ``sgd``: cross-entropy with momentum and a cosine schedule, any size.
        head: ``(C, D)`` where ``sgd`` starts, such as a zero-shot head; zeros without. The optimum of ``lbfgs`` does
            not depend on a start.
        seed: keys the order of ``sgd`` and what is held out.
        epochs: of ``sgd``.

    Returns:
        W ``(C, D)`` and b ``(C,)``, float32 (float64 for float64 features), on the device of the features and for the
        features as given.

    Raises:
        ArgumentError: if the solver is unknown, or labels are not integers in [0, C).
        ShapeError: if features, labels and head do not fit each other.
    """
    one_of("solver", solver, SOLVERS)
    _check(features, labels, num_classes, head)
    labels = labels.to(features.device).long()
    with torch.no_grad():
        if solver == "sgd":
            fitted = _descend(features, labels, num_classes, head, seed, epochs)
        else:
            fitted = _select(features.double(), labels, num_classes, seed)
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    return fitted[0].to(dtype), fitted[1].to(dtype)


def _check(features: Tensor, labels: Tensor, num_classes: int, head: Tensor | None) -> None:
    if features.ndim != 2 or len(features) < 2 or labels.shape != features.shape[:1]:
        raise ShapeError(
            f"`features` must be (n, D) and `labels` (n,) with n >= 2; got {tuple(features.shape)} and "
            f"{tuple(labels.shape)}; give one class id an example"
        )
    if labels.dtype.is_floating_point or int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise ArgumentError(
            f"`labels` must be integers in [0, {num_classes}); got {labels.dtype} in [{labels.min()}, {labels.max()}]; "
            "number the classes from 0"
        )
    if head is not None and tuple(head.shape) != (num_classes, features.shape[1]):
        raise ShapeError(
            f"`head` must be ({num_classes}, {features.shape[1]}), one row a class; got {tuple(head.shape)}; "
            "use the head of the model that made the features"
        )


def _select(features: Tensor, labels: Tensor, num_classes: int, seed: int) -> Linear:
    """The strength that is best on what is held out, then all examples."""
    # One number for all directions (Kumar et al. 2022): the strengths mean the same for any scale of features, and
    # the optimum is that of the features as they are. The bias takes up the mean, without penalty.
    mean = features.mean(dim=0)
    deviation = (features - mean).square().mean().sqrt().clamp(min=torch.finfo(features.dtype).tiny)
    scaled = (features - mean) / deviation
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    held, kept = order[: max(1, len(order) // HELD_OUT)], order[max(1, len(order) // HELD_OUT) :]
    path = logistic_path(scaled[kept], labels[kept], num_classes, INVERSES)
    scores = [_score(fitted, scaled[held], labels[held]) for fitted in path]
    best = scores.index(max(scores))
    weight, bias = logistic_path(scaled, labels, num_classes, INVERSES[: best + 1])[-1]
    weight = weight / deviation
    return weight, bias - weight @ mean


def _score(fitted: Linear, features: Tensor, labels: Tensor) -> tuple[float, float]:
    """Accuracy, and among equals the likelihood; both better when higher."""
    right, loss = 0, 0.0
    for x, y in zip(torch.split(features, CHUNK), torch.split(labels, CHUNK), strict=True):
        log_p = (x @ fitted[0].T + fitted[1]).log_softmax(dim=1)
        right += int((log_p.argmax(dim=1) == y).sum())
        loss -= float(log_p.gather(1, y[:, None]).sum())
    return right / len(labels), -loss


def logistic_path(features: Tensor, labels: Tensor, num_classes: int, inverses: Sequence[float]) -> list[Linear]:
    """Minima of sum_i CE(W x_i + b, y_i) + ||W||_F^2 / (2 c), one for each c, each started from the one before.

    Args:
        features: ``(n, D)`` float64.
        labels: ``(n,)`` int64 in [0, C).
        num_classes: C.
        inverses: c > 0; from small to large is fast.

    Returns:
        W ``(C, D)`` and b ``(C,)`` for each c. A class without examples has no finite minimum in b: its row is 0,
        and its bias so low that it gets at most 1/n of the probability of any example.
    """
    present, places = torch.unique(labels, return_inverse=True)
    weight = features.new_zeros(len(present), features.shape[1])
    bias = features.new_zeros(len(present))
    path = []
    for inverse in inverses:
        weight, bias = _minimise(features, places, weight, bias, inverse)
        lowest = min(float((x @ weight.T + bias).min()) for x in torch.split(features, CHUNK))
        full_weight = features.new_zeros(num_classes, features.shape[1])
        full_bias = features.new_full((num_classes,), lowest - math.log(len(labels)))
        full_weight[present], full_bias[present] = weight, bias
        path.append((full_weight, full_bias))
    return path


def _minimise(features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, inverse: float) -> Linear:
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=ITERATIONS,
        max_eval=2 * ITERATIONS,
        tolerance_grad=GRADIENT,
        tolerance_change=0.0,  # a small step is no proof of a small gradient
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def closure() -> float:
        loss, slope_weight, slope_bias = _slopes(weight, bias, features, labels)
        n = len(labels)  # the mean has gradients of a size that does not depend on n
        weight.grad = (slope_weight + weight / inverse) / n
        bias.grad = slope_bias / n
        return (loss + float(weight.square().sum()) / (2 * inverse)) / n

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()


def _slopes(weight: Tensor, bias: Tensor, features: Tensor, labels: Tensor) -> tuple[float, Tensor, Tensor]:
    """Sum of cross-entropies and its gradients: (P - Y)^T X and the column sums of P - Y."""
    loss, slope_weight, slope_bias = 0.0, torch.zeros_like(weight), torch.zeros_like(bias)
    for x, y in zip(torch.split(features, CHUNK), torch.split(labels, CHUNK), strict=True):
        log_p = (x @ weight.T + bias).log_softmax(dim=1)
        loss -= float(log_p.gather(1, y[:, None]).sum())
        gap = log_p.exp()
        gap[torch.arange(len(y), device=y.device), y] -= 1.0
        slope_weight += gap.T @ x
        slope_bias += gap.sum(dim=0)
    return loss, slope_weight, slope_bias


def _descend(features: Tensor, labels: Tensor, num_classes: int, head: Tensor | None, seed: int, epochs: int) -> Linear:
    """SGD with momentum on the mean cross-entropy, without decay."""
    features = features if features.dtype == torch.float64 else features.float()
    start = features.new_zeros(num_classes, features.shape[1]) if head is None else head.to(features).clone()
    weight, bias = start, features.new_zeros(num_classes)
    speeds = torch.zeros_like(weight), torch.zeros_like(bias)
    # The inverse of a bound on the curvature, (||x||^2 + 1) / 2 with the bias: stable whatever the features' scale.
    peak = 2.0 / (float(features.square().sum(dim=1).mean()) + 1.0)
    generator = torch.Generator().manual_seed(seed)
    total, step = epochs * math.ceil(len(labels) / BATCH), 0
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(labels), generator=generator).to(labels.device), BATCH):
            rate = peak * 0.5 * (1 + math.cos(math.pi * step / total))
            _, *slopes = _slopes(weight, bias, features[batch], labels[batch])
            for value, speed, slope in zip((weight, bias), speeds, slopes, strict=True):
                speed.mul_(MOMENTUM).add_(slope, alpha=1 / len(batch))
                value.sub_(speed, alpha=rate)
            step += 1
    return weight, bias
