"""DaWin (Oh et al., ICLR 2025): test images say by their entropies how much of the finetuned weights they get.

Transductive: it looks at all unlabelled images of a split. Legend: H_0, H_1 entropies of the pretrained and finetuned
model's prediction of a sample, e_j = exp(-H_j), lambda the sample's share of finetuned weights, n samples, C classes,
K components of a mixture.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import betaln, logsumexp
from torch import Tensor, nn

from tracerft.averaging import interpolate
from tracerft.data.suite import Split
from tracerft.errors import ArgumentError, ShapeError
from tracerft.evaluation.suite import Predictor, Tokenize

COMPONENTS = 3  # published
_ROUNDS, _TOLERANCE = 1000, 1e-7  # of EM; the latter of the mean log likelihood
_LARGEST_SUM, _LEAST_SUM = 1e6, 3.0  # of a + b; the least is that of the published code, whose peaks are inside (0, 1)
_PRIOR = 1e-9  # of one sample; keeps a component that lost all its samples finite


@dataclass(frozen=True)
class BetaMixture:
    """Weighted Beta(a, b) densities on (0, 1).

    Args:
        weights: ``(K,)``, sum 1.
        a: ``(K,)``, above 0.
        b: ``(K,)``, above 0.
    """

    weights: NDArray[np.float64]
    a: NDArray[np.float64]
    b: NDArray[np.float64]

    @property
    def means(self) -> NDArray[np.float64]:
        """``(K,)``, a / (a + b), in (0, 1)."""
        return self.a / (self.a + self.b)

    def log_joint(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """``(n, K)``: log of weight times density of each component at ``values`` ``(n,)``."""
        x = values[:, None]
        density = (self.a - 1) * np.log(x) + (self.b - 1) * np.log1p(-x) - betaln(self.a, self.b)
        joint: NDArray[np.float64] = np.log(self.weights) + density
        return joint

    def groups(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """``(n,)``: the likeliest component of each value."""
        likeliest: NDArray[np.int64] = self.log_joint(values).argmax(axis=1)
        return likeliest


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of each row's softmax, ``(n, C)`` to ``(n,)`` in [0, log C], float64; -inf is no class.

    Raises:
        ShapeError: if ``logits`` is not (n, C) with at least one of each.
        ArgumentError: if a score is NaN or infinite upwards.
    """
    if logits.ndim != 2 or logits.numel() == 0:
        raise ShapeError(f"`logits` must be (n, C), not empty; got {tuple(logits.shape)}; stack the batches of a split")
    probabilities = logits.detach().cpu().double().softmax(dim=1)
    if not bool(torch.isfinite(probabilities).all()):
        raise ArgumentError("`logits` must not be NaN or infinite; got a row that is; check the model's weights")
    terms: Tensor = torch.special.entr(probabilities)
    return terms.sum(dim=1)


def mixing_weights(pretrained: Tensor, finetuned: Tensor, *, offset: bool = True) -> Tensor:
    """Lambda of each sample, e_1 / (e_0 + e_1), or (e_1 + b / omega) / (e_0 + e_1 + b) with the offset.

    b = (std H_0 / mean H_0 + std H_1 / mean H_1) / 2 and omega = (mean H_0 + mean H_1) / mean H_0 over the samples, as
    in the published code. Published temperatures divide the logits before this (ViT-B/16: 0.96 and 1.0066).

    Args:
        pretrained: logits ``(n, C)``.
        finetuned: logits ``(n, C)``.
        offset: ``False`` for the plain ratio.

    Returns:
        ``(n,)`` in (0, 1), float64 on the CPU.

    Raises:
        ShapeError: if the shapes differ or are not (n, C).
        ArgumentError: if a score is NaN or infinite upwards.
    """
    if pretrained.shape != finetuned.shape:
        shapes = f"{tuple(pretrained.shape)} and {tuple(finetuned.shape)}"
        raise ShapeError(f"`pretrained` and `finetuned` must be of one shape (n, C); got {shapes}; use one split")
    h0, h1 = entropy(pretrained), entropy(finetuned)
    e0, e1 = (-h0).exp(), (-h1).exp()
    if not offset:
        return e1 / (e0 + e1)
    b = (_variation(h0) + _variation(h1)) / 2
    both = float(h0.mean() + h1.mean())
    share = float(h0.mean()) / both if both > 0 else 0.5  # 1 / omega
    return (e1 + b * share) / (e0 + e1 + b)


def _variation(values: Tensor) -> float:
    """Standard deviation (n - 1) over mean; 0 for a single value, or where all are 0."""
    mean = float(values.mean())
    return float(values.std()) / mean if len(values) > 1 and mean > 0 else 0.0


def fit_beta_mixture(values: NDArray[np.float64], components: int = COMPONENTS) -> BetaMixture:
    """Fit a mixture of Beta densities by EM, parameters by moments (numbers alone decide, no generator).

    It begins with the sorted values cut into K equal parts, and so gives components in about ascending order.

    Args:
        values: ``(n,)`` in (0, 1).
        components: K, at least 1; fewer are fitted where there are fewer distinct values.

    Raises:
        ArgumentError: if ``components`` is no count, or a value is outside (0, 1).

    Note:
        The published code begins with k-means of three seeds and keeps the likeliest.
    """
    x = np.asarray(values, dtype=np.float64)
    if not isinstance(components, int) or components < 1:
        raise ArgumentError(f"`components` must be a whole number of at least 1; got {components!r}; 3 is published")
    if x.ndim != 1 or not len(x) or not bool(((x > 0) & (x < 1)).all()):
        raise ArgumentError(f"`values` must be (n,) numbers in (0, 1); got shape {x.shape}; pass mixing weights")
    count = min(components, len(np.unique(x)))
    shares = np.zeros((len(x), count))
    for k, part in enumerate(np.array_split(np.argsort(x, kind="stable"), count)):
        shares[part, k] = 1
    mixture, likelihood = _from_shares(x, shares), -np.inf
    for _ in range(_ROUNDS):
        joint = mixture.log_joint(x)
        total = logsumexp(joint, axis=1, keepdims=True)
        before, likelihood = likelihood, float(total.mean())
        if abs(likelihood - before) < _TOLERANCE:
            break
        mixture = _from_shares(x, np.exp(joint - total))
    return mixture


def _from_shares(x: NDArray[np.float64], shares: NDArray[np.float64]) -> BetaMixture:
    """The M step by moments: mean m and variance v give a + b = m (1 - m) / v - 1 and a = m (a + b)."""
    counts = shares.sum(axis=0) + _PRIOR
    means = (shares.T @ x + _PRIOR * x.mean()) / counts
    variances = ((shares * (x[:, None] - means) ** 2).sum(axis=0) + _PRIOR * x.var()) / counts
    widest = means * (1 - means)
    sums = np.clip(widest / np.maximum(variances, widest / (_LARGEST_SUM + 1)) - 1, _LEAST_SUM, _LARGEST_SUM)
    return BetaMixture(counts / counts.sum(), means * sums, (1 - means) * sums)


def dawin_results(
    start: nn.Module, end: nn.Module, splits: Mapping[str, Split], tokenize: Tokenize
) -> dict[str, dict[str, Any]]:
    """Metrics of DaWin on each split with labels: one merged model a component, at the component's mean.

    Labels are read for the metrics alone. A split costs two passes and one for each component.

    Args:
        start: the pretrained model.
        end: the finetuned one, of the same architecture, head included.
        splits: by name; those without labels are left out.
        tokenize: captions to token ids.

    Returns:
        ``{split: fields of record.json}``.
    """
    predictor = _DaWin({"start": start, "end": end}, tokenize)
    return {name: predictor.score("dawin", split)[0] for name, split in splits.items() if split.labels is not None}


class _DaWin(Predictor):
    """A predictor of a third model, ``dawin``, that is another one for every group of samples."""

    def logits(self, name: str, split: Split) -> Tensor:
        if name != "dawin":
            return super().logits(name, split)
        found = self.logits("end", split)
        values = mixing_weights(self.logits("start", split), found).numpy()
        mixture = fit_beta_mixture(values)
        groups = torch.from_numpy(mixture.groups(values))
        for k, share in enumerate(mixture.means.tolist()):
            rows = (groups == k)[:, None]
            if bool(rows.any()):
                merged = interpolate(self.models["start"], self.models["end"], share)
                whole = Predictor({"merged": merged}, self.tokenize).logits("merged", split)
                found = torch.where(rows, whole, found)  # rows stay where they are: no order to restore
        return found
