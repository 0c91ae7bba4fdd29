"""Encoded bytes to RGB, safely, and RGB to what a model wants.

Legend: N images, H and W pixels.
"""

import io
import re
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from tracerft.data.text import shown
from tracerft.errors import DataError, one_of
from tracerft.types import ImageSpec

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # nothing that runs another program, such as EPS
MAX_PIXELS = 80_000_000  # 240 MB as RGB; below the size at which Pillow itself warns
CROP_SCALE = (0.9, 1.0)  # the training crop of CLIP finetuning (open_clip's default)
CROP_RATIO = (3 / 4, 4 / 3)
_LOG_RATIO = torch.log(torch.tensor(CROP_RATIO)).tolist()

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An upright RGB image.

    Alpha is composited on white; palettes and CMYK are converted; 16-bit grey is divided by 257 (32-bit
    integers are clipped to 16 bits first); float grey in [0, 1] is scaled by 255, any other range is
    stretched to 0-255; of an animation the first frame is taken; EXIF orientation is applied.

    Args:
        data: the encoded image.
        name: for messages.
        max_pixels: limit of width times height, checked before any pixel is decoded.

    Raises:
        DataError: if it is empty, truncated, too large, or not one of `FORMATS`.
    """
    if not data:
        raise DataError(f"{shown(name)}: the file is empty; restore it or take it out")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise DataError(_too_large(name, f"{width} x {height} pixels", max_pixels))
            image.load()
            rgb = _to_rgb(image)
            turn = _UPRIGHT.get(_orientation(image))  # after load, which turns TIFF by itself
            return rgb if turn is None else rgb.transpose(turn)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(_too_large(name, f"{_pixels_in(error)} pixels", max_pixels)) from error
    except Exception as error:  # damaged files end in some twenty types inside the decoders
        raise DataError(f"{shown(name)}: {_reason(data, error)}; restore it or take it out") from error


def _too_large(name: str, size: str, max_pixels: int) -> str:
    return f"{shown(name)}: {shown(size)}, the limit is {max_pixels / 1e6:g} million; scale it down or take it out"


def _pixels_in(error: Exception) -> str:
    found = re.search(r"\((\d+) pixels\)", str(error))
    return found[1] if found else "too many"


def _reason(data: bytes, error: Exception) -> str:
    if data[:200].lstrip()[:1] == b"<":
        return "a web page or SVG, not an image"
    if isinstance(error, UnidentifiedImageError):
        return f"not an image of a known format ({', '.join(FORMATS)})"
    return f"damaged or truncated image ({shown(error, 80)})"


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF does not make the picture unreadable
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(image), image.mode)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _eight_bits(values: NDArray[np.generic], mode: str) -> NDArray[np.uint8]:
    """Grey of more than eight bits as eight; the rule stands in `decode`."""
    grey = values.astype(np.float64)
    if mode != "F":
        return np.rint(np.clip(grey, 0, 65535) / 257).astype(np.uint8)
    if not np.isfinite(grey).all():
        raise ValueError("NaN or infinity in a float image")
    low, high = float(grey.min()), float(grey.max())
    if low < 0.0 or high > 1.0:
        grey = (grey - low) / ((high - low) or 1.0)
    return np.rint(grey * 255).astype(np.uint8)


def check_spec(spec: ImageSpec) -> None:
    """Refuse a spec that no transform here fulfils.

    Raises:
        ArgumentError: for an unknown interpolation or resize rule.
    """
    one_of("interpolation", spec.interpolation, tuple(_FILTERS))
    one_of("resize", spec.resize, ("shortest", "squash"))


def eval_image(image: Image.Image, spec: ImageSpec) -> Image.Image:
    """Resize and crop the middle, or squash, as open_clip evaluates.

    Only the pixels that remain are resampled, so a strip of 1 x 50,000 pixels costs no more than a
    square; the values are those of resizing the whole and cropping then.
    """
    height, width = spec.size
    if spec.resize == "squash":
        return image.resize((width, height), _FILTERS[spec.interpolation])
    scaled_width, scaled_height = _scaled(image.size, spec.size)
    left, top = round((scaled_width - width) / 2), round((scaled_height - height) / 2)
    x, y = image.width / scaled_width, image.height / scaled_height
    box = (left * x, top * y, min((left + width) * x, image.width), min((top + height) * y, image.height))
    return image.resize((width, height), _FILTERS[spec.interpolation], box=box)


def _scaled(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """Width and height after the shorter side fits; rounded as torchvision (square) and timm (else) do."""
    width, height = size
    if target[0] == target[1]:
        long = int(target[0] * max(size) / min(size))
        return (target[0], long) if width <= height else (long, target[0])
    ratio = min(height / target[0], width / target[1])
    return max(round(width / ratio), target[1]), max(round(height / ratio), target[0])


def train_pixels(image: Image.Image, spec: ImageSpec, generator: torch.Generator) -> Tensor:
    """A random crop of 90 to 100 % of the area, resized bicubically; no flip, since captions say left and right.

    Resized by torch, which takes a fifth of Pillow's time and differs from it by a rounding, 1 of 255, in one value of
    some hundreds. Evaluation stays with Pillow, so that its numbers do not depend on the processor.

    Args:
        image: RGB.
        spec: the size to reach.
        generator: the sample's own; the global state is never used.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    left, top, width, height = crop_box(image.size, generator)
    crop = to_pixels(image)[top : top + height, left : left + width].permute(2, 0, 1)
    resized = F.interpolate(crop[None], spec.size, mode="bicubic", antialias=True)
    return resized[0].permute(1, 2, 0)


def crop_box(size: tuple[int, int], generator: torch.Generator) -> tuple[int, int, int, int]:
    """Left, top, width and height of a random crop; ten tries, then the middle with a ratio in range.

    Area and log ratio are uniform; the draws are those of torchvision's ``RandomResizedCrop``.
    """
    full_width, full_height = size
    low, high = _LOG_RATIO
    for _ in range(10):
        area = full_width * full_height * torch.empty(1).uniform_(*CROP_SCALE, generator=generator).item()
        ratio = torch.exp(torch.empty(1).uniform_(low, high, generator=generator)).item()
        width, height = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < width <= full_width and 0 < height <= full_height:
            top = int(torch.randint(0, full_height - height + 1, (1,), generator=generator))
            left = int(torch.randint(0, full_width - width + 1, (1,), generator=generator))
            return left, top, width, height
    width = min(full_width, round(full_height * CROP_RATIO[1]))
    height = min(full_height, round(full_width / CROP_RATIO[0]))
    return (full_width - width) // 2, (full_height - height) // 2, width, height


def to_pixels(image: Image.Image) -> Tensor:
    """``(H, W, 3)`` uint8 of an RGB image."""
    return torch.from_numpy(np.array(image))


def normalise(pixels: Sequence[Tensor] | Tensor, spec: ImageSpec) -> Tensor:
    """N images of ``(H, W, 3)`` uint8 to ``(N, 3, H, W)`` float32 with the model's mean and deviation."""
    mean, std = torch.tensor(spec.mean).view(3, 1, 1), torch.tensor(spec.std).view(3, 1, 1)
    out = torch.empty(len(pixels), 3, *pixels[0].shape[:2])
    for row, image in zip(out, pixels, strict=True):
        row.copy_(image.permute(2, 0, 1))
    return out.mul_(1.0 / (255.0 * std)).sub_(mean / std)
