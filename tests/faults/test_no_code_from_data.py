"""Data is never run: no door for it in the source, and none used by train, resume, evaluate and export."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import tracerft
from tests.faults.code_rules import JUSTIFIED, findings
from tests.models import small
from tests.runs import TRAIN
from tracerft.data.strict_yaml import _StrictLoader

SOURCE = Path(tracerft.__file__).parent

FORBIDDEN = {
    "import pickle": "import of pickle",
    "from pickle import loads": "import of pickle.loads",
    "import joblib as j": "import of joblib",
    "import torch as t\nt.load(p, weights_only=True)": "torch.load",
    "from torch import load\nload(p)": "torch.load without weights_only=True",
    "import torch\ntorch.load(p, weights_only=w)": "torch.load without weights_only=True",
    "eval(text)": "eval",
    "def f(text):\n    exec(text)": "exec",
    "__import__(name)": "__import__",
    "import os\nos.system(text)": "os.system",
    "import yaml\nyaml.load(text, yaml.Loader)": "yaml.load",
    "from yaml import unsafe_load as safe_load\nsafe_load(text)": "yaml.unsafe_load",
    "import numpy as np\nnp.load(p, allow_pickle=True)": "allow_pickle that is not False",
    "AutoModel.from_pretrained(p, trust_remote_code=flag)": "trust_remote_code that is not False",
    "import subprocess\nsubprocess.run(text, shell=True)": "shell that is not False",
    "from importlib import import_module as m\nm(name)": "import_module of a variable",
    "import importlib.util\nimportlib.util.spec_from_file_location('n', p)": "importlib.util.spec_from_file_location",
}
HARMLESS = "import re, torch\nmodel.eval()\nre.compile('x')\nnp.load(p, allow_pickle=False)\nm('json')\n"


@pytest.mark.parametrize(("code", "expected"), FORBIDDEN.items())
def test_each_rule_sees_what_it_forbids(code, expected, tmp_path):
    """One snippet a rule, under an alias where one would hide it."""
    (tmp_path / "snippet.py").write_text(code)
    assert expected in list(findings(tmp_path / "snippet.py"))


def test_harmless_code_passes_the_rules(tmp_path):
    """Methods of those names are not the functions."""
    (tmp_path / "snippet.py").write_text("from importlib import import_module as m\n" + HARMLESS)
    assert list(findings(tmp_path / "snippet.py")) == []


def test_the_source_does_only_what_is_justified():
    """Every finding is in the list of exceptions, and the list holds nothing that is gone."""
    found = {(str(p.relative_to(SOURCE)), what) for p in sorted(SOURCE.rglob("*.py")) for what in findings(p)}
    assert found == set(JUSTIFIED)


def test_the_strict_loader_is_a_safe_one():
    """What the exception for `yaml.load` rests on."""
    assert issubclass(_StrictLoader, yaml.SafeLoader)
    with pytest.raises(yaml.YAMLError, match="could not determine a constructor"):
        yaml.load("!!python/object/apply:os.getpid []", Loader=_StrictLoader)


# Text of the run's own inputs that would show up in whatever compiled or imported it.
MARK = "canary0x5eed"

WATCHED = """
import json, os, sys, sysconfig
from pathlib import Path
steps, mark, own = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
seen = {"events": 0, "bad": []}
roots = tuple({*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix, own})
def hook(event, arguments):
    if event in ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "socket.connect"):
        seen["bad"].append([event, str(arguments)])
    elif event in ("compile", "exec", "import"):
        seen["events"] += 1
        text = str(arguments)
        if event == "exec":
            file = arguments[0].co_filename
            text += "".join(map(str, arguments[0].co_consts)) + " ".join(arguments[0].co_names)
            if not file.startswith(("<", *roots)):
                seen["bad"].append([event, file])
        if mark in text:
            seen["bad"].append([event, text[:200]])
sys.addaudithook(hook)
from tracerft.cli.main import run
for step in steps:
    if "python" in step:
        exec(step["python"])
        continue
    code = run(step["command"])
    assert code == 0, (step, code)
print(json.dumps(seen))
"""


def watched(folder, *steps):
    """What the audit hook of a process saw while it took ``steps``: command lines, or Python for the controls."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WATCHED, json.dumps(steps), MARK, str(SOURCE)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_hook_sees_a_pickle_and_code_from_data(tmp_path):
    """The control: each of three ways in is reported."""
    (tmp_path / f"{MARK}.py").write_text("")
    ways = (
        "import pickle, collections; pickle.loads(pickle.dumps(collections.OrderedDict))",
        "text = 'len(' + repr(mark) + ')'; eval(text)",
        "import runpy; runpy.run_path(next(str(p) for p in Path().iterdir()))",
    )
    seen = watched(tmp_path, *({"python": way} for way in ways))
    events = [event for event, _ in seen["bad"]]
    assert {"pickle.find_class", "compile", "exec"} <= set(events)


def test_train_resume_evaluate_and_export_run_no_data(small_model, digits_folder, tmp_path):
    """No class is looked up for a pickle, nothing is compiled or imported that holds the inputs' own words."""
    out, data = tmp_path / MARK / "run", tmp_path / MARK / "digits"
    data.parent.mkdir()
    data.symlink_to(digits_folder)
    options = [f"--train.{key}={value}" for key, value in TRAIN.items()]
    options += [f"--templates={MARK} {{}}"]
    train = ["finetune", "--model", str(small_model), "--data", str(data), "--out", str(out), *options]
    seen = watched(
        tmp_path,
        {"command": train},
        {"python": "next(Path().rglob('record.json')).unlink()"},  # as if it had been cut off at the very end
        {"command": ["finetune", "--resume", str(out)]},
        {"command": ["evaluate", str(out), "--interpolate", "2", "--json"]},
        {"command": ["export", str(small.folder("vit")), "--to", "open_clip", "--out", str(tmp_path / MARK / "to")]},
    )
    assert seen["bad"] == []
    assert seen["events"] > 1000
    assert (out / "record.json").is_file()
    assert any((tmp_path / MARK / "to").glob("*.safetensors"))
