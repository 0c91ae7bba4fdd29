"""ID against the shifts: a point a model, and lines over interpolated weights where they were evaluated."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tracerft.errors import DataError
from tracerft.reports import figures
from tracerft.reports.blocks import Figure
from tracerft.reports.compared import PRETRAINED, WISE, Compared, Row, rows_of
from tracerft.reports.record import read_json, write_json
from tracerft.reports.svg import inline_text

INTERPOLATED = "interpolated.json"  # in a run's folder, what `tracerft evaluate RUN --interpolate N` found
_LINES = "A star is a model of a run; a line runs over interpolated weights from the pretrained model to it."


def trade_off(rows: Sequence[Row], names: Mapping[str, str]) -> list[Figure]:
    """The figure, if some model has an accuracy on ``id`` and a mean of shifts.

    Args:
        rows: of `compared.rows_of`.
        names: what stands before a model's name, by run.
    """
    whole = {(r.run, r.model): r for r in rows if r.splits.get("id") is not None and r.shifts is not None}
    points = []
    for (run, model), row in whole.items():
        end, _, alpha = model.partition(WISE)
        path = any(key[0] == run and key[1].startswith(model + WISE) for key in whole)
        start = whole.get((run, PRETRAINED)) or whole.get(("", PRETRAINED))
        label = f"{names[run]}: {end}" if names.get(run) else end
        if path and start is not None:
            points.append(_point(label, 0.0, start))
        points.append({**_point(label, float(alpha or 1.0), row), "selected": not alpha})
    if not points:
        return []
    svg = figures.front(points, "x", "y", x_label="id, %", y_label="mean of shifts, %")
    return [drawn("ID against shifts", svg, "front-", _LINES)]


def run_trade_off(folder: Path, record: Mapping[str, Any]) -> list[Figure]:
    """The figure of one run; with the lines where its interpolated models were evaluated.

    Raises:
        DataError: if the file of interpolated results is damaged.
    """
    path, results = folder / INTERPOLATED, record["results"]
    if path.is_file():  # has the ends too, so that a line is of one evaluation
        remedy = f"remove it and run `tracerft evaluate {folder} --interpolate 11` again"
        results = read_json(path, remedy).get("results")
        if not isinstance(results, dict) or not all(isinstance(of, dict) for of in results.values()):
            raise DataError(f"{path}: holds no results by model and split; {remedy}")
    if any("id" not in scores for scores in results.values()):
        return []
    return trade_off(rows_of([Compared("run", folder, {"results": results}, [])]), {})


def write_interpolated(folder: Path, results: Mapping[str, Any]) -> None:
    """Keep what was evaluated on the lines from a run's start for its report."""
    write_json(folder / INTERPOLATED, {"results": results})


def drawn(title: str, svg: str, prefix: str, caption: str) -> Figure:
    """A figure whose names inside do not meet those of others on the page."""
    return Figure(title, inline_text(svg, prefix, f"the figure {title!r}"), caption, f"{title}. {caption}")


def _point(name: str, strength: float, row: Row) -> dict[str, Any]:
    assert row.splits["id"] is not None
    assert row.shifts is not None
    return {"method": name, "strength": strength, "x": 100 * row.splits["id"], "y": 100 * row.shifts}
