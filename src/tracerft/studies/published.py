"""What the paper prints of finetuning on ImageNet: to stand beside our numbers, never among them.

The rows come from different pipelines: some are copied from other papers.
"""

import json
from functools import cache
from importlib import resources
from typing import Any

# Table 2, ViT-B/16, by our names: accuracy on ImageNet, and the mean over V2, R, A and Sketch, in percent.
PUBLISHED: dict[str, tuple[float, float]] = {
    "zero_shot": (68.33, 59.46),
    "ce_ft": (82.83, 57.08),
    "l2_sp": (82.87, 57.34),
    "sd_logit": (82.07, 59.55),
    "lp_ft": (82.14, 59.38),
    "flyp": (82.72, 60.61),
    "car_ft": (83.27, 62.98),
    "lipsum_ft": (83.33, 62.70),
    "model_stock": (84.07, 62.40),
    "arf": (82.73, 62.63),
    "carot": (83.16, 64.03),
    "tracer": (82.76, 65.46),
}


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
