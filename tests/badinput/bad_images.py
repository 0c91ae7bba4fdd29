"""Images that no decoder should take, and what the user should read."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from tests.data.pictures import encoded, picture


def _png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [body, b"IDAT" + zlib.compress(b""), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks
    )


def _float_tiff(value: float) -> bytes:
    return encoded(Image.fromarray(np.full((4, 4), value, np.float32)), "TIFF")


def _eps() -> bytes:
    out = io.BytesIO()
    picture().save(out, "EPS")
    return out.getvalue()


_JPEG = encoded(picture(), "JPEG")
_PNG = encoded(picture())

IMAGES: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", r"the file is empty"),
    "web page": (b"\n<!DOCTYPE html><html>", r"a web page or SVG, not an image"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", r"a web page or SVG"),
    "text": (b"hello", r"not an image of a known format"),
    "zeros": (bytes(1000), r"not an image of a known format"),
    "PDF": (b"%PDF-1.4 ...", r"not an image of a known format"),
    "EPS, which would start a program": (_eps(), r"not an image of a known format"),
    "truncated JPEG": (_JPEG[: len(_JPEG) // 2], r"damaged or truncated"),
    "JPEG header": (_JPEG[:30], r"damaged or truncated|known format"),
    "truncated PNG": (_PNG[: len(_PNG) // 2], r"damaged or truncated"),
    "PNG signature": (_PNG[:8], r"damaged or truncated|known format"),
    "PNG with flipped bits": (_PNG[:60] + bytes(b ^ 0xFF for b in _PNG[60:90]) + _PNG[90:], r"damaged or truncated"),
    "PNG without pixels": (_png_header(10, 10), r"damaged or truncated"),
    "PNG of no width": (_png_header(0, 10), r"damaged|known format"),
    "truncated GIF": (encoded(picture(), "GIF")[:-300], r"damaged or truncated"),
    "truncated WebP": (encoded(picture(), "WEBP")[:100], r"damaged or truncated|known format"),
    "truncated TIFF": (encoded(picture(), "TIFF")[:100], r"damaged or truncated|known format"),
    "truncated BMP": (encoded(picture(), "BMP")[:100], r"damaged or truncated"),
    "PPM of no end": (b"P6 999999999 999999999 255\n", r"pixels, the limit is 80 million"),
    "PPM with words": (b"P6 ten ten 255\n", r"damaged or truncated|known format"),
    "huge": (_png_header(9_400, 9_400), r"9400 x 9400 pixels, the limit is 80 million"),
    "bomb": (_png_header(50_000, 50_000), r"2500000000 pixels, the limit is 80 million"),
    "float with NaN": (_float_tiff(float("nan")), r"NaN or infinity"),
    "float with infinity": (_float_tiff(float("inf")), r"NaN or infinity"),
}
