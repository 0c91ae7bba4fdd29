"""What the toy study's runs say: rows, claims, headline, figures. Every word that judges comes from a number.

Legend: a point is (method, strength); its values are one number a seed, in percent.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from tracerft.reports.figures import bars, curves, front, grouped_bars
from tracerft.studies.results import Key, claim, figure_claim, paired_claim, write_figures

COLUMNS: list[dict[str, str | None]] = [
    {"key": "original", "label": "Original task", "unit": "%", "better": "higher"},
    {"key": "coloured", "label": "Coloured task", "unit": "%", "better": "higher"},
    {"key": "forgetting", "label": "Forgetting", "unit": "points", "better": "lower"},
    {"key": "ece_original", "label": "ECE original", "unit": "%", "better": "lower"},
    {"key": "ece_coloured", "label": "ECE coloured", "unit": "%", "better": "lower"},
    {"key": "colour_random", "label": "Colour random", "unit": "%", "better": "higher"},
    {"key": "colour_flipped", "label": "Colour flipped", "unit": "%", "better": "higher"},
    {"key": "teacher_original", "label": "Teacher, original", "unit": "%", "better": "higher"},
    {"key": "teacher_coloured", "label": "Teacher, coloured", "unit": "%", "better": "higher"},
    {"key": "pretrained_share", "label": "Pretrained share in teacher", "unit": "%", "better": None},
]
# What the paper says of two methods: first does better than second on a measure, give or take a slack in points.
PAIRS = (
    ("tracer-learns", "TRACER learns the new task as well as direct finetuning", "wma-all", "direct", "coloured", 1.5),
    ("l2-keeps", "L2-SP keeps more than direct finetuning (83.2 against 59.0)", "l2-sp", "direct", "original", 0.0),
    ("sd-over-l2", "distillation keeps more than L2-SP (95.9 against 83.2)", "static-all", "l2-sp", "original", 0.0),
    ("wma-keeps", "the moving teacher keeps more (96.7 against 95.9)", "wma-all", "static-all", "original", 0.0),
    ("wma-learns", "the moving teacher learns more (98.6 against 98.0)", "wma-all", "static-all", "coloured", 0.0),
    ("wma-keeps-fd", "FD alone: the moving teacher keeps more", "wma-fd", "static-fd", "original", 0.0),
    ("wma-learns-fd", "FD alone: the moving teacher learns more", "wma-fd", "static-fd", "coloured", 0.0),
    ("wma-over-ema", "WMA keeps more than EMA (Section 3.3)", "wma-all", "ema-fast-all", "original", 0.0),
    ("wma-ema-learns", "WMA learns more than EMA", "wma-all", "ema-fast-all", "coloured", 0.0),
    ("arcsine", "Beta(.5, .5) keeps more than Beta(1, 1) (Table 11)", "wma-all", "wma-uniform-all", "original", 0.0),
)


def measures(
    results: Mapping[str, Any], start: Mapping[str, Any], teacher: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """Percentages of one model on all splits.

    Args:
        results: metrics by split.
        start: the same of the model it started from.
        teacher: the same of the run's averaged model, if it has one.
    """
    select = [results[s]["top1"] for s in ("select-id", "select-original") if s in results]
    found = {
        "original": results["original"]["top1"],
        "coloured": results["id"]["top1"],
        "forgetting": start["original"]["top1"] - results["original"]["top1"],
        "colour_random": results["colour-random"]["top1"],
        "colour_flipped": results["colour-flipped"]["top1"],
        "ece_original": results["original"]["ece_15"],
        "ece_coloured": results["id"]["ece_15"],
    }
    if select:
        found["selection"] = mean(select)
    if teacher is not None:
        found |= {"teacher_original": teacher["original"]["top1"], "teacher_coloured": teacher["id"]["top1"]}
    return {name: 100.0 * value for name, value in found.items()}


def claims_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The paper's statements about this study beside what came out at the selected strengths."""
    at = {row["id"]: row for row in rows if row["selected"]}
    start = at["pretrained"]["original"]["mean"]
    kept, lost = at["wma-all"]["forgetting"], at["direct"]["forgetting"]
    text = "direct finetuning forgets heavily (37.9 points in Figure 3)"
    found = [
        figure_claim("direct-forgets", text, lost, ">", 30.0, "points of original accuracy; the bar is 30"),
        figure_claim(
            "tracer-keeps", "TRACER forgets next to nothing", kept, "<", 3.0, f"points of {start:.1f} %; the bar is 3"
        ),
    ]
    for name, text, better, worse, measure, slack in PAIRS:
        if better in at and worse in at:
            found.append(paired_claim(name, text, at[better], at[worse], measure, slack))
        else:
            found.append(claim(name, text, "not run in this size", None))
    return found


def headline_of(
    rows: Sequence[Mapping[str, Any]], claims: Sequence[Mapping[str, Any]], data: str, seeds: int
) -> list[str]:
    """What was compared, on what, what came out, which claims held."""
    at = {row["id"]: row for row in rows if row["selected"]}
    start, direct, tracer = at["pretrained"], at["direct"], at["wma-all"]
    held = [c for c in claims if c["holds"]]
    failed = [c for c in claims if c["holds"] is False]
    methods = len({row["id"] for row in rows}) - 1
    sentences = [
        f"{methods} ways to finetune one small pretrained digit model on coloured digits were compared on {data}, "
        f"with {seeds} seed{'s' if seeds > 1 else ''} each.",
        f"Direct finetuning took original accuracy from {start['original']['mean']:.1f} % to "
        f"{direct['original']['mean']:.1f} %; TRACER kept {tracer['original']['mean']:.1f} % and reached "
        f"{tracer['coloured']['mean']:.1f} % on the new task (direct finetuning {direct['coloured']['mean']:.1f} %).",
        f"Of {len(claims)} claims of the paper {len(held)} held and {len(failed)} did not"
        + (f" ({', '.join(c['id'] for c in failed)})" if failed else "")
        + f"; {len(claims) - len(held) - len(failed)} stayed open.",
    ]
    rival = max((r for k, r in at.items() if k not in ("pretrained", "wma-all")), key=lambda r: r["selection"]["mean"])
    sentences.append(
        f"By the selection rule the strongest rival is {rival['method']}: {rival['original']['mean']:.1f} % original, "
        f"{rival['coloured']['mean']:.1f} % coloured."
    )
    return sentences


def figures(
    out: Path, rows: Sequence[Mapping[str, Any]], folders: Mapping[Key, Path], labels: Mapping[str, str]
) -> list[dict[str, str]]:
    """Draw the study's figures into ``out/figures``; returns their entries for study.json."""
    selected = [row for row in rows if row["selected"]]
    trained = [row for row in selected if row["id"] != "pretrained"]
    start = next(row for row in selected if row["id"] == "pretrained")
    varied = [row for row in rows if row["id"] != "pretrained"]
    both = [("original", "original task"), ("coloured", "coloured task")]
    accuracy = grouped_bars(selected, both, x_label="accuracy in %")
    forgetting = bars(trained, "forgetting", x_label="original accuracy lost, points")
    x_label, y_label = "coloured task, accuracy in %", "original task, accuracy in %"
    trade_off = front(varied, "coloured", "original", reference=start, x_label=x_label, y_label=y_label)
    lost = "Points of original accuracy lost against the pretrained model."
    line = "A line is a method over its strengths, a star its selected one; up and to the right is better."
    whiskers = "Each method at its selected strength; whiskers are standard deviations over seeds."
    # The corner where the choice is made; without it one forgetful method squeezes the others together.
    low = {
        k: min([r[k]["mean"] for r in trained if r["forgetting"]["mean"] < 10.0] or [90.0])
        for k in ("coloured", "original")
    }
    limits = ((max(low["coloured"], 80.0) - 1.0, 100.0), (low["original"] - 1.0, 100.0))
    corner = front(varied, "coloured", "original", reference=start, x_label=x_label, y_label=y_label, limits=limits)
    drawn = [
        ("accuracy", "Accuracy on both tasks", accuracy, whiskers),
        ("forgetting", "Forgetting", forgetting, lost),
        ("trade-off", "Trade-off over strengths", trade_off, line),
        ("trade-off-corner", "Trade-off, the corner that matters", corner, line + " Points outside are not shown."),
    ]
    for name, title, key, unit in (
        ("gap-kl", "Teacher-student gap in predictions", "gap_kl", "KL(teacher || student), nats"),
        ("gap-weights", "Teacher-student gap in weights", "gap_weights", "L2 distance of weights"),
    ):
        lines = _gap_lines(selected, folders, labels, key)
        if lines:
            caption = "Seed 0, all four losses, selected strengths, held-out coloured digits; 24 measurements a run."
            drawn.append((name, title, curves(lines, x_label="optimiser step", y_label=unit), caption))
    return write_figures(out, drawn)


def _gap_lines(
    selected: Sequence[Mapping[str, Any]], folders: Mapping[Key, Path], labels: Mapping[str, str], key: str
) -> list[dict[str, Any]]:
    lines = []
    for row in selected:
        folder = folders.get((row["id"], row["strength"] or 0.0, 0))
        if folder is None or not row["id"].endswith("-all"):
            continue
        logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        points = [(line["step"], line[key]) for line in logged if key in line]
        if points:
            lines.append({"label": labels[row["id"]], "x": [p[0] for p in points], "y": [p[1] for p in points]})
    return lines
