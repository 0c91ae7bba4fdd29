"""One run on images with a model of open_clip, from its parts to its folder."""

import json
import math
from collections import Counter
from dataclasses import asdict

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import save_file

import tracerft
from tests.data.pictures import class_set
from tests.image_runs import CLASSES, TRAIN, captions, config, finetune, make_data
from tests.models.small import folder as small_folder
from tests.models.small import images
from tests.reference.averages import beta_log_weights, offline_average
from tests.runs import Cut, contents, cut_at
from tracerft.api import make_ready
from tracerft.data import loading
from tracerft.data.sampling import batch_at
from tracerft.errors import ArgumentError, DataError, RunFolderError, StateError
from tracerft.evaluation.metrics import summarise
from tracerft.methods import self_distillation
from tracerft.models.effective import effective_state
from tracerft.models.encoder import embed
from tracerft.models.open_clip import ShortTextCLIP
from tracerft.models.weights import load_tensors
from tracerft.reports.forgetting import forgetting_sections
from tracerft.reports.record import read_record
from tracerft.studies import runner
from tracerft.training.trainer import refuse_changes

RETRIEVAL = {"n", "n_images", "n_texts"} | {f"{way}_r{k}" for way in ("image_to_text", "text_to_image")
                                            for k in (1, 5, 10)}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures in class folders, with captions, and a suite."""
    return make_data(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """TRACER on class folders, evaluated on a suite."""
    return finetune(data / "photos", tmp_path_factory.mktemp("runs") / "run", suite=data / "shifts.yaml")


@pytest.fixture(scope="module")
def told(data, tmp_path_factory):
    """TRACER on captions, evaluated on what is held out."""
    return finetune(data / "pairs.csv", tmp_path_factory.mktemp("runs") / "told")


def test_the_record_tells_what_was_read(run, data):
    """Sizes and hashes of each split, classes, parameters; and is what was written."""
    record = json.loads((run.folder / "record.json").read_text())
    assert record == run.record
    assert (record["status"], record["steps"], record["method"]) == ("finished", 3, "tracer")
    assert record["classes"] == list(CLASSES)
    assert record["class_lists"] == [list(CLASSES)]
    assert {n: of["class_list"] for n, of in record["data"].items() if "class_list" in of} == {
        "id": 0, "sketches": 0, "select-id": 0,
    }  # fmt: skip
    assert {name: of["n"] for name, of in record["data"].items()} == {
        "train": 15, "id": 12, "sketches": 6, "told": 12, "select-id": 3,
    }  # fmt: skip
    assert len({of["sha256"] for of in record["data"].values()}) == 5
    assert record["parameters"]["trained"] == record["parameters"]["total"]
    assert record["config"]["data"] == str(data / "photos")
    assert record["config"] == yaml.safe_load((run.folder / "config.yaml").read_text())
    assert list(record["results"]) == ["pretrained", "student", "teacher"]
    assert record["warnings"] == []


def test_what_was_forgotten_is_named_by_the_shifts_own_classes(data, tmp_path):
    """As many classes as the task, none of them the task's; predictions are made up so that all of them fall."""
    other = ("bird", "cow", "fish")
    class_set(data / "others", other, 5)
    suite = data / "others.yaml"
    suite.write_text(f"id: {{data: photos-test}}\nshifts:\n  o: {{data: others, subset: [{', '.join(other)}]}}\n")
    made = finetune(data / "photos", tmp_path / "run", suite=suite)
    assert made.record["class_lists"] == [list(CLASSES), list(other)]
    for model, sign in (("pretrained", 1.0), ("student", -1.0)):
        rows = torch.eye(3).repeat_interleave(5, 0) * sign
        path = made.folder / "predictions" / model / "o.safetensors"
        save_file({"logits": rows, "labels": torch.arange(3).repeat_interleave(5)}, path)
    table = forgetting_sections(made.folder, read_record(made.folder))[0]
    assert [row[0].text for row in table.rows] == list(other)


def test_examples_are_of_what_is_reported_and_classified(run):
    """Neither of the held-out images nor of those that are retrieved; nothing else lies there."""
    names = {path.name for path in (run.folder / "predictions" / "examples").iterdir()}
    assert names == {"id.safetensors", "sketches.safetensors"}


def test_splits_without_labels_are_retrieved(run):
    """Six distinct captions for twelve images: recall at ten is not defined there; the rest is classified."""
    for of_model in run.results.values():
        assert set(of_model["told"]) == RETRIEVAL
        assert (of_model["told"]["n_images"], of_model["told"]["n_texts"]) == (12, 6)
        assert of_model["told"]["image_to_text_r10"] is None
        assert 0 <= of_model["told"]["text_to_image_r1"] <= 1
        assert "top1" in of_model["sketches"]
        assert of_model["sketches"]["metric"] == "macro_f1"
        assert "metric" not in of_model["id"]


def test_kept_predictions_give_the_record_again(run):
    """Logits of all three classes where the shift shows two."""
    kept = load_tensors(run.folder / "predictions" / "student" / "sketches.safetensors")
    assert kept["logits"].shape == (6, 3)
    assert set(kept["labels"].tolist()) == {1, 2}
    metrics = run.results["student"]["sketches"]
    assert {k: v for k, v in metrics.items() if k != "metric"} == summarise(kept["logits"], kept["labels"])
    kept = load_tensors(run.folder / "predictions" / "student" / "told.safetensors")
    assert (len(kept["image"]), len(kept["text"])) == (12, 6)


def test_tables_and_report_show_both_kinds(run, told):
    """Accuracy, recall and the metric that a split asks for; a page without any accuracy too."""
    assert all(head in str(run) for head in ("top-1 %", "R@1", "macro F1"))
    assert "macro F1" not in str(told)
    assert "top-1" not in str(told)
    page = (run.folder / "report.html").read_text()
    assert "Image to text R@1" in page
    assert "Accuracy</" in page
    assert "Accuracy</" not in (told.folder / "report.html").read_text()


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_stock_open_clip_loads_what_came_out(name, run):
    """With equal embeddings, and other ones than the start's."""
    ours = tracerft.load_model(run.folder / name)
    stock = open_clip.create_model(f"local-dir:{run.folder / name}").eval()
    start = tracerft.load_model(small_folder("vit")).model
    pixels = images()
    tokens = open_clip.get_tokenizer(f"local-dir:{run.folder / name}")(list(CLASSES))
    assert torch.equal(tokens, ours.tokenize(CLASSES))
    with torch.no_grad():
        torch.testing.assert_close(stock.encode_image(pixels), ours.model.encode_image(pixels), rtol=0, atol=1e-6)
        torch.testing.assert_close(stock.encode_text(tokens), ours.model.encode_text(tokens), rtol=0, atol=1e-6)
        assert not torch.allclose(stock.encode_image(pixels), start.encode_image(pixels), atol=1e-4)


def test_evaluate_gives_the_record_again_and_the_line_between(run, data):
    """On the suite's own splits, with hits of the labelled ones only."""
    found = tracerft.evaluate(run, data / "shifts.yaml", interpolate=3)
    assert list(found.results) == ["pretrained", "student", "student-wise-0.50", "teacher", "teacher-wise-0.50"]
    for name in ("pretrained", "student", "teacher"):
        assert found.results[name] == {s: run.results[name][s] for s in ("id", "sketches", "told")}
    assert set(found.results["teacher-wise-0.50"]["told"]) == RETRIEVAL
    assert found.results["student-wise-0.50"] not in (found.results["pretrained"], found.results["student"])
    assert set(found.hits) == {"id", "sketches"}
    hits = found.hits["id"]["student"]
    assert hits.double().mean().item() == pytest.approx(run.results["student"]["id"]["top1"])
    assert tracerft.evaluate(run.folder).results == run.results


def test_a_sweep_decodes_each_image_once_and_embeds_it_once_a_model(run, data, monkeypatch):
    """The start, the student and the teacher with nine points between, on three splits of 30 images; counted."""
    decoded, embedded = Counter(), Counter()
    decode, encode = loading.decode, ShortTextCLIP.encode_image

    def counted_decode(data, name):
        decoded[name, data] += 1  # two sets have files of one name
        return decode(data, name)

    def counted_encode(model, images, **options):
        embedded[id(model)] += len(images)
        return encode(model, images, **options)

    monkeypatch.setattr(loading, "decode", counted_decode)
    monkeypatch.setattr(ShortTextCLIP, "encode_image", counted_encode)
    found = tracerft.evaluate(run, data / "shifts.yaml", interpolate=11)
    assert len(found.results) == 3 + 2 * 9
    assert sorted(decoded.values()) == [1] * 30
    assert list(embedded.values()) == [30] * 21


def test_another_suite_keeps_the_runs_classes(run, data):
    """Two class folders, three classes in the head."""
    found = tracerft.evaluate(run, data / "sketches").results["student"]["id"]
    assert found == {k: v for k, v in run.results["student"]["sketches"].items() if k != "metric"}


def test_captions_alone_are_trained_on(told):
    """What is held out is retrieved; there are no classes."""
    assert told.record["classes"] == []
    assert {name: of["n"] for name, of in told.record["data"].items()} == {"train": 14, "id": 4}
    assert all(set(of_model["id"]) == RETRIEVAL for of_model in told.results.values())
    assert tracerft.evaluate(told).results == told.results


def test_classes_that_do_not_match_are_a_data_error(run, data, tmp_path):
    """In one line with the names, before a run's folder is made and when a run is evaluated."""
    (data / "other.yaml").write_text("id: {data: photos-test}\nshifts:\n  away: {data: away}\n")
    captions(data / "away.csv", ["x"])
    (data / "away/bird").mkdir()
    (data / "away/0.png").rename(data / "away/bird/0.png")
    for call in (
        lambda: tracerft.evaluate(run, data / "other.yaml"),
        lambda: finetune(data / "photos", tmp_path / "run", suite=data / "other.yaml"),
    ):
        with pytest.raises(DataError, match="1 classes are not in the first: bird") as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("source", "targets"), [("photos", "multi_positive"), ("pairs.csv", "diagonal"), ("told.csv", "multi_positive")]
)
def test_targets_are_decided_by_how_captions_repeat(source, targets, data):
    """Few classes share captions within a batch; distinct captions do not."""
    given = config(data / source, loss={"targets": "auto"}, templates="a {}.")
    assert make_ready(given).config.loss.targets == targets
    assert make_ready(config(data / source, loss={"targets": "masked"})).config.loss.targets == "masked"


def test_decided_targets_are_written(run, told):
    """So the folder says what was done."""
    assert [r.record["config"]["loss"]["targets"] for r in (run, told)] == ["multi_positive", "diagonal"]


@pytest.mark.parametrize("lora", [{}, {"rank": 2}])
@pytest.mark.parametrize("step", [1, 3])
def test_a_run_on_images_resumes_to_the_same_bytes(step, lora, run, data, tmp_path):
    """Crops, captions, optimiser and teacher go on where they were; with adapters too."""
    options = {"suite": data / "shifts.yaml", "lora": lora}
    with pytest.raises(Cut):
        finetune(data / "photos", tmp_path / "cut", progress=cut_at(step), **options)
    torch.randn(1)  # the global generator is elsewhere by then
    finetune(data / "photos", tmp_path / "cut", resume=True, **options)
    whole = run if not lora else finetune(data / "photos", tmp_path / "whole", **options)
    assert contents(tmp_path / "cut") == contents(whole.folder)


def test_another_seed_is_refused_when_a_run_is_resumed(run, data):
    """And a run that is there is not written over."""
    (run.folder / "record.json").rename(run.folder / "kept.json")
    try:
        with pytest.raises(StateError, match=r"train\.seed"):
            finetune(data / "photos", run.folder, suite=data / "shifts.yaml", train={"seed": 1}, resume=True)
    finally:
        (run.folder / "kept.json").rename(run.folder / "record.json")
    with pytest.raises(RunFolderError, match="exists and is not empty"):
        finetune(data / "photos", run.folder)


def test_the_teacher_of_a_run_with_adapters_is_exact(data, tmp_path, monkeypatch):
    """The kernel's average of the effective weights of every step, by plain sums in float64; probes read it as well."""
    seen, first = [], tracerft.load_model(small_folder("vit")).model

    def noted(model):
        seen.append({name: tensor.clone() for name, tensor in effective_state(model).items()})
        return real(model)

    real = self_distillation.effective
    monkeypatch.setattr(self_distillation, "effective", noted)
    made = finetune(data / "photos", tmp_path / "run", lora={"rank": 2}, train={"lr": 1e-2, "probe_every": 1})
    weights = beta_log_weights(0.5, 0.5, 3, 1, "point")
    teacher = tracerft.load_model(made.folder / "teacher").model
    student = tracerft.load_model(made.folder / "student").model.state_dict()
    assert len(seen) == 3
    moved = 0
    for name, parameter in teacher.named_parameters():
        path = [dict(first.named_parameters())[name].detach(), *(state[name] for state in seen)]
        expected, share = offline_average(path, weights, 3)
        torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(student[name], path[-1], rtol=0, atol=1e-6)
        moved += not torch.equal(path[0], path[-1])
    assert made.record["pretrained_weight"] == pytest.approx(share)
    assert moved == 16  # four layers in each of two blocks of two towers
    assert 0 < made.record["parameters"]["trained"] < 0.02 * made.record["parameters"]["total"]
    gaps = [json.loads(line).get("gap_weights") for line in (made.folder / "metrics.jsonl").read_text().splitlines()]
    difference = [(p - student[name]).double().square().sum() for name, p in teacher.named_parameters()]
    assert gaps[-1] == pytest.approx(torch.stack(difference).sum().sqrt().item(), rel=1e-4)


def test_a_run_with_adapters_repeats(data):
    """Their first factor is drawn by the run's seed, whatever was drawn before; the global generator stays."""
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(states))
        before = torch.random.get_rng_state()
        ready = make_ready(config(data / "photos", lora={"rank": 2}, train={"seed": seed}))
        assert torch.equal(torch.random.get_rng_state(), before)
        states.append({n: p for n, p in ready.loaded.model.named_parameters() if "lora_A" in n})
    assert all(torch.equal(p, states[1][n]) for n, p in states[0].items())
    assert not any(torch.equal(p, states[2][n]) for n, p in states[0].items())


@pytest.mark.parametrize(("freeze", "of_image"), [("text", True), ("image", False)])
def test_frozen_towers_have_no_adapters(freeze, of_image, data):
    """Only the other tower's layers train."""
    ready = make_ready(config(data / "photos", lora={"rank": 2}, freeze=freeze))
    trained = [n for n, p in ready.loaded.model.named_parameters() if p.requires_grad]
    assert trained
    assert all(".lora_" in n and n.startswith("visual.") == of_image for n in trained)


def test_a_model_with_a_bias_trains_with_the_sigmoid_loss(data, tmp_path):
    """SigLIP's loss of the first batch by hand; scale and bias train with the rest."""
    given = config(data / "photos", "siglip", method="flyp", templates="a {}.", augment=False)
    ready = make_ready(given)
    _, ids = batch_at(0, 0, len(ready.parts.source), 6)
    batch = ready.parts.source.batch(ids, 0)
    terms = ready.method.objective(embed(ready.loaded.model, batch), {}, batch)
    with torch.no_grad():
        model = ready.loaded.model
        image = F.normalize(model.encode_image(batch.images), dim=1)
        text = F.normalize(model.encode_text(batch.tokens), dim=1)
        logits = model.logit_scale.exp() * image @ text.T + model.logit_bias
    same = batch.caption_ids[:, None] == batch.caption_ids[None]
    expected = -F.logsigmoid(torch.where(same, logits, -logits)).sum() / len(ids)
    assert terms.total.item() == pytest.approx(expected.item(), rel=1e-5)
    for method in ("flyp", "tracer"):
        made = finetune(data / "photos", tmp_path / method, "siglip", method=method, templates="a {}.", augment=False)
        first = json.loads((made.folder / "metrics.jsonl").read_text().splitlines()[0])
        assert first["contrastive"] == pytest.approx(expected.item(), rel=1e-4)
        end = tracerft.load_model(made.folder / "student").model
        assert end.logit_bias.item() != pytest.approx(-10, abs=1e-6)
        assert math.isfinite(made.results["student"]["id"]["nll"])


def test_what_cannot_train_is_told_before_a_folder_is_made(data, tmp_path):
    """One line each."""
    for options, kind, message in (
        ({"hold_out": 0.0}, ArgumentError, "`suite` must be given when `hold_out` is 0"),
        ({"train": {"batch_size": 16}}, DataError, "15 samples, less than one batch of 16"),
        ({"templates": "no place"}, DataError, "neither a name"),
        ({"classes": data / "none.txt"}, DataError, "class names cannot be read"),
        ({"columns": {"imag": "x"}}, ArgumentError, r"unknown option `columns\.imag` \(did you mean 'image'\?\)"),
    ):
        with pytest.raises(kind, match=message) as caught:
            finetune(data / "photos", tmp_path / "run", **options)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_study_finds_its_run_again_with_targets_left_to_auto(data, tmp_path):
    """They are decided when it is written; another setting is still another run."""
    given = config(data / "photos", out=str(tmp_path / "run"), method="flyp", train={"steps": 1})
    first = runner.finish(given)
    assert first.record["config"] == asdict(given) | {"loss": asdict(given.loss) | {"targets": "multi_positive"}}
    assert runner.finish(given).record == first.record
    assert not (tmp_path / "run/predictions").exists()
    assert not (tmp_path / "run/checkpoints").exists()
    with pytest.raises(RunFolderError, match="holds a run with other settings"):
        runner.finish(config(data / "photos", out=str(tmp_path / "run"), method="flyp", train={"steps": 2}))


def test_all_batches_are_within_the_training_part(run, data):
    """No image of the held-out part is trained on."""
    parts = make_ready(config(data / "photos")).parts
    trained = {s.name for s in parts.source.manifest.samples}
    held = {s.name for s in parts.suite.id.images.manifest.samples}
    assert (len(trained), len(held), trained & held) == (15, 3, set())
    assert TRAIN["batch_size"] * 2 <= len(trained)
    assert np.isfinite(run.record["seconds"])


def test_what_a_method_refuses_at_its_start_leaves_no_folder(data, tmp_path):
    """SigLIP has no plain projections for CaRot; the same --out works with another method."""
    from tests.models.small import hf_folder

    options = {"data": data / "photos", "out": tmp_path / "run", "train": TRAIN}
    with pytest.raises(ArgumentError, match="projection matrices"):
        tracerft.finetune(f"hf:{hf_folder('siglip')}", method="carot", **options)
    assert not (tmp_path / "run").exists()
    finetune(data / "photos", tmp_path / "run", method="flyp")


def test_a_run_of_many_samples_does_not_go_on_from_an_order_that_was_listed(data, monkeypatch):
    """The network's name is in the fingerprint where it is used, and only there, so that smaller runs go on."""
    listed = make_ready(config(data / "photos")).plan.fingerprint
    monkeypatch.setattr("tracerft.preparing.LISTED", 5)
    walked = make_ready(config(data / "photos")).plan.fingerprint
    assert {**listed, "order": "feistel"} == walked
    with pytest.raises(StateError, match=r"1 thing\(s\) changed: order: None then, 'feistel' now"):
        refuse_changes(listed, walked)
