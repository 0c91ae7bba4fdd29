"""A look at a data set before a run: what is broken, empty, repeated, lopsided or leaked."""

import hashlib
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from tracerft.data.images import decode
from tracerft.data.loading import Loader
from tracerft.data.manifest import Manifest
from tracerft.data.text import first_five, shown
from tracerft.errors import DataError

_LISTED = 20
Tokenize = Callable[[Sequence[str]], Tensor]


def inspect_data(
    manifest: Manifest,
    *,
    against: Manifest | None = None,
    tokenize: Tokenize | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Read and decode every image once, and count.

    Args:
        manifest: the data set.
        against: another set, such as the test set, that should share no image with it.
        tokenize: the model's tokenizer, to count captions that fill its context and so were cut.
        batch_size: to say how many pairs of a batch will share a caption.
        threads: that decode.

    Returns:
        Plain values, ready for JSON: ``images``, ``classes``, ``captions``, ``collisions``, ``leaks``
        (each ``None`` where it does not apply), ``sha256`` and ``warnings``.
    """
    facts = _scan(manifest, threads)
    hashes = [fact[0] for fact in facts]
    return {
        "sha256": manifest.sha256,
        "images": _images(manifest, facts),
        "classes": _classes(manifest),
        "captions": _captions(manifest, tokenize) if manifest.has_captions else None,
        "collisions": _collisions(manifest, batch_size) if batch_size else None,
        "leaks": _leaks(manifest, hashes, against, threads) if against is not None else None,
        "warnings": list(manifest.warnings),
    }


Fact = tuple[str, tuple[int, int] | None, str]  # file hash, width and height, what is wrong


def _scan(manifest: Manifest, threads: int | None, *, pixels: bool = True) -> list[Fact]:
    def look(index: int) -> Fact:
        name, digest = manifest.samples[index].name, ""
        try:
            data = manifest.read(index)
            digest = hashlib.sha256(data).hexdigest()
            return digest, decode(data, name).size if pixels else None, ""
        except DataError as error:
            return digest, None, str(error)

    return Loader(manifest, threads=threads).map(look, range(len(manifest)))


def _images(manifest: Manifest, facts: Sequence[Fact]) -> dict[str, Any]:
    sizes = [size for _, size, _ in facts if size is not None]
    broken = [reason for _, _, reason in facts if reason]
    first: dict[str, str] = {}
    repeats = []
    for sample, (digest, _, _) in zip(manifest.samples, facts, strict=True):
        if digest and first.setdefault(digest, sample.name) != sample.name:
            repeats.append([shown(first[digest]), shown(sample.name)])
    return {
        "count": len(manifest),
        "bytes": sum(s.size for s in manifest.samples),
        "width": _spread([w for w, _ in sizes]),
        "height": _spread([h for _, h in sizes]),
        "broken": {"count": len(broken), "first": broken[:_LISTED]},
        "same_file": {"count": len(repeats), "first": repeats[:_LISTED]},
    }


def _spread(values: Sequence[int]) -> dict[str, float] | None:
    if not values:
        return None
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def _classes(manifest: Manifest) -> dict[str, Any] | None:
    if manifest.labels is None:
        return None
    counts = Counter(manifest.labels.tolist())
    by_name = [(name, counts[i]) for i, name in enumerate(manifest.classes)]
    return {
        "count": len(manifest.classes),
        "empty": [name for name, count in by_name if not count],
        "smallest": min(by_name, key=lambda pair: pair[1]),
        "largest": max(by_name, key=lambda pair: pair[1]),
        "images": by_name,
    }


def _captions(manifest: Manifest, tokenize: Tokenize | None) -> dict[str, Any]:
    counts = Counter(text for s in manifest.samples for text in s.captions)
    distinct = list(counts)
    repeated = [[text, count] for text, count in counts.most_common(_LISTED) if count > 1]
    return {
        "count": counts.total(),
        "distinct": len(distinct),
        "per_image": _spread([len(s.captions) for s in manifest.samples]),
        "words": _spread([len(text.split()) for text in distinct]),
        "repeated": {"count": sum(count for count in counts.values() if count > 1), "first": repeated},
        "too_long": _too_long(distinct, tokenize) if tokenize is not None else None,
    }


def _too_long(texts: Sequence[str], tokenize: Tokenize) -> dict[str, Any] | None:
    """Captions that leave no room in the context: the end of most of them is cut off."""
    long: list[str] = []
    empty = tokenize([""])
    context = empty.shape[1]
    for start in range(0, len(texts), 1000):
        part = texts[start : start + 1000]
        tokens = tokenize(part)
        if tokens.shape[1] != context:  # a tokenizer without a fixed length cuts nothing that could be seen
            return None
        padding = empty[0, -1]
        long.extend(text for text, full in zip(part, (tokens[:, -1] != padding).tolist(), strict=True) if full)
    return {"context": context, "count": len(long), "first": [shown(text) for text in long[:_LISTED]]}


def _collisions(manifest: Manifest, batch_size: int) -> dict[str, float]:
    """Expected pairs of samples in a batch with the same caption (without captions: the same class).

    Each sample draws one of its captions; with ``q`` the chance that a sample draws a caption, two
    different samples agree on it with the chance ``((sum q)^2 - sum q^2) / (n (n - 1))``.
    """
    n = len(manifest)
    sums: Counter[str | int | None] = Counter()
    squares: Counter[str | int | None] = Counter()
    for s in manifest.samples:
        choices: Sequence[str | int | None] = s.captions or (s.label,)
        for choice in choices:
            sums[choice] += 1 / len(choices)  # type: ignore[assignment]
            squares[choice] += 1 / len(choices) ** 2  # type: ignore[assignment]
    agree = sum(sums[c] ** 2 - squares[c] for c in sums) / (n * (n - 1)) if n > 1 else 0.0
    size = min(batch_size, n)
    return {"batch_size": size, "chance": agree, "pairs_a_batch": agree * size * (size - 1) / 2}


def _leaks(manifest: Manifest, hashes: Sequence[str], against: Manifest, threads: int | None) -> dict[str, Any]:
    here = {digest: s.name for digest, s in zip(hashes, manifest.samples, strict=True) if digest}
    other = [fact[0] for fact in _scan(against, threads, pixels=False)]
    shared = [[shown(here[d]), shown(s.name)] for d, s in zip(other, against.samples, strict=True) if d in here]
    return {"count": len(shared), "of": len(against), "first": shared[:_LISTED]}


def inspection_text(found: dict[str, Any]) -> str:
    """What `inspect_data` returned, for people: a few lines, problems last."""
    images, classes, captions = found["images"], found["classes"], found["captions"]
    lines = [f"{images['count']:,} images, {images['bytes'] / 1e6:,.1f} MB"]
    if images["width"]:
        lines.append(f"width {_range(images['width'])}, height {_range(images['height'])} pixels")
    if classes:
        (low, fewest), (high, most) = classes["smallest"], classes["largest"]
        lines.append(f"{classes['count']:,} classes, from {fewest:,} ({shown(low)}) to {most:,} ({shown(high)}) images")
    if captions:
        lines.append(
            f"{captions['count']:,} captions, {captions['distinct']:,} distinct, {_range(captions['words'])} words"
        )
    if found["collisions"]:
        c = found["collisions"]
        lines.append(f"{c['pairs_a_batch']:.2f} pairs with the same caption expected in a batch of {c['batch_size']}")
    return "\n".join([*lines, *(f"! {problem}" for problem in problems(found))])


def problems(found: dict[str, Any]) -> list[str]:
    """One line for each thing to look at."""
    images, classes, captions, leaks = (found[k] for k in ("images", "classes", "captions", "leaks"))
    lines = list(found["warnings"])
    if images["broken"]["count"]:
        lines.append(f"{images['broken']['count']} broken images: {images['broken']['first'][0]}")
    if images["same_file"]["count"]:
        one, two = images["same_file"]["first"][0]
        lines.append(f"{images['same_file']['count']} images occur twice: {one} is {two}")
    if classes and classes["empty"]:
        lines.append(f"{len(classes['empty'])} classes have no image: {first_five(classes['empty'])}")
    if captions and captions["repeated"]["count"]:
        text, count = captions["repeated"]["first"][0]
        lines.append(f"{captions['repeated']['count']} captions are not unique: {shown(text)!r} occurs {count} times")
    if captions and captions["too_long"] and captions["too_long"]["count"]:
        long = captions["too_long"]
        lines.append(
            f"{long['count']} captions fill the context of {long['context']} tokens: their ends may be cut off"
        )
    if leaks and leaks["count"]:
        one, two = leaks["first"][0]
        lines.append(f"{leaks['count']} of {leaks['of']} images of the other set are in this one: {one} is {two}")
    return lines


def _range(spread: dict[str, float]) -> str:
    return f"{spread['min']:g} to {spread['max']:g} (median {spread['median']:g})"
