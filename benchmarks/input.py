"""Encoded image to normalised pixels, one core: ours, and Pillow with torchvision's first transforms as most run it.

    python benchmarks/input.py [--images 32] [--rounds 7] [--out FILE]

The images are synthetic JPEGs of 500 x 375 with the fine grain of photographs; a model takes 224 x 224. Ours decodes
with Pillow too, as its limits and messages are what keeps bad files out, so decoding bounds the ratio; torchvision's
decoder is timed beside it, and whether its pixels are the same is told.
"""

import argparse
import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timing import interleaved, report
from torch import Tensor
from torchvision import transforms
from torchvision.io import decode_image

from tracerft.data.images import decode, eval_image, normalise, to_pixels, train_pixels
from tracerft.data.sampling import generator
from tracerft.types import ImageSpec

SPEC = ImageSpec(size=(224, 224), mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28))


def photos(num: int) -> list[bytes]:
    """Smooth shapes with grain, as JPEG of quality 90."""
    found, random = [], np.random.default_rng(0)
    for _ in range(num):
        shapes = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((500, 375))
        grain = random.normal(0.0, 6.0, (375, 500, 1))
        file = io.BytesIO()
        Image.fromarray((np.asarray(shapes) + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        found.append(file.getvalue())
    return found


def torchvision_decoded(data: bytes) -> Tensor:
    """``(H, W, 3)`` uint8; deprecated since torchvision 0.29 in favour of TorchCodec, which does the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8)).permute(1, 2, 0)


def theirs(*steps: Callable[[Image.Image], Image.Image]) -> Callable[[bytes, int], Tensor]:
    """Pillow and torchvision, as open_clip composes them."""
    whole = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(SPEC.mean, SPEC.std)])
    return lambda data, _: whole(Image.open(io.BytesIO(data)).convert("RGB"))


def main() -> None:
    """Time and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, cubic = photos(options.images), transforms.InterpolationMode.BICUBIC
    one: dict[str, Callable[[bytes, int], Tensor]] = {
        "train": lambda d, i: train_pixels(decode(d, str(i)), SPEC, generator(0, 0, i, "crop")),
        "Pillow train": theirs(transforms.RandomResizedCrop(SPEC.size, scale=(0.9, 1.0), interpolation=cubic)),
        "eval": lambda d, i: to_pixels(eval_image(decode(d, str(i)), SPEC)),
        "Pillow eval": theirs(transforms.Resize(224, interpolation=cubic), transforms.CenterCrop(224)),
    }

    def all_of(name: str) -> Callable[[], Tensor]:
        def call() -> Tensor:
            images = [one[name](encoded, i) for i, encoded in enumerate(data)]
            return torch.stack(images) if name.startswith("Pillow") else normalise(images, SPEC)

        return call

    sides: dict[str, Callable[[], object]] = {name: all_of(name) for name in one}
    sides["decode"] = lambda: [decode(encoded, str(i)) for i, encoded in enumerate(data)]
    sides["decode to pixels"] = lambda: [to_pixels(decode(encoded, str(i))) for i, encoded in enumerate(data)]
    sides["torchvision decode"] = lambda: [torchvision_decoded(encoded) for encoded in data]
    same = all(torch.equal(to_pixels(decode(encoded, "")), torchvision_decoded(encoded)) for encoded in data)
    taken = interleaved(sides, options.rounds)
    pairs = [("Pillow train", "train"), ("Pillow eval", "eval"), ("decode", "train")]
    pairs += [("decode to pixels", "torchvision decode")]
    settings = {"images": len(data), "bytes": sum(map(len, data))}
    report("input", taken, pairs, options.out, settings=settings, decoders_agree=same)


if __name__ == "__main__":
    main()
