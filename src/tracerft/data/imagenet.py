"""ImageNet-1K and its shifts as lists of images: which folders, which labels, which logits are compared.

Class order is that of the 1000 synsets sorted by id, as in every published head. Lists of classes come from timm
and open_clip and are never retyped. Imports `errors` and its neighbours only; opens no image.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from tracerft.data.listed import ListedSplit, LogitMap, class_folders
from tracerft.data.text import first_five
from tracerft.errors import DataError

NUM_CLASSES = 1000
OTHER_V2 = ("threshold", "top-images")


@cache
def imagenet_class_names() -> tuple[str, ...]:
    """The 1000 names of open_clip; 657 = 744 and 836 = 837 are duplicates, so their columns tie."""
    import open_clip

    return tuple(open_clip.IMAGENET_CLASSNAMES)


@cache
def imagenet_synsets(subset: str = "") -> tuple[str, ...]:
    """WordNet ids in class order: all 1000, or the 200 of ``"r"`` or ``"a"``."""
    return _timm_lines(f"imagenet_{subset}_synsets.txt" if subset else "imagenet_synsets.txt")


@cache
def imagenet_indices(subset: str) -> tuple[int, ...]:
    """Which of the 1000 classes ImageNet-R (``"r"``) or ImageNet-A (``"a"``) has: 200, ascending."""
    return tuple(int(line) for line in _timm_lines(f"imagenet_{subset}_indices.txt"))


def imagenet_val(folder: Path) -> ListedSplit:
    """ILSVRC-2012 validation images, sorted into one folder a WordNet id.

    Raises:
        DataError: if ``folder`` does not look like that.
    """
    return _all_classes("imagenet", folder, published=50_000)


def imagenet_sketch(folder: Path) -> ListedSplit:
    """ImageNet-Sketch: one folder a WordNet id, 1000 classes.

    Raises:
        DataError: if ``folder`` does not look like that.
    """
    return _all_classes("imagenet-sketch", folder, published=50_889)


def imagenet_r(folder: Path) -> ListedSplit:
    """ImageNet-R: one folder a WordNet id; 200 of the 1000 logits are compared.

    Raises:
        DataError: if ``folder`` does not look like that.
    """
    return _subset("imagenet-r", folder, "r", published=30_000)


def imagenet_a(folder: Path) -> ListedSplit:
    """ImageNet-A: one folder a WordNet id; 200 of the 1000 logits are compared, not those of ImageNet-R.

    Raises:
        DataError: if ``folder`` does not look like that.
    """
    return _subset("imagenet-a", folder, "a", published=7_500)


def imagenet_v2(folder: Path) -> ListedSplit:
    """ImageNet-V2, matched frequency: folders are called by the class index, so ``10`` comes after ``2``.

    Raises:
        DataError: if ``folder`` does not look like that, or is another variant by its name.
    """
    folder = Path(folder)
    if any(word in folder.name for word in OTHER_V2):
        raise DataError(f"{folder} is another variant of ImageNet-V2; imagenet-v2 means matched-frequency")
    found = class_folders(folder)
    wrong = [name for name in found if not (name.isascii() and name.isdigit() and int(name) < NUM_CLASSES)]
    if wrong:
        raise DataError(f"{folder}: folders must be called 0 to 999; got {first_five(wrong)}; check --data")
    return _listed("imagenet-v2", found, {name: int(name) for name in found}, published=10_000)


def objectnet(folder: Path) -> ListedSplit:
    """ObjectNet: the 113 classes that ImageNet has, each scored by the largest of its ImageNet logits.

    Args:
        folder: the unpacked data set, with ``images/`` and ``mappings/``.

    Raises:
        DataError: if the folder or its mapping files are not as published.
    """
    folder = Path(folder)
    sources, names = _objectnet_classes(folder / "mappings")
    order = sorted(sources)
    found = {name: files for name, files in class_folders(folder / "images").items() if name in sources}
    if not found:
        raise DataError(f"{folder / 'images'} has none of the {len(order)} folders of the mapping; unpack it again")
    return _listed(
        "objectnet",
        found,
        {name: label for label, name in enumerate(order)},
        LogitMap(NUM_CLASSES, tuple(sources[name] for name in order)),
        tuple(names[name] for name in order),
        border=2,
        published=18_574,
    )


def _all_classes(name: str, folder: Path, published: int) -> ListedSplit:
    label = {synset: index for index, synset in enumerate(imagenet_synsets())}
    return _listed(name, _synset_folders(Path(folder), label), label, published=published)


def _subset(name: str, folder: Path, subset: str, published: int) -> ListedSplit:
    indices = imagenet_indices(subset)
    label = {synset: position for position, synset in enumerate(imagenet_synsets(subset))}
    return _listed(
        name,
        _synset_folders(Path(folder), label),
        label,
        LogitMap(NUM_CLASSES, tuple((index,) for index in indices)),
        tuple(imagenet_class_names()[index] for index in indices),
        published=published,
    )


def _synset_folders(folder: Path, label: Mapping[str, int]) -> dict[str, list[Path]]:
    found = class_folders(folder)
    wrong = [name for name in found if name not in label]
    if wrong:
        raise DataError(
            f"{folder}: folders must be called by the WordNet ids of its {len(label)} classes, such as "
            f"{next(iter(label))}; got {first_five(wrong)}; check which data set this is"
        )
    return found


def _listed(
    name: str,
    found: Mapping[str, Sequence[Path]],
    label: Mapping[str, int],
    logit_map: LogitMap | None = None,
    class_names: tuple[str, ...] | None = None,
    *,
    border: int = 0,
    published: int | None = None,
) -> ListedSplit:
    """All images in label order."""
    folders = sorted(found, key=lambda folder: label[folder])
    return ListedSplit(
        name=name,
        paths=tuple(path for folder in folders for path in found[folder]),
        labels=np.array([label[folder] for folder in folders for _ in found[folder]], dtype=np.int64),
        head_classes=imagenet_class_names(),
        logit_map=logit_map or LogitMap(NUM_CLASSES),
        class_names=class_names or imagenet_class_names(),
        border=border,
        published=published,
    )


def _objectnet_classes(mappings: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """ImageNet classes and readable name of each ObjectNet folder that has any."""
    folder_label = _read_json(mappings / "folder_to_objectnet_label.json")
    imagenet_names = _read_json(mappings / "objectnet_to_imagenet_1k.json")
    # The lines of the names file are in the order of the 2012 development kit, not of any trained head.
    kit_id = {int(kit): int(index) for index, kit in _read_json(mappings / "pytorch_to_imagenet_2012_id.json").items()}
    lines = _read_text(mappings / "imagenet_to_label_2012_v2").splitlines()
    index_of = {line.strip(): kit_id.get(kit, -1) for kit, line in enumerate(lines)}
    folder_of = {str(label): folder for folder, label in folder_label.items()}
    sources: dict[str, tuple[int, ...]] = {}
    for label, joined in imagenet_names.items():
        indices = tuple(index_of.get(part.strip(), -1) for part in str(joined).split(";"))
        if label not in folder_of or not all(0 <= index < NUM_CLASSES for index in indices):
            raise DataError(f"{mappings}: the class {label!r} has no folder or no ImageNet class; unpack it again")
        sources[folder_of[label]] = indices
    return sources, {folder: str(label).lower() for folder, label in folder_label.items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON ({error}); unpack the data set again") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} must hold a JSON object; got {type(value).__name__}; unpack the data set again")
    return value


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no UTF-8 text"
        raise DataError(
            f"cannot read {path} ({reason}); give the data set's folder, with images/ and mappings/"
        ) from None


def _timm_lines(name: str) -> tuple[str, ...]:
    text = (resources.files("timm.data") / "_info" / name).read_text(encoding="utf-8")
    return tuple(text.split())
