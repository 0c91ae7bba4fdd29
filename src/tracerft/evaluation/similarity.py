"""How alike two image towers see the same images, layer by layer: linear CKA and SVCCA (Figure 4).

Legend: n images, d and e widths, X ``(n, d)`` and Y ``(n, e)`` features with rows that belong together. Float64.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tracerft.data.suite import Split
from tracerft.errors import ArgumentError, ShapeError
from tracerft.models.features import capture
from tracerft.models.modes import evaluating

EMBEDDING = "embedding"  # what the tower gives at the end, after its projection
_FLAT = 1e-12  # variation below this share of the norm is rounding


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment, ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F) with centred columns.

    Kornblith et al., ICML 2019, arXiv 1905.00414, section 3. Blind to rotation, one common scale and shifts.

    Args:
        x: ``(n, d)`` features, n >= 2.
        y: ``(n, e)`` features of the same images.

    Returns:
        In [0, 1]; 1 for equal features up to what it is blind to, 0 where no column of one correlates with the other.

    Raises:
        ShapeError: if the two are not matrices of as many rows.
        ArgumentError: if one is the same for all images.
    """
    a, b = _centred(x, y)
    cross, own = (b.T @ a).square().sum(), (a.T @ a).norm() * (b.T @ b).norm()
    return float((cross / own).clamp(0.0, 1.0))


def svcca(x: Tensor, y: Tensor, variance: float = 0.99) -> float:
    """Mean canonical correlation between the leading singular directions of both.

    Raghu et al., NeurIPS 2017, arXiv 1706.05806: keep as few directions as carry ``variance`` of each, then take the
    canonical correlations, as many as the smaller one has directions. Blind to rotation, one common scale and shifts.

    Args:
        x: ``(n, d)`` features, n >= 2.
        y: ``(n, e)`` features of the same images.
        variance: share of the summed squares to keep, in (0, 1].

    Returns:
        In [0, 1].

    Raises:
        ShapeError: if the two are not matrices of as many rows.
        ArgumentError: if one is the same for all images, or ``variance`` is out of range.

    Note:
        With fewer images than directions every correlation is near 1, whatever is compared: take n well above d.
    """
    if not 0 < variance <= 1:
        raise ArgumentError(f"`variance` must be in (0, 1]; got {variance}; 0.99 is the paper's")
    left, right = (_leading(matrix, variance) for matrix in _centred(x, y))
    return float(torch.linalg.svdvals(left.T @ right).clamp(0.0, 1.0).mean())


@torch.no_grad()
def tower_features(model: nn.Module, split: Split, layers: Sequence[str]) -> dict[str, Tensor]:
    """Pooled features of an image tower on every image of a split.

    Args:
        model: a dual encoder.
        split: the images.
        layers: as `tracerft.models.features.feature_layers` names them.

    Returns:
        ``(n, width)`` by layer on the CPU, in the order of ``layers``, then the ``embedding`` before normalisation.
    """
    rows: dict[str, list[Tensor]] = {name: [] for name in (*layers, EMBEDDING)}
    device = next(model.parameters()).device
    with evaluating(model), capture(model, layers) as seen:
        for images in split.images.image_batches():
            last = model.encode_image(images.to(device), normalize=False)  # type: ignore[operator]
            for name, part in {**seen, EMBEDDING: last}.items():
                rows[name].append(part.float().cpu())
    return {name: torch.cat(parts) for name, parts in rows.items()}


def layer_similarity(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """``cka`` and ``svcca`` in [0, 1] of each layer that both `tower_features` have.

    Raises:
        ArgumentError: if they have no layer in common.
    """
    shared = [name for name in one if name in other]
    if not shared:
        raise ArgumentError(f"`other` must share layers with `one`; got {list(other)} for {list(one)}")
    return {
        name: {"cka": linear_cka(one[name], other[name]), "svcca": svcca(one[name], other[name])} for name in shared
    }


def _centred(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64 with columns of mean 0, checked."""
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 2:
        raise ShapeError(
            f"`x` and `y` must be (n, d) and (n, e) with one n >= 2; got {tuple(x.shape)} and {tuple(y.shape)}; give "
            "features of the same images"
        )
    return _varying(x, "x"), _varying(y, "y")


def _varying(matrix: Tensor, name: str) -> Tensor:
    wide = matrix.double()
    centred: Tensor = wide - wide.mean(dim=0)
    if float(centred.norm()) <= _FLAT * float(wide.norm()):
        raise ArgumentError(
            f"`{name}` must differ between images; got one row {len(wide)} times; compare another layer"
        )
    return centred


def _leading(centred: Tensor, variance: float) -> Tensor:
    """Orthonormal ``(n, k)``: left singular vectors of the fewest directions that carry the variance."""
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    values = values[values > values[0] * max(centred.shape) * torch.finfo(values.dtype).eps]
    carried = values.square().cumsum(0) / values.square().sum()
    kept = int((carried < variance - _FLAT).sum()) + 1
    directions: Tensor = left[:, : min(kept, len(values))]
    return directions
