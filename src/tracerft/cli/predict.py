"""`tracerft predict`: what a finished run says of images, beside what its start said."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracerft.cli.options import Parser
from tracerft.errors import ArgumentError, DataError, one_of

if TYPE_CHECKING:
    from tracerft.config import FinetuneConfig

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")


def run(arguments: Sequence[str]) -> None:
    """Print a line an image, or JSON with ``--json``."""
    text = "Classify images with a finished run, and with the model that it started from."
    parser = Parser("predict", text, "tracerft predict RUN IMAGE... [options]")
    parser.add_argument("run", type=str, help="folder of a finished run")
    parser.add_argument("images", type=str, nargs="+", help="image files, or folders of them")
    parser.add_argument("--model", type=str, default="student", help="student or teacher")
    parser.add_argument("--classes", type=str, default=None, help="file of other class names, one a line")
    parser.add_argument("--top", type=int, default=1, help="labels an image, most likely first, in JSON")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.read(arguments)
    one_of("model", options.model, ("student", "teacher"))
    if options.top < 1:
        raise ArgumentError(f"`top` must be at least 1; got {options.top}")
    found = predict(Path(options.run), find_images(options.images), options.model, options.classes, options.top)
    if options.json:
        print(json.dumps({"predictions": found}, indent=2, ensure_ascii=False))
        return
    from tracerft.reports.terminal import print_table

    def cell(row: Mapping[str, Any], name: str) -> list[str]:
        best = row[name][0]
        return [best["label"], f"{100 * best['confidence']:.1f} %"]

    names = (options.model, "pretrained")
    headers = ["image", options.model, "confidence", "pretrained", "confidence"]
    print_table(headers, [[Path(row["image"]).name, *(c for n in names for c in cell(row, n))] for row in found])


def find_images(given: Sequence[str]) -> list[Path]:
    """The files, and all images inside the folders.

    Raises:
        DataError: if a path does not exist, or a folder holds no image.
    """
    found: list[Path] = []
    for path in map(Path, given):
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"{path}: no image in it; expected {', '.join(SUFFIXES)}")
        found += inside
    missing = [path for path in found if not path.is_file()]
    if missing:
        raise DataError(f"{missing[0]}: no such image; give image files, or folders of them")
    return found


def predict(folder: Path, images: Sequence[Path], name: str, classes: str | None, top: int) -> list[dict[str, Any]]:
    """For each image the most likely labels of the finetuned and of the pretrained model.

    Args:
        folder: of a finished run.
        images: files.
        name: ``student`` or ``teacher``.
        classes: file of class names; by default those of the run.
        top: how many labels.

    Raises:
        DataError: if the run is not finished, has no such model or no classes, or an image is broken.
    """
    from tracerft.config import read_config
    from tracerft.evaluation.suite import Predictor
    from tracerft.models.weights import load_model
    from tracerft.reports.record import read_record

    config, record = read_config(folder / "config.yaml"), read_record(folder)
    if not (folder / name).is_dir():
        raise DataError(f"{folder}: the run has no {name}; its method {config.method} made none")
    names = _classes(folder, record, classes)
    start = load_model(config.model, seed=config.train.seed)
    predictor = Predictor({name: load_model(folder / name).model, "pretrained": start.model}, start.tokenize)
    rows: list[dict[str, Any]] = [{"image": str(path)} for path in images]
    split = _split(config, start, images, names)
    for of_model in (name, "pretrained"):
        probabilities = predictor.logits(of_model, split).softmax(1)
        values, ids = probabilities.topk(min(top, len(names)), dim=1)
        for row, confidences, labels in zip(rows, values.tolist(), ids.tolist(), strict=True):
            pairs = zip(labels, confidences, strict=True)
            row[of_model] = [{"label": names[label], "confidence": value} for label, value in pairs]
    return rows


def _classes(folder: Path, record: Mapping[str, Any], classes: str | None) -> tuple[str, ...]:
    from tracerft.data.classes import read_classes

    names = tuple(record.get("classes", ())) if classes is None else read_classes(classes).names
    if not names:
        raise DataError(f"{folder}: the run was trained on captions and knows no classes; give --classes FILE")
    return names


def _split(config: "FinetuneConfig", start: Any, images: Sequence[Path], names: Sequence[str]) -> Any:
    """The images as a split whose labels are not known, and so are all 0."""
    from tracerft.data.manifest import manifest_of_files
    from tracerft.data.suite import of_manifest
    from tracerft.sources import image_spec, run_templates

    spec = image_spec(start)
    manifest = manifest_of_files([path.absolute() for path in images], [0] * len(images), names)
    return of_manifest(manifest, spec, run_templates(config))
