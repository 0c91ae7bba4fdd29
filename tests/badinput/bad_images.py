"""Images that no decoder should take, and what the user should read."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from tests.data.pictures import encoded, picture


def _png(width: int, height: int, *before: bytes, bits: int = 8, colour: int = 2, rows: bytes = b"") -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = [body, *before, b"IDAT" + zlib.compress(rows), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks
    )


def _resized(data: bytes, at: int, layout: str) -> bytes:
    """An image whose header claims the widest and highest that its format can say."""
    limit = (1 << (8 * struct.calcsize(layout) // 2)) - 1
    size = struct.pack(layout, *[min(limit, 65_500)] * 2)
    return data[:at] + size + data[at + len(size) :]


def _float_tiff(value: float) -> bytes:
    return encoded(Image.fromarray(np.full((4, 4), value, np.float32)), "TIFF")


def _eps() -> bytes:
    out = io.BytesIO()
    picture().save(out, "EPS")
    return out.getvalue()


_JPEG = encoded(picture(), "JPEG")
_PNG = encoded(picture())
_GIF, _BMP = encoded(picture(), "GIF"), encoded(picture(), "BMP")
_BOMB = zlib.compress(bytes(100 << 20))  # 100 MiB in 100 KiB

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
    "PNG without pixels": (_png(10, 10), r"damaged or truncated"),
    "PNG of no width": (_png(0, 10), r"damaged|known format"),
    "truncated GIF": (encoded(picture(), "GIF")[:-300], r"damaged or truncated"),
    "truncated WebP": (encoded(picture(), "WEBP")[:100], r"damaged or truncated|known format"),
    "truncated TIFF": (encoded(picture(), "TIFF")[:100], r"damaged or truncated|known format"),
    "truncated BMP": (encoded(picture(), "BMP")[:100], r"damaged or truncated"),
    "PPM of no end": (b"P6 999999999 999999999 255\n", r"pixels, the limit is 80 million"),
    "PPM with words": (b"P6 ten ten 255\n", r"damaged or truncated|known format"),
    "huge": (_png(9_400, 9_400), r"9400 x 9400 pixels, the limit is 80 million"),
    "bomb": (_png(50_000, 50_000), r"2500000000 pixels, the limit is 80 million"),
    "whole picture in black and white": (
        _png(9_400, 9_400, bits=1, colour=0, rows=bytes(9_400 * (1 + 9_400 // 8))),
        r"9400 x 9400 pixels, the limit is 80 million",
    ),
    "bomb of text": (_png(10, 10, b"zTXtnote\0\0" + _BOMB), r"damaged or truncated"),
    "bomb of a colour profile": (_png(10, 10, b"iCCPsRGB\0\0" + _BOMB), r"damaged or truncated"),
    "JPEG of 65,500 x 65,500": (_resized(_JPEG, _JPEG.index(b"\xff\xc0") + 5, ">HH"), r"pixels, the limit is 80"),
    "GIF of 65,500 x 65,500": (_resized(_GIF, 6, "<HH"), r"pixels, the limit is 80 million"),
    "BMP of 65,500 x 65,500": (_resized(_BMP, 18, "<II"), r"pixels, the limit is 80 million"),
    "photo of a telephone (HEIC)": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", r"not an image of a known format"),
    "film": (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(100), r"not an image of a known format"),
    "pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", r"known format"),
    "archive": (b"PK\3\4" + bytes(26) + b"a.png", r"not an image of a known format"),
    "float with NaN": (_float_tiff(float("nan")), r"NaN or infinity"),
    "float with infinity": (_float_tiff(float("inf")), r"NaN or infinity"),
}
