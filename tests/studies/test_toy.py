"""The toy study: how claims are judged, which strength is selected, and the whole of it in small."""

import json

import pytest

from tests.conftest import SMALL
from tracerft import running
from tracerft.errors import ArgumentError, DataError, RunFolderError
from tracerft.models.tiny import TinyDualEncoder
from tracerft.models.weights import save_model
from tracerft.sources import read_parts
from tracerft.studies import runner, toy, toy_results
from tracerft.studies.results import figure_claim, paired_claim, rows_of
from tracerft.studies.toy_results import COLUMNS, PAIRS, claims_of, measures

ARMS = ("direct", "l2-sp", "static-all", "ema-fast-all", "wma-fd", "wma-all")
TINY = toy.Size(
    pretrain=None, finetune_count=80, hold_out=0.2, steps=4, lr=1e-3, sd_weights=(0.9, 3.0), l2_weights=(0.1, 1.0),
    arms=ARMS,
)  # fmt: skip


def row(values, **rest):
    """A row with one measure."""
    return {"m": {"values": values, "mean": sum(values) / len(values)}} | rest


@pytest.mark.parametrize(
    ("better", "worse", "slack", "holds", "note"),
    [
        ([90.0, 91.0, 92.0], [80.0, 81.5, 82.0], 0.0, True, "difference +9.83 ± 0.17"),
        ([80.0, 81.5, 82.0], [90.0, 91.0, 92.0], 0.0, False, "difference -9.83 ± 0.17"),
        ([80.0, 90.0, 85.0], [86.0, 84.0, 84.0], 0.0, None, "not settled"),
        ([89.0, 90.0, 91.0], [90.0, 91.0, 92.0], 1.5, True, "difference -1.00 ± 0.00"),
        ([89.0, 90.0, 91.0], [90.0, 91.0, 92.0], 0.5, False, "difference -1.00"),
        ([89.0, 90.0, 91.0], [90.0, 91.0, 92.0], 1.0, None, "not settled"),
        ([50.0, 50.0], [50.0, 50.0], 0.0, None, "not settled"),
        ([91.0], [90.0], 0.0, True, "one seed: a direction, no more"),
        ([90.0], [91.0], 0.0, False, "one seed"),
    ],
)
def test_a_pair_is_judged_on_seed_paired_differences(better, worse, slack, holds, note):
    """Beyond two standard errors it holds or fails, within them it stays open (hand computation)."""
    found = paired_claim("x", "text", row(better), row(worse), "m", slack)
    assert found["holds"] is holds
    assert note in found["note"]


@pytest.mark.parametrize(
    ("sign", "bar", "holds"), [(">", 4.9, True), (">", 5.1, False), ("<", 5.1, True), ("<", 4.9, False)]
)
def test_a_figure_is_judged_against_its_bar(sign, bar, holds):
    """Above or below."""
    found = figure_claim("x", "text", {"mean": 5.0}, sign, bar, "note")
    assert (found["holds"], found["ours"]) == (holds, "5.0")


def values(selection, original=50.0):
    """Measures of one run."""
    found = dict.fromkeys([c["key"] for c in toy_results.COLUMNS if not c["key"].startswith(("teacher", "pretr"))], 1.0)
    return found | {"selection": selection, "original": original}


def test_rows_select_the_strength_by_the_rule():
    """The highest mean over seeds on held-out digits, whatever the test digits say."""
    results = {
        ("l2-sp", 0.1, 0): values(80.0, original=99.0),
        ("l2-sp", 0.1, 1): values(60.0, original=99.0),
        ("l2-sp", 1.0, 0): values(70.0, original=10.0),
        ("l2-sp", 1.0, 1): values(72.0, original=12.0),
        ("direct", 0.0, 0): values(50.0),
        ("direct", 0.0, 1): values(50.0),
    }
    rows = rows_of(results, COLUMNS, {"direct": "direct finetuning", "l2-sp": "L2-SP"}, {"l2-sp": 7.0})
    assert [(r["id"], r["strength"], r["selected"]) for r in rows] == [
        ("direct", None, True), ("l2-sp", 0.1, False), ("l2-sp", 1.0, True),
    ]  # fmt: skip
    chosen = rows[2]
    assert chosen["original"] == {"mean": 11.0, "std": pytest.approx(2**0.5), "values": [10.0, 12.0]}
    assert (chosen["n"], chosen["pretrained_share"], rows[0]["pretrained_share"]) == (2, 7.0, None)
    assert chosen["teacher_original"] is None


def test_measures_are_percent():
    """Forgetting is what was lost against the start; selection is the mean of the held-out splits."""

    def of(top1, ece=0.1):
        return {"top1": top1, "ece_15": ece}

    shifts = {"colour-random": of(0.6), "colour-flipped": of(0.5)}
    end = {"id": of(0.9), "original": of(0.7, 0.2), "select-id": of(0.8), "select-original": of(0.6), **shifts}
    found = measures(end, {"original": of(0.95)}, {"original": of(0.92), "id": of(0.85)})
    assert found == pytest.approx(
        {"original": 70, "coloured": 90, "forgetting": 25, "colour_random": 60, "colour_flipped": 50,
         "ece_original": 20, "ece_coloured": 10, "selection": 70, "teacher_original": 92, "teacher_coloured": 85}
    )  # fmt: skip


def test_claims_without_their_arms_say_so():
    """A size that leaves an arm out leaves the claim open."""
    cell = {"mean": 40.0, "values": [40.0]}
    cells = dict.fromkeys(("original", "coloured", "forgetting"), cell)
    rows = [{"id": name, "selected": True, **cells} for name in ("pretrained", "direct", "wma-all")]
    found = {c["id"]: c for c in claims_of(rows)}
    assert len(found) == 2 + len(PAIRS)
    assert found["direct-forgets"]["holds"] is True
    assert found["tracer-keeps"]["holds"] is False
    assert found["tracer-learns"]["holds"] is True
    assert (found["l2-keeps"]["holds"], found["l2-keeps"]["ours"]) == (None, "not run in this size")


def in_process(configs, workers, progress=None, read=read_parts):
    """`run_all` without processes of its own."""
    for done, config in enumerate(configs, start=1):
        runner._worker(config, read)
        if progress:
            progress(done, len(configs), config.out)
    return [runner.finish(config) for config in configs]


@pytest.fixture(scope="module")
def study(digits_folder, tmp_path_factory):
    """The study in small with two seeds, and what it was made with."""
    out = tmp_path_factory.mktemp("study") / "toy"
    start = save_model(TinyDualEncoder(SMALL, seed=3), tmp_path_factory.mktemp("start") / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(toy.SIZES, "small", TINY)
        patch.setattr(toy, "_pretrain", lambda out, size, data, seeds, workers, progress: [str(start)] * seeds)
        patch.setattr(toy, "run_all", in_process)
        patch.setattr(running, "write_run_report", lambda folder: None)
        done = []
        report = toy.run(out, size="small", data=digits_folder, seeds=2, progress=lambda *a: done.append(a))
        times = {p: p.stat().st_mtime_ns for p in (out / "runs").rglob("*") if p.is_file()}
        toy.run(out, size="small", data=digits_folder, seeds=2)
    return out, report, done, times


def test_the_study_runs_from_end_to_end(study):
    """A report, a study.json with every point, every claim, and figures that exist."""
    out, report, done, _ = study
    assert report == out / "report.html"
    assert len(done) == (1 + 5 * 2) * 2
    found = json.loads((out / "study.json").read_text())
    points = {(r["id"], r["strength"]) for r in found["rows"]}
    alphas = {("wise-ft", round(0.1 * k, 1)) for k in range(1, 10)}
    strengths = {(a, s) for a in ARMS[2:] for s in TINY.sd_weights} | {("l2-sp", s) for s in TINY.l2_weights}
    assert points == {("pretrained", None), ("direct", None)} | strengths | alphas
    assert all(r["n"] == 2 for r in found["rows"])
    assert len(found["claims"]) == 2 + len(PAIRS)
    assert len(found["headline"]) == 4
    assert all((out / figure["file"]).is_file() for figure in found["figures"])


def test_one_strength_a_method_is_selected_by_its_held_out_score(study):
    """WiSE-FT by the same rule as the others."""
    rows = json.loads((study[0] / "study.json").read_text())["rows"]
    for name in {r["id"] for r in rows}:
        of_method = [r for r in rows if r["id"] == name]
        (chosen,) = [r for r in of_method if r["selected"]]
        assert chosen["selection"]["mean"] == max(r["selection"]["mean"] for r in of_method)


def test_a_second_call_runs_nothing_again(study):
    """Finished runs are read."""
    out, _, _, times = study
    assert {p: p.stat().st_mtime_ns for p in times} == times
    assert {p for p in (out / "runs").rglob("*") if p.is_file()} == set(times)


def test_a_run_of_other_settings_in_the_folder_is_refused(study, digits_folder):
    """Rather than mixed in."""
    out, _, _, _ = study
    config = toy._config(out, TINY, toy.ARMS["direct"], 0.0, "elsewhere", "tiny", 0)
    with pytest.raises(RunFolderError, match="holds a run with other settings"):
        runner.finish(config)


def test_the_arms_differ_in_method_loss_and_teacher_only(study):
    """Same start, data, steps, optimiser and freezing for all."""
    configs = [json.loads(p.read_text())["config"] for p in (study[0] / "runs").rglob("record.json")]
    for name in ("train", "digits", "model", "data", "freeze"):
        seen = {json.dumps({k: v for k, v in c[name].items() if k != "seed"} if isinstance(c[name], dict) else c[name])
                for c in configs}  # fmt: skip
        assert len(seen) == 1, name


def test_runs_go_through_processes_of_their_own(digits_folder, small_model, tmp_path):
    """One run in a spawned worker, the progress told, the result read back."""
    config = toy._config(tmp_path, TINY, toy.ARMS["direct"], 0.0, str(digits_folder), str(small_model), 0)
    told = []
    (run,) = runner.run_all([config], 1, lambda *a: told.append(a))
    assert run.record["method"] == "flyp"
    assert told == [(0, 1, ""), (1, 1, "direct-0-seed0")]
    with pytest.raises(ArgumentError, match="`workers` must be at least 1"):
        runner.run_all([config], 0)


@pytest.mark.parametrize("size", ["standard", "full"])
def test_sizes_that_need_mnist_say_so(size, tmp_path):
    """Before anything is made."""
    with pytest.raises(DataError, match="needs all of MNIST"):
        toy.run(tmp_path / "out", size=size)
    assert not (tmp_path / "out").exists()


def test_every_size_compares_what_the_claims_need():
    """Arms exist, direct and TRACER are among them, strengths are positive and rise."""
    for size in toy.SIZES.values():
        assert set(size.arms) <= set(toy.ARMS)
        assert {"direct", "wma-all"} <= set(size.arms)
        for strengths in (size.sd_weights, size.l2_weights):
            assert list(strengths) == sorted(set(strengths))
            assert strengths[0] > 0


def test_a_half_life_is_a_share_of_the_run():
    """After half_life * T updates half is forgotten."""
    assert toy._momentum(0.5, 100) ** 50 == pytest.approx(0.5)
