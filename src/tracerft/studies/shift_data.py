"""The shift study's data: one thing drawn in several styles, finetuned in one, tested in all.

A domain is a style. Of emoji, images with one codepoint are one thing, so the split is by codepoint. Any folder of
``domain/class/*`` images will do too; there the split is by file and there are no names to retrieve.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tracerft.config import FinetuneConfig
from tracerft.data.anchors import Anchors
from tracerft.data.manifest import Manifest, read_manifest
from tracerft.data.pairs import ImagePairs
from tracerft.data.prompts import class_captions
from tracerft.data.sampling import uniforms
from tracerft.data.splits import LabelledImages
from tracerft.data.suite import Split, Suite, of_manifest
from tracerft.errors import DataError
from tracerft.models.encoder import LoadedModel
from tracerft.sources import WITH_ANCHORS, Parts, expected_collisions, image_spec
from tracerft.types import ImageSpec

TEMPLATES = ("an emoji of {}.", "a drawing of {}.", "a small picture of {}.")
TEST, HELD_OUT = 0.25, 0.1  # shares of the things; the second of what is left for training
ALIGNED = "aligned.json"


def is_emoji(folder: Path) -> bool:
    """Whether a folder holds emoji in styles with one ``captions.csv``."""
    return (folder / "captions.csv").is_file()


def domains(folder: Path) -> list[str]:
    """Names of the domains in a folder.

    Raises:
        DataError: if there are fewer than two.
    """
    found = (
        sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")) if folder.is_dir() else []
    )
    if len(found) < 2:
        raise DataError(f"{folder}: needs at least two domain folders, each with class folders; got {len(found)}")
    return found


@cache
def read_domain(folder: Path, domain: str, label: str) -> Manifest:
    """All images of one domain; ``label`` is the column of emoji (``subgroup`` or ``name``)."""
    if not is_emoji(folder):
        return read_manifest(folder / domain)
    columns = {"image": f"{domain}/{{codepoint}}.png", "label": label, "caption": ""}
    return read_manifest(folder / "captions.csv", columns=columns)


def parts(config: FinetuneConfig, loaded: LoadedModel) -> Parts:
    """Training pairs of one domain, and a suite of all: held-out things by class and, for emoji, by name.

    ``config.data`` is ``<folder>/<domain>``. Splits: ``id``; each other domain by its name; ``names-<domain>`` with
    the groups ``aligned`` and ``new``; ``select-id`` and ``select-names`` from held-out training things.
    """
    folder, domain = Path(config.data).parent, Path(config.data).name
    spec, seed = image_spec(loaded), config.train.seed
    trained = read_domain(folder, domain, "subgroup")
    test, held = _split(len(trained))
    train = trained.subset(np.flatnonzero(~test & ~held))
    source = ImagePairs(train, spec, loaded.tokenize, templates=TEMPLATES, seed=seed)
    names = _Names(folder, Path(config.model)) if is_emoji(folder) else None
    id_split, id_names = _test(folder, domain, test, trained, spec, names)
    shifts, named = {}, {} if id_names is None else {f"names-{domain}": id_names}
    for other in domains(folder):
        if other != domain:
            rows = test if names is not None else np.ones(len(read_domain(folder, other, "subgroup")), dtype=bool)
            shifts[other], of_names = _test(folder, other, rows, trained, spec, names)
            named |= {} if of_names is None else {f"names-{other}": of_names}
    select_id, select_names = _test(folder, domain, held, trained, spec, names)
    selection = {"id": select_id} | ({} if select_names is None else {"names": select_names})
    suite = Suite(id_split, {**shifts, **named}, selection)
    prompts = class_captions(trained.classes, TEMPLATES)
    collisions = expected_collisions(source, config.train.batch_size)
    return Parts(source, suite, trained.classes, collisions, prompts, _anchors(config, source, names, ~test & ~held))


def _anchors(
    config: FinetuneConfig, source: ImagePairs, names: "_Names | None", rows: NDArray[np.bool_]
) -> Anchors | None:
    """For ARF: the names of the emoji that are trained on; there is no pool that holds none of the test images."""
    if names is None or config.method not in WITH_ANCHORS:
        return None
    classes, labels = names.manifest.classes, names.manifest.labels
    assert labels is not None  # for the type checker; emoji have names
    captions = [(classes[labels[i]],) for i in np.flatnonzero(rows)]
    return Anchors(captions, source.tokenize, lambda: (), seed=config.train.seed)


def _split(number: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Test things and held-out training things; the same in every domain, run and seed."""
    things = np.arange(number)
    test = uniforms(0, 0, things, "shift test") < TEST
    return test, ~test & (uniforms(0, 0, things, "shift held out") < HELD_OUT)


class _Names:
    """The emoji names: what a start was aligned on, and which of them."""

    def __init__(self, folder: Path, start: Path) -> None:
        self.manifest = read_domain(folder, domains(folder)[0], "name")
        try:
            flags = json.loads((start / ALIGNED).read_text())
        except OSError:
            flags = [False] * len(self.manifest)  # a start that was not aligned on emoji
        self.groups = tuple("aligned" if flag else "new" for flag in flags)


def _test(
    folder: Path, domain: str, rows: NDArray[np.bool_], trained: Manifest, spec: ImageSpec, names: _Names | None
) -> tuple[Split, Split | None]:
    """Some things of a domain, by class and by name; both splits share the images, so each is embedded once."""
    places = np.flatnonzero(rows)
    manifest = read_domain(folder, domain, "subgroup").with_classes(trained.classes).subset(places)
    by_class = of_manifest(manifest, spec, TEMPLATES)
    if names is None:
        return by_class, None
    assert isinstance(by_class.images, LabelledImages)  # for the type checker
    assert names.manifest.labels is not None
    prompts = class_captions(names.manifest.classes, ("{}",))
    groups = tuple(names.groups[i] for i in places)
    labels, classes = names.manifest.labels[places], names.manifest.classes
    return by_class, Split(by_class.images, labels, prompts, groups=groups, classes=classes)
