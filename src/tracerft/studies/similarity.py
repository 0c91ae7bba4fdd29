"""The similarity study (Figure 4): how far finetuning moves each layer of the image tower.

Pretrained against direct finetuning, pretrained against TRACER, and these two against one another, by linear CKA and
SVCCA on the test images of the finetuned task.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from tracerft.api import Run
from tracerft.config import FinetuneConfig, read_config
from tracerft.evaluation.similarity import layer_similarity, tower_features
from tracerft.models.features import feature_layers
from tracerft.models.weights import load_model
from tracerft.reports.figures import curves
from tracerft.studies.results import paired_claim, spread, write_figures
from tracerft.studies.runner import Progress, write_study
from tracerft.studies.variants import curve_of, finish_all, seeds_said, variant
from tracerft.studies.worlds import World

LAYERS = 12  # at most; evenly spaced where a tower has more
FINETUNED = ("flyp", "tracer")
PAIRS = (("pretrained", "flyp"), ("pretrained", "tracer"), ("flyp", "tracer"))
COLUMNS: list[dict[str, Any]] = [
    {"key": "cka", "label": "Linear CKA", "unit": "%", "better": None},
    {"key": "svcca", "label": "SVCCA", "unit": "%", "better": None},
]
Found = dict[tuple[str, str], dict[str, dict[str, float]]]  # pair, layer, measure


def run(
    out: Path,
    world: World,
    *,
    seeds: int = 1,
    workers: int = 2,
    progress: Progress | None = None,
    command: str = "tracerft study similarity",
) -> Path:
    """Run what is missing, compare the towers, and write ``study.json``, figures and ``report.html``.

    Args:
        out: the study's folder; runs are in the world's.
        world: what is finetuned on.
        seeds: number of seeds.
        workers: processes.
        progress: told about every finished run.
        command: how the study was called, for the report.

    Returns:
        Path of the report.
    """
    started = time.perf_counter()
    configs = {(name, seed): variant(world, name, seed) for name in FINETUNED for seed in range(seeds)}
    runs = finish_all(world, configs, workers, progress)
    found, count = [], 0
    for seed in range(seeds):
        similar, count = _compared(world, configs["flyp", seed], {name: runs[name, seed] for name in FINETUNED})
        found.append(similar)
    rows = _rows(found)
    study = {
        "study": "similarity",
        "title": "Similarity of image towers, layer by layer",
        "headline": _headline(found, seeds),
        "settings": {**world.settings, "images": count, "strength": "published values", "SVCCA": "99 % of variance"},
        "columns": COLUMNS,
        "rows": rows,
        "claims": _claims(found),
        "figures": _figures(out, rows),
    }
    return write_study(out, study, command, started)


def _compared(world: World, config: FinetuneConfig, runs: Mapping[str, Run]) -> tuple[Found, int]:
    """Similarities in percent of one seed, and the number of images."""
    start = load_model(config.model, seed=config.train.seed)
    split = world.read(read_config(Path(config.out) / "config.yaml"), start).suite.id
    layers = feature_layers(start.model, LAYERS)
    features = {"pretrained": tower_features(start.model, split, layers)}
    for name, one in runs.items():
        features[name] = tower_features(load_model(one.folder / "student").model, split, layers)
    found: Found = {}
    for a, b in PAIRS:
        similar = layer_similarity(features[a], features[b])
        found[a, b] = {layer: {k: 100.0 * v for k, v in of.items()} for layer, of in similar.items()}
    return found, len(split)


def _rows(found: Sequence[Found]) -> list[dict[str, Any]]:
    """One row a pair and layer; ``strength`` names the layer."""
    rows = []
    for pair, layers in found[0].items():
        for number, layer in enumerate(layers, 1):
            row = {"id": "-".join(pair), "method": " against ".join(pair), "strength": layer, "layer": number}
            measured = {key: spread([of[pair][layer][key] for of in found]) for key in ("cka", "svcca")}
            rows.append(row | {"selected": False, "n": len(found)} | measured)
    return rows


def _whole(found: Sequence[Found], pair: tuple[str, str]) -> dict[str, Any]:
    """Means over layers of a pair, one value a seed."""
    return {key: spread([mean(m[key] for m in of[pair].values()) for of in found]) for key in ("cka", "svcca")}


def _claims(found: Sequence[Found]) -> list[dict[str, Any]]:
    near, far = _whole(found, ("pretrained", "tracer")), _whole(found, ("pretrained", "flyp"))
    text = "TRACER's tower stays nearer to the pretrained one than direct finetuning's (Figure 4, {}, mean over layers)"
    return [
        paired_claim(f"nearer-{key}", text.format(name), near, far, key)
        for key, name in (("cka", "CKA"), ("svcca", "SVCCA"))
    ]


def _headline(found: Sequence[Found], seeds: int) -> list[str]:
    words = [f"{' against '.join(pair)} {_whole(found, pair)['cka']['mean']:.1f} %" for pair in PAIRS]
    return [
        f"The image towers of direct finetuning and TRACER were compared with the pretrained one, {seeds_said(seeds)}.",
        f"Linear CKA, mean over layers: {'; '.join(words)}.",
    ]


def _figures(out: Path, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    drawn = []
    for key, name in (("cka", "Linear CKA"), ("svcca", "SVCCA")):
        lines = []
        for label in dict.fromkeys(row["method"] for row in rows):
            mine = [row for row in rows if row["method"] == label]
            lines.append(curve_of(label, [row["layer"] for row in mine], [row[key] for row in mine]))
        svg = curves(lines, x_label="layer, the last is the embedding", y_label=f"{name}, %")
        drawn.append(
            (key, f"{name} by layer", svg, "Bands are one standard deviation over seeds, where there are some.")
        )
    return write_figures(out, drawn)
