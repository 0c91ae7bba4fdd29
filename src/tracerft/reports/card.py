"""A model card: what the weights are, what they saw, how they were made, how well they do. From record.json alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracerft.reports.record import write_text

CARD = "README.md"
LOADS = {
    "open_clip": '`open_clip.create_model_and_transforms("local-dir:FOLDER")`',
    "hf": '`transformers.AutoModel.from_pretrained("FOLDER")`',
    "onnx": "onnxruntime: `image.onnx` and `text.onnx` turn images and token ids into unit-norm embeddings, and "
    "`tracerft_onnx.json` has the scale and how images are prepared",
}
FORMATS = {"open_clip": "open_clip", "hf": "transformers", "onnx": "onnx"}


def write_card(
    folder: Path, to: str, *, record: Mapping[str, Any] | None, model: str, source: str, license: str | None
) -> Path:
    """Write ``README.md`` beside exported weights.

    Args:
        folder: of the exported model.
        to: its format.
        record: of the run, ``None`` for a model without one.
        model: which of the run's models it is.
        source: what was exported; only the last part of a path is told.
        license: of the weights; unknown by default, since that of the base model decides.

    Returns:
        The card's path.
    """
    head = [
        "---",
        f"license: {license or 'unknown'}",
        f"library_name: {FORMATS[to]}",
        "pipeline_tag: zero-shot-image-classification",
        "tags: [tracerft, robust-finetuning]",
        "---",
        "",
        f"# {_plain(source)}",
        "",
    ]
    body = _of_model(source) if record is None else _of_run(record, model)
    rights = license or "unknown: not stated at export. The licences of the base model and of the data decide"
    foot = ["", "## Use", "", f"Loads with {LOADS[to]}.", "", "## Licence", "", f"{rights}.", ""]
    write_text(folder / CARD, "\n".join([*head, *body, *foot]))
    return folder / CARD


def _of_model(source: str) -> list[str]:
    return [f"`{_plain(source)}`, exported as it is by tracerft; it was not finetuned by a run that is recorded here."]


def _of_run(record: Mapping[str, Any], model: str) -> list[str]:
    config = record["config"]
    return [
        f"`{_plain(config['model'])}` finetuned on `{_plain(config['data'])}` with `{record['method']}` by tracerft "
        f"{record['tracerft']}; this is the run's {model}.",
        "",
        "## Data",
        "",
        *_data(record),
        "",
        "## Recipe",
        "",
        *_recipe(record),
        "",
        "## Results",
        "",
        *_results(record, model),
    ]


def _data(record: Mapping[str, Any]) -> list[str]:
    lines = ["| set | samples | sha256 |", "| --- | --- | --- |"]
    lines += [f"| {_plain(name)} | {d['n']:,} | `{d['sha256'][:16]}` |" for name, d in record["data"].items()]
    classes = record.get("classes") or []
    if classes:
        shown = ", ".join(map(_plain, classes[:20]))
        lines += ["", f"{len(classes):,} classes: {shown}{', ...' if len(classes) > 20 else ''}."]
    return lines + [f"- {_plain(warning)}" for warning in record.get("warnings", ())]


def _recipe(record: Mapping[str, Any]) -> list[str]:
    from tracerft.methods import METHODS

    config, parameters = record["config"], record.get("parameters")
    known = METHODS.get(record["method"])
    uses = known.uses if known is not None else tuple(f"loss.{name}" for name in config["loss"])
    train, loss, lora = config["train"], config["loss"], config.get("lora", {})
    lines = [
        f"- {record['steps']:,} steps of {train['batch_size']} pairs, AdamW, learning rate {train['lr']:g}, weight "
        f"decay {train['weight_decay']:g}, {train['precision']}, seed {record['seed']}",
        f"- captions from class names: {_plain(config.get('templates', 'none'))}; frozen: {config['freeze']}",
        "- " + ", ".join(f"{name} {value}" for name, value in loss.items() if f"loss.{name}" in uses),
    ]
    if parameters:
        lines.append(f"- {parameters['trained']:,} of {parameters['total']:,} parameters trained")
    if lora.get("rank"):
        lines.append(f"- adapters of rank {lora['rank']}, alpha {lora['alpha']:g}, {lora['preset']}, merged")
    if record.get("pretrained_weight") is not None:
        lines.append(f"- share of the pretrained model in the final teacher: {record['pretrained_weight']:.2%}")
    return lines


def _results(record: Mapping[str, Any], model: str) -> list[str]:
    results = record["results"]
    lines = [
        "| split | model | samples | top-1 % (95 % interval) | ECE % | other |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for split in results.get(model, {}):
        if split.startswith("select-"):
            continue  # for choosing between settings, no result
        for name in ("pretrained", model):
            if split in results.get(name, {}):
                lines.append(_row(split, name, results[name][split]))
    return [*lines, "", "ECE over 15 bins. Accuracy is that of the images above and no promise for others."]


def _row(split: str, name: str, cell: Mapping[str, Any]) -> str:
    top1, ece, other = "", "", ""
    if "top1" in cell:
        low, high = cell["top1_ci95"]
        top1, ece = f"{100 * cell['top1']:.1f} ({100 * low:.1f} to {100 * high:.1f})", f"{100 * cell['ece_15']:.1f}"
    else:
        other = ", ".join(f"{k} {100 * v:.1f} %" for k, v in cell.items() if isinstance(v, float) and k.endswith("_r1"))
    return f"| {_plain(split)} | {name} | {cell['n']:,} | {top1} | {ece} | {other} |"


def _plain(text: object) -> str:
    """One line that Markdown takes as text, and of a path only the last part: a card is for others to read."""
    value = " ".join(str(text).split())
    if ("/" in value and not value.startswith(("open_clip:", "hf:", "mini:"))) or "local-dir:" in value:
        value = value.rstrip("/").rpartition("/")[2]
    return "".join(c if c not in "|`<>" else " " for c in value)
