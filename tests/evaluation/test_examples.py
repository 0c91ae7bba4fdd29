"""Which images are kept for the report, how large they are, and what happens when one is gone."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.pictures import SPEC, class_set
from tracerft.data.digits import Digits, DigitSet
from tracerft.data.manifest import read_manifest
from tracerft.data.suite import Split, of_digits, of_manifest
from tracerft.data.thumbnails import SIDE, thumbnail
from tracerft.evaluation.examples import MOST, disagreements, save_examples
from tracerft.models.weights import load_tensors, save_tensors


class Noise:
    """As many images of noise, the least that JPEG can make smaller."""

    sha256 = ""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def shown(self, index):
        """As large as a thumbnail, keyed by the position."""
        rng = np.random.default_rng(index)
        return torch.from_numpy(rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8))


class Unseen:
    """Images that cannot be shown."""

    sha256 = ""

    def __len__(self) -> int:
        return 40


def predict(folder, split: str, n: int, num_classes: int = 3) -> None:
    """Made-up predictions: of 4 images in a row one is forgotten, one learned, one right and one wrong throughout."""
    labels = torch.arange(n) % num_classes
    sure = torch.linspace(1, 5, n)
    for model, right in (("pretrained", (True, False, True, False)), ("student", (False, True, True, False))):
        hit = torch.tensor(right)[torch.arange(n) % 4]
        logits = torch.zeros(n, num_classes)
        logits[torch.arange(n), torch.where(hit, labels, (labels + 1) % num_classes)] = sure
        (folder / model).mkdir(parents=True, exist_ok=True)
        save_tensors(folder / model / f"{split}.safetensors", {"logits": logits, "labels": labels})


def kept(folder, split: str) -> dict[int, Image.Image]:
    """The images of a file by position, decoded."""
    tensors = load_tensors(folder / "examples" / f"{split}.safetensors")
    data, found = tensors["jpeg"].numpy().tobytes(), {}
    for index, size in zip(tensors["index"].tolist(), tensors["sizes"].tolist(), strict=True):
        part, data = data[:size], data[size:]
        with Image.open(io.BytesIO(part)) as image:
            assert image.format == "JPEG"
            found[index] = image.convert("RGB")
    assert data == b""
    return found


def test_the_largest_changes_of_the_true_class_are_chosen():
    """Against a plain float64 loop; forgotten before learned, and no image on which both agree."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 200)
    start, end = (3 * rng.normal(size=(200, 4)).astype(np.float32) for _ in range(2))
    lost, won = [], []
    for i, (a, b, label) in enumerate(zip(start.astype(float), end.astype(float), labels, strict=True)):
        before, after = (np.exp(row[label]) / np.exp(row).sum() for row in (a, b))
        if a.argmax() == label and b.argmax() != label:
            lost.append((after - before, i))
        if b.argmax() == label and a.argmax() != label:
            won.append((before - after, i))
    assert min(len(lost), len(won)) > 5
    for each in (5, 200):
        found = disagreements(*map(torch.from_numpy, (start, end, labels)), each)
        assert found == [i for _, i in sorted(lost)[:each]] + [i for _, i in sorted(won)[:each]]


def test_of_equal_changes_the_first_are_chosen():
    """However many there are; so two evaluations keep the same bytes."""
    start = torch.tensor([[1.0, 0.0]]).repeat(100, 1)
    labels = torch.zeros(100, dtype=torch.int64)
    assert disagreements(start, -start, labels, 3) == [0, 1, 2]
    assert disagreements(-start, start, labels, 3) == [0, 1, 2]


def test_a_thumbnail_is_small_and_looks_like_the_image():
    """At most 96 px, the ratio kept; small images by a whole factor, so that a colour stays where it was."""
    y, x = np.mgrid[0:200, 0:300]
    smooth = np.stack([x * 255 // 300, y * 255 // 200, np.full_like(x, 90)], -1).astype(np.uint8)
    image = Image.open(io.BytesIO(thumbnail(torch.from_numpy(smooth))))
    assert image.size == (SIDE, SIDE * 2 // 3)
    assert np.abs(np.asarray(image.resize((300, 200))).astype(int) - smooth).mean() < 4
    digit = torch.zeros(28, 28, 3, dtype=torch.uint8)
    digit[10:18, 10:18, 0] = 255
    image = np.asarray(Image.open(io.BytesIO(thumbnail(digit)))).astype(int)
    assert image.shape == (84, 84, 3)
    assert np.abs(image - digit.numpy().astype(int).repeat(3, 0).repeat(3, 1)).mean() < 3


def test_the_thumbnails_are_those_of_the_images(tmp_path):
    """A folder and coloured digits: each decoded beside the pixels of the batch that models see."""
    class_set(tmp_path / "photos", ("cat", "dog", "tea pot"), 8)
    rng = np.random.default_rng(1)
    digits = Digits(rng.integers(0, 2, (24, 28, 28)).astype(np.uint8) * 255, np.arange(24) % 10)
    splits = {
        "id": of_manifest(read_manifest(tmp_path / "photos"), SPEC, ["a {}."]),
        "digits": of_digits(DigitSet(digits, "coloured")),
    }
    for name in splits:
        predict(tmp_path, name, 24)
    save_examples(tmp_path, splits, 2)
    for name, split in splits.items():
        images = torch.cat(list(split.images.image_batches())).permute(0, 2, 3, 1)
        if name == "id":
            images = images * torch.tensor(SPEC.std) + torch.tensor(SPEC.mean)
        found = kept(tmp_path, name)
        assert list(found) == [20, 16, 21, 17]  # the surest ones
        for place, image in found.items():
            pixels = np.asarray(image.resize(images.shape[2:0:-1], Image.Resampling.BOX)).astype(float)
            away = [np.abs(pixels - 255 * other.numpy()).mean() for other in images]
            assert int(np.argmin(away)) == place
            assert away[place] < 25  # noise of two colours is the worst that JPEG can get


def test_neither_held_out_nor_unlabelled_nor_unseen_images_are_kept(tmp_path):
    """What is for choosing is no result; retrieval has no right and wrong; and 0 keeps nothing."""
    images = Noise(40)
    labels = np.arange(40) % 3
    splits = {
        "id": Split(images, labels, []),
        "select-id": Split(images, labels, []),
        "told": Split(images, None, []),
        "unseen": Split(Unseen(), labels, []),
    }
    for name in splits:
        predict(tmp_path, name, 40)
    save_examples(tmp_path, splits, 0)
    assert not (tmp_path / "examples").exists()
    save_examples(tmp_path, splits, 3)
    assert [path.name for path in (tmp_path / "examples").iterdir()] == ["id.safetensors"]
    assert len(kept(tmp_path, "id")) == 6


def test_an_image_that_is_gone_is_left_out(tmp_path):
    """It was there when the models saw it; the run does not fail for a picture."""
    class_set(tmp_path / "photos", ("cat", "dog", "tea pot"), 8)
    split = of_manifest(read_manifest(tmp_path / "photos"), SPEC, ["a {}."])
    predict(tmp_path, "id", 24)
    (tmp_path / "photos" / "tea pot" / "0.png").unlink()  # position 16
    (tmp_path / "photos" / "tea pot" / "5.png").write_bytes(b"no image")  # position 21
    save_examples(tmp_path, {"id": split}, 2)
    assert list(kept(tmp_path, "id")) == [20, 17]


@pytest.mark.parametrize(("count", "each", "due"), [(1, 100, 48), (8, 6, 6), (13, 6, 3), (100, 6, 1)])
def test_all_splits_together_are_bounded(count, each, due, tmp_path):
    """Whatever was asked for: at most 96 images, less than a megabyte in base64 though they are noise."""
    n = 4 * each  # so many of each kind
    splits = {f"s{k}": Split(Noise(n), np.arange(n) % 3, []) for k in range(count)}
    for name in splits:
        predict(tmp_path, name, n)
    save_examples(tmp_path, splits, each)
    found = [len(kept(tmp_path, name)) for name in splits if (tmp_path / "examples" / f"{name}.safetensors").is_file()]
    assert set(found) == {2 * due}
    assert len(found) == min(count, MOST // 2)
    assert sum(found) <= MOST
    assert sum(path.stat().st_size for path in (tmp_path / "examples").iterdir()) * 4 / 3 < 1_000_000
