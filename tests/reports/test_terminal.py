"""Results of every kind of split on the terminal and on a run's page."""

import json

from tests.reports.example import record, scores, write_run
from tracerft.reports.run import write_run_report
from tracerft.reports.terminal import results_table

RECALL = {"n": 8, "n_images": 8, "n_texts": 4, "image_to_text_r1": 0.25, "image_to_text_r5": None,
          "image_to_text_r10": None, "text_to_image_r1": 0.5, "text_to_image_r5": 0.875,
          "text_to_image_r10": None}  # fmt: skip
GROUPS = {"worst_group": 0.125, "worst_group_name": "Asia", "groups": {"Asia": {"n": 8, "top1": 0.125}}}


def lines(text: str, *words: str) -> list[str]:
    """Those with all of the words."""
    return [line for line in text.splitlines() if all(word in line for word in words)]


def test_each_kind_of_split_has_a_table_of_its_own():
    """Accuracy for the labelled ones, recall for the retrieved, worst group and macro F1 where they count."""
    labelled = scores(0.5) | {"macro_f1": 0.375}
    results = {
        "student": {
            "id": labelled,
            "told": RECALL,
            "fmow": labelled | GROUPS | {"metric": "worst_group"},
            "wild": labelled | {"metric": "macro_f1"},
        }
    }
    text = results_table(results)
    assert [line.split()[:2] for line in lines(text, "50.0", "[48.0, 52.0]")] == [
        ["id", "student"], ["fmow", "student"], ["wild", "student"],
    ]  # fmt: skip
    (told,) = lines(text, "told")
    assert all(cell in told for cell in ("25.0", "50.0", "87.5"))
    (worst,) = lines(text, "fmow", "Asia")
    assert "12.5" in worst
    (macro,) = lines(text, "37.5")
    assert macro.split()[0] == "wild"
    assert max(map(len, text.splitlines())) <= 100


def test_results_of_one_kind_have_one_table():
    """No heads without rows."""
    assert "top-1" not in results_table({"student": {"id": RECALL}})
    text = results_table({"student": {"id": scores(0.5) | {"macro_f1": 0.375}}})
    assert all(head not in text for head in ("R@1", "worst", "macro"))
    assert results_table({}) == ""


def test_the_page_shows_recall_and_worst_groups(tmp_path):
    """Beside accuracies; a run of retrieval alone has no empty table of accuracies."""
    folder = write_run(tmp_path / "run")
    changed = record()
    for of_model in changed["results"].values():
        of_model |= {"told": RECALL, "fmow": scores(0.5) | GROUPS}
    (folder / "record.json").write_text(json.dumps(changed))
    page = write_run_report(folder).read_text()
    assert all(text in page for text in ("Image to text R@1", "Worst group", "12.5", "Accuracy"))
    changed["results"] = {"student": {"id": RECALL}}
    (folder / "record.json").write_text(json.dumps(changed))
    page = write_run_report(folder).read_text()
    assert "Text to image R@1" in page
    assert "Wilson" not in page
