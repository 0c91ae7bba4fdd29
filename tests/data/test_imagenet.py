"""ImageNet and its shifts on fake folder trees: labels, masks and mappings by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tracerft.data.benchmarks import BENCHMARKS, build_benchmark
from tracerft.data.imagenet import imagenet_class_names, imagenet_indices, imagenet_synsets
from tracerft.data.listed import LogitMap, crop_border
from tracerft.errors import ArgumentError, DataError, ShapeError


def make(root: Path, *names: str) -> Path:
    """Empty files, with their folders."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def relative(root: Path, split) -> list[str]:
    """Paths as in `make`."""
    return [path.relative_to(root).as_posix() for path in split.paths]


def test_class_lists_are_the_published_ones():
    """1000 and 2 x 200 sorted ids, 86 shared; indices and ids agree; the known duplicates."""
    synsets = imagenet_synsets()
    assert len(synsets) == len(set(synsets)) == 1000
    assert list(synsets) == sorted(synsets)
    for subset in ("r", "a"):
        indices = imagenet_indices(subset)
        assert len(indices) == 200
        assert list(indices) == sorted(set(indices))
        assert tuple(synsets[i] for i in indices) == imagenet_synsets(subset)
    assert len(set(imagenet_indices("r")) & set(imagenet_indices("a"))) == 86
    names = imagenet_class_names()
    assert len(names) == 1000
    assert (names[657], names[836]) == (names[744], names[837]) == ("missile", "sunglasses")
    assert (synsets[0], names[0]) == ("n01440764", "tench")


@pytest.mark.parametrize("name", ["imagenet", "imagenet-sketch"])
def test_labels_follow_the_ids_not_the_position(tmp_path, name):
    """Three of 1000 folders: labels are places in the full list; hidden and foreign files are left out."""
    synsets = imagenet_synsets()
    make(tmp_path, f"{synsets[999]}/b.JPEG", f"{synsets[999]}/a.JPEG", f"{synsets[7]}/x.png", f"{synsets[500]}/y.jpg")
    make(tmp_path, f"{synsets[7]}/.hidden.png", f"{synsets[7]}/notes.txt", "README.txt", ".git/z.png")
    split = build_benchmark(name, tmp_path)
    assert split.labels.tolist() == [7, 500, 999, 999]
    assert relative(tmp_path, split)[-2:] == [f"{synsets[999]}/a.JPEG", f"{synsets[999]}/b.JPEG"]
    assert split.labels.dtype == np.int64
    logits = torch.randn(4, 1000)
    assert split.logit_map(logits) is logits
    assert "4 images" in (split.shortfall or "")


def test_v2_folders_are_numbers(tmp_path):
    """0, 1, 10, 2: label 10 for 10, and 2 comes before it."""
    make(tmp_path, "0/a.jpeg", "1/a.jpeg", "10/a.jpeg", "2/a.jpeg")
    split = build_benchmark("imagenet-v2", tmp_path)
    assert split.labels.tolist() == [0, 1, 2, 10]
    assert relative(tmp_path, split) == ["0/a.jpeg", "1/a.jpeg", "2/a.jpeg", "10/a.jpeg"]


def test_v2_refuses_other_names_and_variants(tmp_path):
    """WordNet ids, a 1000, or another variant's folder."""
    with pytest.raises(DataError, match="0 to 999; got 1000, n01440764"):
        build_benchmark("imagenet-v2", make(tmp_path / "v2", "1000/a.jpg", "n01440764/a.jpg", "5/a.jpg"))
    with pytest.raises(DataError, match="matched-frequency"):
        build_benchmark("imagenet-v2", make(tmp_path / "imagenetv2-top-images-format-val", "0/a.jpg"))


@pytest.mark.parametrize("subset", ["r", "a"])
def test_r_and_a_compare_their_200_logits(tmp_path, subset):
    """One-hot truth on the full head is 100 %, and no other class can win any more."""
    synsets, indices = imagenet_synsets(subset), imagenet_indices(subset)
    make(tmp_path, *[f"{synset}/0.jpg" for synset in synsets])
    split = build_benchmark(f"imagenet-{subset}", tmp_path)
    assert split.labels.tolist() == list(range(200))
    truth = torch.nn.functional.one_hot(torch.tensor(indices), 1000).float()
    outside = next(i for i in range(1000) if i not in indices)
    truth[:, outside] = 5.0
    mapped = split.logit_map(truth)
    assert mapped.shape == (200, 200)
    assert torch.equal(mapped.argmax(1), torch.from_numpy(split.labels))
    assert torch.equal(mapped, truth[:, list(indices)])
    assert split.class_names == tuple(imagenet_class_names()[i] for i in indices)
    assert len(split.head_classes) == 1000


def test_a_folder_of_the_wrong_subset_is_named(tmp_path):
    """A class of ImageNet-A that ImageNet-R lacks; an empty class folder; no folder at all."""
    foreign = next(s for s in imagenet_synsets("a") if s not in imagenet_synsets("r"))
    with pytest.raises(DataError, match=f"of its 200 classes.*{foreign}"):
        build_benchmark("imagenet-r", make(tmp_path / "r", f"{foreign}/0.jpg"))
    with pytest.raises(DataError, match="no image in class folder n01440764"):
        build_benchmark("imagenet", make(tmp_path / "val", "n01440764/readme.txt"))
    with pytest.raises(DataError, match="is no folder"):
        build_benchmark("imagenet", tmp_path / "missing")
    with pytest.raises(DataError, match="no class folders"):
        build_benchmark("imagenet", make(tmp_path / "flat", "ILSVRC2012_val_00000001.JPEG"))


def object_tree(root: Path) -> Path:
    """Three ObjectNet folders, of which two map to ImageNet; kit ids 0 to 3 are classes 30, 10, 20 and 40."""
    make(root, "images/clock/a.png", "images/clock/b.png", "images/bench/c.png", "images/zipper_bag/d.png")
    (root / "mappings").mkdir()
    write = {
        "folder_to_objectnet_label.json": {"clock": "Alarm clock", "bench": "Bench", "zipper_bag": "Zipper bag"},
        "objectnet_to_imagenet_1k.json": {"Alarm clock": "analog clock; digital clock", "Bench": "park bench"},
        "pytorch_to_imagenet_2012_id.json": {"30": 0, "10": 1, "20": 2, "40": 3},
    }
    for name, value in write.items():
        (root / "mappings" / name).write_text(json.dumps(value))
    (root / "mappings/imagenet_to_label_2012_v2").write_text("analog clock\npark bench\ndigital clock\nspoon\n")
    return root


def test_objectnet_takes_the_largest_of_the_mapped_logits(tmp_path):
    """Sorted folders; clock is the larger of classes 30 and 20; the unmapped folder is left out."""
    split = build_benchmark("objectnet", object_tree(tmp_path))
    assert relative(tmp_path, split) == ["images/bench/c.png", "images/clock/a.png", "images/clock/b.png"]
    assert split.labels.tolist() == [0, 1, 1]
    assert split.class_names == ("bench", "alarm clock")
    assert split.logit_map.sources == ((10,), (30, 20))
    logits = torch.zeros(3, 1000)
    logits[0, 10], logits[1, 30], logits[2, 20], logits[:, 999] = 2.0, 3.0, 4.0, 99.0
    assert split.logit_map(logits).tolist() == [[2.0, 0.0], [0.0, 3.0], [0.0, 4.0]]
    assert split.border == 2


def test_objectnet_mappings_must_be_whole(tmp_path):
    """A missing file and a name without an ImageNet class."""
    object_tree(tmp_path)
    path = tmp_path / "mappings/objectnet_to_imagenet_1k.json"
    path.write_text('{"Bench": "park bnech"}')
    with pytest.raises(DataError, match="'Bench' has no folder or no ImageNet class"):
        build_benchmark("objectnet", tmp_path)
    path.write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        build_benchmark("objectnet", tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"cannot read .*objectnet_to_imagenet_1k\.json"):
        build_benchmark("objectnet", tmp_path)


def test_border_crop_removes_two_pixels_a_side():
    """Shape (w - 4, h - 4) and the inner pixels; 0 keeps the image; nothing left is an error."""
    image = Image.new("RGB", (11, 9), "red")
    image.paste((0, 0, 255), (2, 2, 9, 7))
    inner = crop_border(image, 2)
    assert inner.size == (7, 5)
    assert inner.getcolors() == [(35, (0, 0, 255))]
    assert crop_border(image, 0) is image
    with pytest.raises(DataError, match="4 x 9"):
        crop_border(image.crop((0, 0, 4, 9)), 2)


def test_logit_map_gradients_and_mistakes():
    """A map is differentiable; wrong widths and empty or foreign sources are refused."""
    logits = torch.tensor([[1.0, 5.0, 3.0]], requires_grad=True)
    LogitMap(3, ((2,), (0, 1)))(logits).sum().backward()
    assert logits.grad.tolist() == [[0.0, 1.0, 1.0]]
    assert LogitMap(3, ((2,), (0, 1))).num_classes == 2
    assert LogitMap(3).num_classes == 3
    with pytest.raises(ShapeError, match=r"\(n, 3\); got \(1, 2\)"):
        LogitMap(3)(torch.zeros(1, 2))
    for sources in (((),), ((3,),), ((-1,),)):
        with pytest.raises(ArgumentError, match="indices in"):
            LogitMap(3, sources)


def test_names_and_splits_are_checked(tmp_path):
    """A misspelt builder, and a split where there is none."""
    assert len(BENCHMARKS) == 8
    with pytest.raises(ArgumentError, match="did you mean 'imagenet-r'"):
        build_benchmark("imagenet_r", tmp_path)
    with pytest.raises(ArgumentError, match="is one folder"):
        build_benchmark("imagenet", tmp_path, "test")
