"""Image-text retrieval: the share of queries with a right answer among the first k.

Legend: N images, M texts, Q queries, G gallery items, D embedding size. Imports `errors` only.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from tracerft.errors import ArgumentError, ShapeError

Positives = Sequence[Sequence[int]]


def retrieval_recall(
    image: Tensor, text: Tensor, positives: Positives, *, ks: Sequence[int] = (1, 5, 10), chunk: int = 1024
) -> dict[str, int | float | None]:
    """Recall at k in both directions, by cosine similarity; any positive among the first k counts.

    Args:
        image: ``(N, D)`` embeddings.
        text: ``(M, D)`` embeddings.
        positives: for each image the texts that describe it, as rows of ``text``; a text may describe several
            images. Every image and every text needs at least one.
        ks: cut-offs, each at least 1.
        chunk: queries compared at a time; memory is about ``chunk * max(N, M)`` numbers.

    Returns:
        ``n_images``, ``n_texts``, then ``image_to_text_r<k>`` and ``text_to_image_r<k>``: fractions in [0, 1], or
        ``None`` where the gallery has fewer than k items.

    Raises:
        ShapeError: if the shapes do not fit.
        ArgumentError: if an image or text has no positive, an index is out of range, or a value is not finite.

    Example:
        >>> retrieval_recall(torch.eye(2), torch.eye(2), [[0], [1]], ks=[1])["text_to_image_r1"]
        1.0
    """
    if not ks or min(ks) < 1:
        raise ArgumentError(f"`ks` must be cut-offs of at least 1; got {list(ks)}; (1, 5, 10) is usual")
    to_text = retrieval_ranks(image, text, positives, chunk=chunk)
    to_image = retrieval_ranks(text, image, _turned(positives, len(text)), chunk=chunk)
    result: dict[str, int | float | None] = {"n_images": len(image), "n_texts": len(text)}
    for direction, ranks, size in (("image_to_text", to_text, len(text)), ("text_to_image", to_image, len(image))):
        for k in ks:
            result[f"{direction}_r{k}"] = float((ranks <= k).double().mean()) if k <= size else None
    return result


@torch.no_grad()
def retrieval_ranks(queries: Tensor, gallery: Tensor, positives: Positives, *, chunk: int = 1024) -> Tensor:
    """Rank of each query's best positive: 1 + the number of wrong items that score at least as high.

    Args:
        queries: ``(Q, D)`` embeddings.
        gallery: ``(G, D)`` embeddings.
        positives: for each query its right items, as rows of ``gallery``, at least one.
        chunk: queries compared at a time.

    Returns:
        ``(Q,)`` int64 on the CPU, from 1.

    Raises:
        ShapeError: if the shapes do not fit.
        ArgumentError: if a query has no positive, an index is out of range, or a value is not finite.

    Note:
        Equal scores count against the model, so that a constant embedding is no good retriever. Scores that differ by
        rounding only (8 units in the last place of 1.0) are equal: a matrix product may round equal rows apart.
    """
    queries, gallery = _unit_rows(queries, gallery)
    if chunk < 1:
        raise ArgumentError(f"`chunk` must be at least 1; got {chunk}; 1024 is usual")
    owners, items, starts = _pairs(positives, len(queries), len(gallery))
    owners, items = owners.to(queries.device), items.to(queries.device)
    tie = 8 * torch.finfo(queries.dtype).eps
    ranks = []
    for start in range(0, len(queries), chunk):
        stop = min(start + chunk, len(queries))
        mine = slice(starts[start], starts[stop])
        with torch.autocast(queries.device.type, enabled=False):
            scores = queries[start:stop] @ gallery.T  # (chunk, G)
        rows = owners[mine] - start
        right = scores[rows, items[mine]]
        best = scores.new_full((stop - start,), -torch.inf).scatter_reduce(0, rows, right, "amax")
        high = (scores >= best[:, None] - tie).sum(dim=1)
        high_and_right = torch.zeros_like(high).index_add_(0, rows, (right >= best[rows] - tie).long())
        ranks.append((1 + high - high_and_right).cpu())
    return torch.cat(ranks)


def _unit_rows(queries: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    """Both with rows of length 1, float32 or wider, on the queries' device."""
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1] or 0 in queries.shape:
        raise ShapeError(
            "image and text embeddings must be (N, D) and (M, D) of one width; got "
            f"{tuple(queries.shape)} and {tuple(gallery.shape)}; pool and project both towers first"
        )
    dtype = torch.promote_types(torch.promote_types(queries.dtype, gallery.dtype), torch.float32)
    rows = [functional.normalize(x.detach().to(queries.device, dtype), dim=1) for x in (queries, gallery)]
    if not all(bool(torch.isfinite(x).all()) for x in rows):
        raise ArgumentError("image and text embeddings must be finite; some are not; check the model's weights")
    return rows[0], rows[1]


def _pairs(positives: Positives, num_queries: int, num_items: int) -> tuple[Tensor, Tensor, list[int]]:
    """Query and item of every right pair, grouped by query, and where each query's pairs start."""
    if len(positives) != num_queries:
        raise ShapeError(f"`positives` must list the matches of {num_queries} queries; got {len(positives)} lists")
    owners: list[int] = []
    items: list[int] = []
    starts = [0]
    for query, matches in enumerate(positives):
        right = sorted({int(item) for item in matches})
        if not right:
            raise ArgumentError(f"`positives` must give every image and text a match; row {query} has none; remove it")
        if right[0] < 0 or right[-1] >= num_items:
            raise ArgumentError(f"`positives` must be in [0, {num_items}); got {right[0]} to {right[-1]} at {query}")
        owners += [query] * len(right)
        items += right
        starts.append(len(items))
    return torch.tensor(owners), torch.tensor(items), starts


def _turned(positives: Positives, num_items: int) -> list[list[int]]:
    """The queries of each item."""
    turned: list[list[int]] = [[] for _ in range(num_items)]
    for query, matches in enumerate(positives):
        for item in matches:
            turned[int(item)].append(query)
    return turned
