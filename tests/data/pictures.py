"""Images and tars made on the spot."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from tracerft.types import ImageSpec

SPEC = ImageSpec((32, 32), (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
EMOJI = next(
    (p for p in (parent / "shared/data/emoji" for parent in Path(__file__).resolve().parents) if p.is_dir()), None
)


def picture(width: int = 40, height: int = 30, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Smooth colour with a little noise, so that resampling has something to do."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (3 + k) + seed) * np.cos(y / (4 + k)) for k in range(3)]
    pixels = 127 + 100 * np.stack(waves, -1) + rng.normal(0, 8, (height, width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image | None = None, kind: str = "PNG", **options) -> bytes:
    """The bytes of an image file."""
    out = io.BytesIO()
    (image or picture()).save(out, kind, **options)
    return out.getvalue()


def put(path: Path, seed: int = 0, **size) -> Path:
    """Write a picture; its folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(picture(seed=seed, **size)))
    return path


def class_set(folder: Path, names=("cat", "dog"), each: int = 3) -> Path:
    """A folder of class folders, all images different."""
    for c, name in enumerate(names):
        for i in range(each):
            put(folder / name / f"{i}.png", seed=100 * c + i)
    return folder


def table(folder: Path, text: str | bytes, name: str = "captions.csv", images=("a.png", "b.png")) -> Path:
    """A table with images beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        put(folder / image, seed=i)
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def tar(path: Path, members) -> Path:
    """A tar of ``(name, bytes)`` or ``TarInfo`` members."""
    with tarfile.open(path, "w") as out:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                out.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            out.addfile(info, io.BytesIO(member[1]))
    return path


def letters(texts):
    """A tokenizer of eight bytes, padded with 0."""
    import torch

    rows = [list(text.encode()[:8]) for text in texts]
    return torch.tensor([row + [0] * (8 - len(row)) for row in rows])
