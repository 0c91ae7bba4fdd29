"""An image, as a model is shown it, in a few kilobytes for a person to look at."""

import io

from PIL import Image
from torch import Tensor

SIDE = 96  # px, the longer side at most
QUALITY = 80  # of JPEG; noise of this size takes 7 kB, a drawing 3


def thumbnail(pixels: Tensor) -> bytes:
    """A JPEG that holds the picture and nothing else: no name, place or date that came with the file.

    Small images are enlarged by a whole factor, since JPEG keeps colour at half the size.

    Args:
        pixels: ``(H, W, 3)`` uint8.
    """
    image = Image.fromarray(pixels.numpy())
    factor = SIDE // max(image.size)
    if factor > 1:
        image = image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
    image.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
