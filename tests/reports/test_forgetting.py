"""Classes that a run forgot, and its reliability, from kept predictions."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tests.reports.example import HOSTILE, write_run
from tests.reports.predictions import logits, write_predicted_run
from tests.reports.test_html import Reader
from tracerft.errors import DataError
from tracerft.evaluation.metrics import expected_calibration_error
from tracerft.reports.forgetting import forgetting_sections
from tracerft.reports.predicted import Predicted, binned, calibration_error, read_predicted
from tracerft.reports.record import read_record
from tracerft.reports.run import write_run_report

CLASSES = (*HOSTILE, "last")


def sections(folder):
    """The sections of a written run."""
    return forgetting_sections(folder, read_record(folder))


def test_the_largest_drops_are_named_with_their_counts(tmp_path):
    """Every row against a plain loop over images; no class of `id` or of a selection split, largest drop first."""
    table = sections(write_predicted_run(tmp_path / "run"))[0]
    seen = {}
    for row in table.rows:
        name, split, *numbers = [cell.value for cell in row]
        start, labels = logits("pretrained", split, len(CLASSES))
        end, _ = logits("student", split, len(CLASSES))
        n = right = kept = lost = won = 0
        for before, after, label in zip(start, end, labels, strict=True):
            if CLASSES[label] != name:
                continue
            was, now = before.argmax() == label, after.argmax() == label
            n, right, kept, lost, won = (
                n + 1,
                right + was,
                kept + now,
                lost + (was and not now),
                won + (now and not was),
            )
        assert numbers == [n, right / n, kept / n, (kept - right) / n, lost, won]
        seen.setdefault(split, []).append(numbers[3])
    assert set(seen) == {"far", "near"}
    assert all(len(drops) >= 3 and drops == sorted(drops) and drops[-1] < 0 for drops in seen.values())
    assert "far: " in table.note


def test_ten_of_a_thousand_classes_are_shown_and_small_ones_are_not_judged(tmp_path):
    """1,000 classes: a page below 1 MB; names that do not fit the split become numbers."""
    folder = write_predicted_run(tmp_path / "run", tuple(f"kind {c} {HOSTILE[0]}" for c in range(1000)))
    text = write_run_report(folder).read_text(encoding="utf-8")
    assert len(text) < 1_000_000
    assert "far: 0 of 0 classes" in text  # 400 images: one a class at most
    for model, hit in (("pretrained", 1.0), ("student", 0.0)):
        rows = np.repeat(np.eye(30, dtype=np.float32), 5, axis=0) * (2 * hit - 1)
        path = folder / "predictions" / model / "far.safetensors"
        save_file({"logits": rows, "labels": np.repeat(np.arange(30), 5)}, path)
    table = sections(folder)[0]
    assert [row[0].text for row in table.rows] == [f"class {c}" for c in range(10)]
    assert "far: 30 of 30 classes" in table.note


def test_names_are_those_of_the_split(tmp_path):
    """From the record's lists; one that is missing gives numbers, none at all the task's, which the note tells."""
    folder = write_predicted_run(tmp_path / "run")
    path = folder / "record.json"
    value = json.loads(path.read_text())
    older = sections(folder)[0]
    assert {row[0].text for row in older.rows} <= set(CLASSES)
    assert "older than class names of shifts" in older.note
    value["class_lists"] = [list(CLASSES), [f"other {c}" for c in range(len(CLASSES))]]
    value["data"] |= {"id": {"class_list": 0}, "far": {"class_list": 1}, "near": {}}
    path.write_text(json.dumps(value))
    table = sections(folder)[0]
    assert [row[2:] for row in table.rows] == [row[2:] for row in older.rows]
    for before, (name, split, *_) in zip(older.rows, table.rows, strict=True):
        number = CLASSES.index(before[0].text)
        assert name.text == {"far": f"other {number}", "near": f"class {number}"}[split.text]
    assert "older" not in table.note


def test_the_calibration_error_is_that_of_the_evaluation(tmp_path):
    """ECE of the bins against `evaluation.metrics`, which shares no code with it; shifts count the same."""
    folder = write_predicted_run(tmp_path / "run")
    expected = {}
    for split in ("id", "far", "near"):
        values, labels = map(torch.from_numpy, logits("student", split, len(CLASSES)))
        expected[split] = expected_calibration_error(values, labels, bins=10)
        found = read_predicted(folder / "predictions" / "student" / f"{split}.safetensors")
        assert calibration_error(binned([found])) == pytest.approx(expected[split], abs=1e-6)
    alts = " ".join(figure.alt for figure in sections(folder)[1].figures)
    assert f"student, ECE {100 * expected['id']:.1f} %" in alts


def test_bins_of_several_sets_weigh_each_set_alike():
    """By hand: one image at 0.95 (right) and two at 0.95 and 0.25 (wrong); shares 1/2 + 1/4 and 1/4."""
    one = Predicted(np.array([0]), np.array([0.95]), np.array([0]), 4)
    two = Predicted(np.array([0, 1]), np.array([0.95, 0.25]), np.array([1, 0]), 4)
    low, high = binned([one, two])
    assert (low.share, low.confidence, low.accuracy, low.n) == pytest.approx((0.25, 0.25, 0.0, 1))
    assert (high.share, high.confidence, high.accuracy, high.n) == pytest.approx((0.75, 0.95, 2 / 3, 2))
    assert binned([Predicted(np.array([0]), np.array([1.0]), np.array([0]), 2)])[0].confidence == 1.0


def test_logits_are_read_in_pieces_without_overflow(tmp_path, monkeypatch):
    """Pieces of 7 rows give what one piece gives; logits of 1e4 are sure, not NaN."""
    values, labels = logits("teacher", "far", 6)
    values[0] = [1e4, -1e4, 0, 0, 0, 0]
    save_file({"logits": values, "labels": labels}, tmp_path / "a.safetensors")
    monkeypatch.setattr("tracerft.reports.predicted.PIECE", 7)
    found = read_predicted(tmp_path / "a.safetensors")
    softmax, guesses = torch.from_numpy(values).double().softmax(1).max(1)
    np.testing.assert_allclose(found.confidences, softmax, rtol=1e-5)
    assert found.guesses.tolist() == guesses.tolist()
    assert found.confidences[0] == 1.0


def test_a_run_without_predictions_or_with_retrieval_has_no_such_section(tmp_path):
    """Nothing is made up."""
    assert not sections(write_run(tmp_path / "bare"))
    folder = write_predicted_run(tmp_path / "run")
    for path in (folder / "predictions").rglob("*.safetensors"):
        save_file({"image": np.ones((2, 2)), "text": np.ones((2, 2))}, path)
    assert not sections(folder)


def test_damaged_predictions_are_one_line(tmp_path):
    """Cut short, of other images, or with labels that no class has."""
    folder = write_predicted_run(tmp_path / "run")
    path = folder / "predictions" / "student" / "far.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(DataError, match="not a whole file of predictions"):
        sections(folder)
    values, labels = logits("student", "far", len(CLASSES))
    save_file({"logits": values, "labels": labels[::-1].copy()}, path)
    with pytest.raises(DataError, match="of the same images"):
        sections(folder)
    save_file({"logits": values, "labels": labels + 6}, path)
    with pytest.raises(DataError, match="`labels` must be 400 numbers from 0 to 5"):
        sections(folder)


def test_the_page_shows_hostile_class_names_as_text(tmp_path):
    """Escaped in the new table; four drawings; links and tags stay whole."""
    read = Reader(write_run_report(write_predicted_run(tmp_path / "run")).read_text(encoding="utf-8"))
    assert not read.wrong
    assert not read.stack
    assert len(read.all("svg")) == 4
    table = read.words.partition("Newly right")[2].partition("Reliability")[0]
    assert HOSTILE[0] in table
    assert HOSTILE[1] in table
    order = [read.words.rindex(t) for t in ("Accuracy against confidence", "All measures", "How to repeat it")]
    assert order == sorted(order)
