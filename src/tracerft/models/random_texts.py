"""Token sequences that mean nothing, framed as a tokenizer frames its captions (Lipsum-FT, Nam et al. 2024).

Legend: L tokens of the context; a frame is what surrounds the text: start, end and padding.
"""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tracerft.errors import ArgumentError
from tracerft.models.encoder import in_image_tower

Tokenize = Callable[[Sequence[str]], Tensor]


def vocabulary_size(model: nn.Module) -> int:
    """Number of token ids that a text tower knows: the rows of its largest table of embeddings.

    Raises:
        ArgumentError: if it has none, or the towers cannot be told apart.
    """
    of_image = in_image_tower(model)
    # The largest: positions are kept in such a table, too.
    tables = [m.num_embeddings for n, m in model.named_modules() if isinstance(m, nn.Embedding) and not of_image(n)]
    if not tables:
        raise ArgumentError(
            f"a text tower with an nn.Embedding is needed for random texts; {type(model).__name__} has none"
        )
    return max(tables)


def random_texts(
    tokenize: Tokenize, vocab_size: int, count: int = 80, length: int = 8, *, seed: int, step: int
) -> Tensor:
    """Draw texts of uniform token ids: a pure function of the arguments, so the same on all ranks and after a resume.

    Args:
        tokenize: captions to ``(N, L)`` token ids.
        vocab_size: ids are drawn from [0, vocab_size), without those of the frame.
        count: M texts.
        length: random ids a text, >= 1.
        seed: of the run.
        step: optimiser step, from 0.

    Returns:
        ``(count, L)`` int64 on the CPU: start (if the tokenizer has one), ``length`` ids, end, padding.

    Raises:
        ArgumentError: if `count` or `length` is below 1, the tokenizer does not show where the text of a caption
            stands, or no id is left to draw.

    Note:
        The published code draws CLIP's from [0, 49406); here its padding, id 0, is left out too, since other text
        towers do not look at theirs.
    """
    if count < 1 or length < 1:
        raise ArgumentError(f"`count` and `length` must be at least 1; got {count} and {length}")
    probe, first = _probe(tokenize, length)
    special = torch.cat([probe[:first], probe[first + length :]])
    drawable = torch.ones(vocab_size, dtype=torch.bool)
    drawable[special[special < vocab_size]] = False
    ids = drawable.nonzero().flatten()
    if len(ids) == 0:
        raise ArgumentError(f"`vocab_size` must leave ids beside start, end and padding; got {vocab_size}")
    texts = probe.repeat(count, 1)
    generator = _generator(seed, step)
    texts[:, first : first + length] = ids[torch.randint(len(ids), (count, length), generator=generator)]
    return texts


def _probe(tokenize: Tokenize, length: int) -> tuple[Tensor, int]:
    """A caption of ``length`` text tokens, ``(L,)``, and the place of the first of them.

    Text is where captions of two letters differ. Letters apart are words of one token each; a tokenizer of characters
    sees the blanks between them, and gets its letters in one word.
    """
    for blank in (" ", ""):
        one, other = tokenize([blank.join("a" * length), blank.join("b" * length)]).long().cpu()
        places = (one != other).nonzero().flatten()
        if len(places) == length and int(places[-1] - places[0]) == length - 1:
            return one, int(places[0])
    raise ArgumentError(
        f"`tokenize` does not show {length} places in a row that carry text; got {one.tolist()[: length + 4]} for a "
        "repeated letter; use a longer context or another model"
    )


def _generator(seed: int, step: int) -> torch.Generator:
    """A generator that shares no stream with data order, dropout or another step."""
    key = hashlib.sha256(f"random texts of run {seed}, step {step}".encode()).digest()[:8]
    return torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)  # what fits a signed 64-bit integer
