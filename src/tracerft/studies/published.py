"""What the paper prints of finetuning on ImageNet: to stand beside our numbers, never among them.

The rows come from different pipelines: some are copied from other papers.
"""

import json
from functools import cache
from importlib import resources
from typing import Any

NAMES = {
    "ZS": "zero_shot", "Direct FT": "ce_ft", "FT": "ce_ft", "L2-SP": "l2_sp", "Static SD": "sd_logit",
    "LP-FT": "lp_ft", "FLYP": "flyp", "CAR-FT": "car_ft", "Lipsum-FT": "lipsum_ft", "Model Stock": "model_stock",
    "ARF": "arf", "CaRot": "carot", "TRACER": "tracer",
}  # fmt: skip  # printed name to ours


@cache
def paper_tables() -> dict[str, dict[str, dict[str, Any]]]:
    """Tables 1 to 3 and 5 to 11 as printed.

    Returns:
        By number of the table and backbone: ``columns``, and ``accuracy`` (percent) or ``ece`` (0 to 1) or both, each
        a list a row in the order of the columns. Rows of Table 8 are bits (FD, CrossKD, ICL, CRD), those of Tables 9
        to 11 the number that is varied.
    """
    text = (resources.files("tracerft.studies") / "paper_tables.json").read_text(encoding="utf-8")
    found: dict[str, dict[str, dict[str, Any]]] = json.loads(text)
    return found


def printed_row(table: str, backbone: str, row: str) -> dict[str, float]:
    """A row of a table in percent: accuracy by column, calibration error by column and ``_ece``."""
    of = paper_tables()[table][backbone]
    found: dict[str, float] = {}
    for metric, ending, factor in (("accuracy", "", 1.0), ("ece", "_ece", 100.0)):
        values = of.get(metric, {}).get(row, ())
        found |= {f"{c}{ending}": factor * v for c, v in zip(of["columns"], values, strict=False)}
    return found


def _table_2() -> dict[str, tuple[float, float]]:
    of = paper_tables()["2"]["ViT-B/16"]
    inside, outside = (of["columns"].index(name) for name in ("imagenet", "avg_shifts"))
    return {NAMES[name]: (values[inside], values[outside]) for name, values in of["accuracy"].items()}


# Table 2, ViT-B/16, by our names: accuracy on ImageNet, and the mean over V2, R, A and Sketch, in percent.
PUBLISHED = _table_2()
