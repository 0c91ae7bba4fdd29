"""Decoding by the rule, transforms by the reference."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2

from tests.data.pictures import SPEC, encoded, picture
from tracerft.data.images import crop_box, decode, eval_image, normalise, to_pixels, train_pixels
from tracerft.data.sampling import generator
from tracerft.errors import DataError
from tracerft.types import ImageSpec

SIZES = [(500, 375), (375, 500), (33, 32), (32, 32), (20, 90), (1000, 37), (224, 301)]


def saved(image: Image.Image, kind: str = "PNG", **options) -> Image.Image:
    """Through the encoder and our decoder."""
    return decode(encoded(image, kind, **options), "x")


def grey(values, mode: str) -> Image.Image:
    """An image of more than eight bits."""
    return Image.fromarray(np.array([values], dtype={"I;16": np.uint16, "F": np.float32, "I": np.int32}[mode]))


@pytest.mark.parametrize("resize", ["shortest", "squash"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("target", "interpolation"), [((32, 32), "bicubic"), ((48, 48), "bilinear")])
def test_eval_equals_torchvision_on_pil(size, target, interpolation, resize):
    """Within 1/255 of resize, centre crop, ToTensor, Normalize: torchvision v1 and v2."""
    spec = ImageSpec(target, SPEC.mean, SPEC.std, interpolation, resize)
    image = picture(*size)
    mode = transforms.InterpolationMode(interpolation)
    ours = normalise(to_pixels(eval_image(image, spec))[None], spec)[0]
    scale = torch.tensor(SPEC.std).view(3, 1, 1)
    for tv in (transforms, v2):
        steps = [tv.Resize(target, mode)] if resize == "squash" else [tv.Resize(target[0], mode), tv.CenterCrop(target)]
        pixels = transforms.Compose(steps)(image)
        theirs = transforms.Normalize(SPEC.mean, SPEC.std)(transforms.ToTensor()(pixels))
        assert ((ours - theirs) * scale).abs().max() <= 1.0001 / 255


@pytest.mark.parametrize("size", SIZES)
def test_eval_equals_open_clip(size):
    """The pipeline that open_clip builds, square and not."""
    from open_clip.transform import image_transform

    for target in [(32, 32), (32, 48), (48, 32)]:
        spec = ImageSpec(target, SPEC.mean, SPEC.std)
        theirs = image_transform(target, is_train=False, mean=SPEC.mean, std=SPEC.std)(picture(*size))
        ours = normalise(to_pixels(eval_image(picture(*size), spec))[None], spec)[0]
        assert ((ours - theirs) * torch.tensor(SPEC.std).view(3, 1, 1)).abs().max() <= 1.0001 / 255


@pytest.mark.parametrize("size", SIZES)
def test_crop_equals_torchvision_under_the_same_seed(size):
    """`RandomResizedCrop` draws the same box from the same generator state, and ours leaves the global state alone.

    Of its second version, which keeps eight bits: on tensors its values are ours; on Pillow's images they are a
    rounding away, and seldom.
    """
    image = picture(*size)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    reference = v2.RandomResizedCrop(SPEC.size, scale=(0.9, 1.0), interpolation=transforms.InterpolationMode.BICUBIC)
    for sample in range(5):
        with torch.random.fork_rng():
            torch.set_rng_state(generator(0, 1, sample, "crop").get_state())
            theirs = reference(tensor)
            torch.set_rng_state(generator(0, 1, sample, "crop").get_state())
            pillow = to_pixels(reference(image))
        before = torch.get_rng_state()
        ours = train_pixels(image, SPEC, generator(0, 1, sample, "crop"))
        assert torch.equal(before, torch.get_rng_state())
        assert torch.equal(ours, theirs.permute(1, 2, 0))
        difference = (ours.int() - pillow.int()).abs()
        assert difference.max() <= 1
        assert difference.float().mean() < 0.02


def test_crops_depend_on_every_part_of_the_key():
    """Another epoch, sample or seed is another crop; the same key is the same crop."""
    boxes = [
        crop_box((320, 300), generator(*key, "crop")) for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)]
    ]
    assert len(set(boxes)) == 4
    assert boxes[0] == boxes[4]


def test_a_strip_costs_no_more_than_a_square():
    """1 x 20,000 pixels would be 32 x 640,000 if resized whole."""
    strip = picture(1, 20_000)
    assert eval_image(strip, SPEC).size == (32, 32)
    assert train_pixels(strip, SPEC, generator(0, 0, 0, "crop")).shape == (32, 32, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_rotation_is_applied_once(orientation, kind):
    """The red corner ends where the camera saw it."""
    from PIL import ImageOps

    image = Image.new("RGB", (64, 32), "blue")
    image.paste("red", (0, 0, 32, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, kind, exif=exif)
    got = decode(data, "x")
    theirs = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert got.size == ((64, 32) if orientation < 5 else (32, 64))
    assert np.abs(np.asarray(got).astype(int) - np.asarray(theirs)).max() == 0


def test_alpha_is_composited_on_white():
    """Transparent is white, half transparent black is grey: RGBA, grey with alpha, palette, key colour."""
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 128))
    assert [saved(image).getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (127, 127, 127)]
    assert saved(image.convert("LA")).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putpixel((1, 0), 1)
    assert saved(palette, transparency=0).getpixel((0, 0)) == (255, 255, 255)
    assert saved(palette, transparency=bytes([255, 0])).getpixel((1, 0)) == (255, 255, 255)
    assert saved(Image.new("RGB", (1, 1), "red"), transparency=(255, 0, 0)).getpixel((0, 0)) == (255, 255, 255)
    assert saved(palette).getpixel((1, 0)) == (0, 255, 0)


def test_deep_grey_is_scaled_by_rule():
    """16 bits by 257, float in [0, 1] by 255, other floats stretched."""
    sixteen = saved(grey([0, 257, 65535, 32896], "I;16"))
    assert [sixteen.getpixel((x, 0))[0] for x in range(4)] == [0, 1, 255, 128]
    thirty_two = saved(grey([-5, 70000, 257, 0], "I"), "TIFF")
    assert [thirty_two.getpixel((x, 0))[0] for x in range(4)] == [0, 255, 1, 0]
    unit = saved(grey([0.0, 0.5, 1.0], "F"), "TIFF")
    assert [unit.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]
    wide = saved(grey([-10.0, 0.0, 10.0], "F"), "TIFF")
    assert [wide.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]
    assert saved(grey([7.0, 7.0], "F"), "TIFF").getpixel((0, 0)) == (0, 0, 0)


def test_other_modes_become_rgb():
    """One bit, grey, CMYK and the first frame of an animation."""
    assert saved(Image.new("1", (1, 1), 1)).getpixel((0, 0)) == (255, 255, 255)
    assert saved(Image.new("L", (1, 1), 9)).getpixel((0, 0)) == (9, 9, 9)
    red = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95).getpixel((8, 8))
    assert red[0] > 240
    assert max(red[1:]) < 15
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("lime", "red")]
    assert saved(frames[0], "GIF", save_all=True, append_images=frames[1:]).getpixel((0, 0)) == (0, 255, 0)
    assert saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True).getpixel((0, 0)) == (
        0,
        255,
        0,
    )


def test_size_is_checked_before_decoding(monkeypatch):
    """A bomb is refused by its header: the pixels are never loaded."""
    from PIL import ImageFile

    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(DataError, match="9000 x 9000 pixels, the limit is 80 million"):
        decode(_png_header(9_000, 9_000), "bomb.png")


def _png_header(width: int, height: int) -> bytes:
    import struct
    import zlib

    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (body, data, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_normalise_equals_to_tensor():
    """uint8 to float in one pass is ToTensor and Normalize."""
    image = picture(32, 32)
    theirs = transforms.Normalize(SPEC.mean, SPEC.std)(transforms.ToTensor()(image))
    assert torch.allclose(normalise(to_pixels(image)[None], SPEC)[0], theirs, atol=2e-6, rtol=0)
