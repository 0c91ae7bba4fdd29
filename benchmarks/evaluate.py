"""A suite for a start, a student, a teacher and the WiSE points between, together and one model after the other.

    python benchmarks/evaluate.py [--images 16] [--points 11] [--width 256] [--layers 4] [--rounds 5] [--out FILE]

Three splits of JPEGs of 500 x 375 in eight classes, CLIP's seven simple templates, and the small open_clip model of the
step. Each call reads the suite anew, as each command would; ``towers alone`` is what the models do, on pixels that are
there already, where each point of the line is there too.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import open_clip
import torch
from input import photos
from step import SIZE, model
from timing import interleaved, report
from torch import Tensor, nn

from tracerft.data import loading
from tracerft.data.prompts import read_templates
from tracerft.data.suite import Split, read_suite
from tracerft.evaluating import wise_path
from tracerft.evaluation.suite import evaluate_models
from tracerft.models.open_clip import ShortTextCLIP, accept_short_text
from tracerft.types import ImageSpec

CLASSES = ("cat", "dog", "tea pot", "tree", "red car", "boat", "old house", "clock")
SPEC = ImageSpec(size=(SIZE, SIZE), mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28))


def write_suite(folder: Path, images: int) -> Path:
    """``id`` and two shifts, ``images`` each, in class folders."""
    encoded = iter(photos(3 * images))
    for split in ("test", "sketch", "phone"):
        for number in range(images):
            path = folder / split / CLASSES[number % len(CLASSES)] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(next(encoded))
    suite = folder / "suite.yaml"
    suite.write_text("id: {data: test}\nshifts:\n  sketch: {data: sketch}\n  phone: {data: phone}\n")
    return suite


def swept(width: int, layers: int, points: int) -> dict[str, nn.Module]:
    """A start, a student and a teacher near it, and the points from start to student, the ends left out."""
    start, generator = accept_short_text(model(width, layers)).eval(), torch.Generator().manual_seed(1)
    models = {"pretrained": start}
    for name in ("student", "teacher"):
        state = {k: v + 0.01 * torch.randn(v.shape, generator=generator) for k, v in start.state_dict().items()}
        models[name] = accept_short_text(model(width, layers)).eval()
        models[name].load_state_dict(state)
    return models | wise_path("student", start, models["student"], points)


class Ready:
    """Images of a split whose pixels are made already."""

    def __init__(self, split: Split) -> None:
        self.sha256, self.batches = split.sha256, list(split.images.image_batches())

    def __len__(self) -> int:
        return sum(map(len, self.batches))

    def image_batches(self) -> Iterator[Tensor]:
        """All of them."""
        yield from self.batches


def counted(call: Callable[[], object]) -> dict[str, int]:
    """How many images a call decodes and how many go through an image tower."""
    found, decode, encode = {"decoded": 0, "embedded": 0}, loading.decode, ShortTextCLIP.encode_image

    def counted_decode(data: bytes, name: str) -> object:
        found["decoded"] += 1
        return decode(data, name)

    def counted_encode(self: nn.Module, image: Tensor, normalize: bool = False) -> Tensor:
        found["embedded"] += len(image)
        embedded: Tensor = encode(self, image, normalize)
        return embedded

    loading.decode, ShortTextCLIP.encode_image = counted_decode, counted_encode  # type: ignore[assignment]
    try:
        call()
    finally:
        loading.decode, ShortTextCLIP.encode_image = decode, encode
    return found


def main() -> None:
    """Time, count and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--points", type=int, default=11)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = swept(options.width, options.layers, options.points)
    tokenize, templates = open_clip.tokenizer.SimpleTokenizer(), read_templates("simple")
    with tempfile.TemporaryDirectory() as folder:
        suite = write_suite(Path(folder), options.images)

        def splits() -> Mapping[str, Split]:
            return read_suite(suite, SPEC, templates=templates, classes=None).splits()

        there = {name: model.eval() for name, model in models.items()}  # of a point the model that it stands for
        made = {name: Split(Ready(s), s.labels, s.prompts) for name, s in splits().items()}
        sides: dict[str, Callable[[], object]] = {
            "together": lambda: evaluate_models(models, splits(), tokenize),
            "one by one": lambda: [evaluate_models({n: m}, splits(), tokenize) for n, m in models.items()],
            "towers alone": lambda: evaluate_models(there, made, tokenize),
        }
        counts = {name: counted(call) for name, call in sides.items()}
        taken = interleaved(sides, options.rounds)
    compared = [("one by one", "together"), ("together", "towers alone")]
    settings = {name: getattr(options, name) for name in ("points", "width", "layers")}
    settings |= {"images": 3 * options.images, "models": len(models)}
    report("evaluate", taken, compared, options.out, settings=settings, counts=counts)


if __name__ == "__main__":
    main()
