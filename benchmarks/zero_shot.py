"""The zero-shot head of some classes in 80 templates: ours, and open_clip's, which computes all 77 tokens.

    python benchmarks/zero_shot.py [--classes 8] [--width 256] [--layers 4] [--rounds 5] [--out FILE]

The names are those of ImageNet as open_clip lists them, the templates OpenAI's 80.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import open_clip
import torch
from step import model
from timing import interleaved, report
from torch import Tensor, nn

from tracerft.models.encoder import text_lengths
from tracerft.models.open_clip import accept_short_text
from tracerft.models.zero_shot import zero_shot_head


def tokens_computed(tower: nn.Module, run: Callable[[], object]) -> int:
    """Tokens that the first block of a text tower sees."""
    seen: list[int] = []
    block = tower.get_submodule("transformer.resblocks.0")
    handle = block.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].shape[:2].numel()))
    run()
    handle.remove()
    return sum(seen)


def prefixes_of(rows: list[list[int]]) -> int:
    """Different beginnings of the prompts, the least that a causal tower must see."""
    return len({tuple(row[:end]) for row in rows for end in range(1, len(row) + 1)})


def main() -> None:
    """Time, compare and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, default=8)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tokenize = open_clip.tokenizer.SimpleTokenizer()
    names: Sequence[str] = open_clip.IMAGENET_CLASSNAMES[:: 1000 // options.classes][: options.classes]
    templates = open_clip.OPENAI_IMAGENET_TEMPLATES
    prompts = [[template(name) for template in templates] for name in names]
    plain = model(options.width, options.layers).eval()
    cut = accept_short_text(model(options.width, options.layers)).eval()  # the same weights: one seed
    heads: dict[str, Tensor] = {}

    def ours() -> None:
        heads["ours"] = zero_shot_head(cut, tokenize, prompts)

    def theirs() -> None:
        build = open_clip.build_zero_shot_classifier
        heads["open_clip"] = build(plain, tokenize, names, templates, num_classes_per_batch=1).T

    taken = interleaved({"ours": ours, "open_clip": theirs}, options.rounds)
    tokens = tokenize([prompt for of_class in prompts for prompt in of_class])
    lengths = text_lengths(cut, tokens).tolist()
    rows = [row[:length] for row, length in zip(tokens.tolist(), lengths, strict=True)]
    more = {
        "settings": {name: getattr(options, name) for name in ("classes", "width", "layers")},
        "largest_difference": float((heads["ours"] - heads["open_clip"]).abs().max()),
        "tokens": {
            "open_clip": tokens.numel(),
            "up to the ends": sum(lengths),
            "ours": tokens_computed(cut, ours),
            "different prefixes": prefixes_of(rows),
        },
    }
    report("zero_shot", taken, [("open_clip", "ours")], options.out, **more)


if __name__ == "__main__":
    main()
