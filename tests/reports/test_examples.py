"""The section with pictures of what a run forgot and learned, from kept thumbnails and predictions."""

import base64

import numpy as np
import pytest

from tests.reports.example import HOSTILE
from tests.reports.predictions import logits, write_examples, write_predicted_run
from tests.reports.test_html import Reader
from tracerft.errors import DataError
from tracerft.reports.examples import read_thumbnails
from tracerft.reports.run import write_run_report

CLASSES = (*HOSTILE, "last")


def answers(split: str, place: int) -> tuple[int, list[int], list[float]]:
    """True class, what both models say and how surely, by a plain softmax in float64."""
    said, sure, label = [], [], -1
    for model in ("pretrained", "student"):
        values, labels = logits(model, split, len(CLASSES))
        row, label = values[place].astype(np.float64), int(labels[place])
        said.append(int(row.argmax()))
        sure.append(float(np.exp(row[said[-1]]) / np.exp(row).sum()))
    return label, said, sure


def test_each_picture_stands_under_its_heading_with_what_was_said(tmp_path):
    """In the order of the file; an image on which both are right, or both wrong, is not shown."""
    folder = write_predicted_run(tmp_path / "run")
    index = [3, 2, 399, *range(40, 80)]
    path = write_examples(folder, "far", index)
    jpegs = read_thumbnails(path, 400)
    assert list(jpegs) == index
    lost, won = [], []
    for place in index:
        label, (before, after), sure = answers("far", place)
        lines = [CLASSES[label], f"pretrained: {CLASSES[before]}, {100 * sure[0]:.0f}\N{NO-BREAK SPACE}%",
                 f"student: {CLASSES[after]}, {100 * sure[1]:.0f}\N{NO-BREAK SPACE}%"]  # fmt: skip
        picture = {
            "src": f"data:image/jpeg;base64,{base64.b64encode(jpegs[place]).decode()}",
            "alt": "; ".join(lines).replace("\x1b", " "),
        }
        if before == label != after:
            lost.append(picture)
        if before != label == after:
            won.append(picture)
    assert min(len(lost), len(won)) > 0
    assert len(lost) + len(won) < len(index)
    read = Reader(write_run_report(folder).read_text(encoding="utf-8"))
    assert read.all("img") == lost + won
    told = [answers("far", place) for place in range(400)]
    forgotten = sum(before == label != after for label, (before, after), _ in told)
    assert f"Forgotten: pretrained right, student wrong ({len(lost)} of {forgotten})" in read.words
    assert not read.wrong
    assert not read.stack


def test_a_run_without_examples_has_no_such_section(tmp_path):
    """An older run, one with `examples` 0, or one whose files hold none."""
    folder = write_predicted_run(tmp_path / "run")
    assert "Examples" not in write_run_report(folder).read_text(encoding="utf-8")
    write_examples(folder, "far", [])
    assert "Examples" not in write_run_report(folder).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "changed",
    [
        {"index": np.array([0, 400])},
        {"index": np.array([0, -1])},
        {"index": np.array([0])},
        {"index": np.array([0.0, 1.0])},
        {"sizes": np.array([3, 3])},
        {"sizes": np.array([3, -3])},
        {"jpeg": np.frombuffer(b"<svg onload=alert(1)>", np.uint8), "sizes": np.array([10, 11])},
        {"jpeg": np.zeros(8, np.float32)},
    ],
)
def test_a_damaged_file_is_one_line(changed, tmp_path):
    """It names the file and how to have a report without; nothing that is no JPEG gets into the page."""
    folder = write_predicted_run(tmp_path / "run")
    path = write_examples(folder, "far", [0, 1], **changed)
    with pytest.raises(DataError, match=r"far.safetensors: not a whole file of example images .* delete the folder"):
        write_run_report(folder)
    whole = write_examples(folder, "far", [0, 1]).read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match="not a whole file of example images"):
        write_run_report(folder)
