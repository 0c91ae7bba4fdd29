"""The command: exit codes, one line a mistake, results alone on stdout."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from tests.runs import TRAIN
from tracerft.cli.finetune import presets, read_options
from tracerft.cli.main import COMMANDS, HELP, one_line, run
from tracerft.config import FinetuneConfig, TrainConfig
from tracerft.methods import METHODS
from tracerft.reports.run import write_run_report
from tracerft.reports.trade_off import INTERPOLATED

OPTIONS = [f"--train.{key}={value}" for key, value in TRAIN.items()]


@pytest.fixture(scope="module")
def finished(small_model, digits_folder, tmp_path_factory):
    """A run made by the command."""
    out = tmp_path_factory.mktemp("cli") / "run"
    arguments = ["--model", str(small_model), "--data", str(digits_folder), "--out", str(out)]
    assert run(["finetune", *arguments, *OPTIONS]) == 0
    return out


def exit_code(arguments):
    """Of a command that may also exit by itself, as --help does."""
    try:
        return run(arguments)
    except SystemExit as stop:
        return stop.code


def refused(arguments, capsys) -> str:
    """The one line on stderr of a command that the user got wrong."""
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tracerft: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def test_help_names_every_command(capsys):
    """And exits with 0; nothing at all is a mistake."""
    assert run(["--help"]) == 0
    assert capsys.readouterr().out == HELP
    assert all(f"  {name}" in HELP for name in COMMANDS)
    assert run([]) == 2


def test_version_is_that_of_the_package(capsys):
    """One line."""
    import tracerft

    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == tracerft.__version__


@pytest.mark.parametrize(
    "arguments", [[c, "--help"] for c in COMMANDS] + [["study", n, "--help"] for n in ("toy", "theory", "paper")]
)
def test_every_command_has_help(arguments, capsys):
    """On stdout, exit 0."""
    assert exit_code(arguments) == 0
    assert "usage: tracerft" in capsys.readouterr().out


def test_finetune_help_shows_defaults_and_no_types(capsys):
    """Readable: one usage line, a default where there is one, no Python type names."""
    with pytest.raises(SystemExit):
        run(["finetune", "--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: tracerft finetune --model MODEL --data DATA --out FOLDER [options]\n\n")
    assert "peak learning rate of AdamW (default: 1e-05)" in text
    assert "of data order, augmentation and initial weights (default: 0)" in text
    assert "type:" not in text
    assert "null" not in text
    assert max(map(len, text.splitlines())) <= 120


PINNED = {
    "--help", "--config", "--print_config", "--preset", "--resume", "--json", "--model", "--data", "--out",
    "--method", "--freeze", "--train", "--teacher", "--loss", "--digits", "--columns", "--lora", "--dry_run",
    "--suite", "--templates", "--classes", "--hold_out", "--broken", "--augment", "--pool",
    "--probe", "--guard", "--log", "--examples",
}  # fmt: skip


def test_the_flags_of_finetune_are_few_and_pinned():
    """Adding one is a decision; options of groups are the fields of `config.py`."""
    from tracerft.cli.finetune import build_parser

    known = {o for action in build_parser()._actions for o in action.option_strings if o.startswith("--")}
    assert {o for o in known if "." not in o} == PINNED


def test_help_needs_no_torch():
    """Importing the command and building the parser of finetune stays light."""
    code = (
        "import sys, tracerft.cli.main\n"
        "try: tracerft.cli.main.run(['finetune', '--help'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--train.lr" in done.stdout


def test_python_m_tracerft_is_the_command():
    """Exit code and stdout come through."""
    done = subprocess.run([sys.executable, "-m", "tracerft", "methods"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert all(name in done.stdout for name in METHODS)
    done = subprocess.run([sys.executable, "-m", "tracerft", "method"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "did you mean 'methods'?" in done.stderr


RUN = ["finetune", "--model", "tiny:random", "--data", "digits", "--out", "never"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["finetun"], "unknown command 'finetun' (did you mean 'finetune'?); see tracerft --help"),
        (["finetune", "--trian.lr", "1"], "unknown option --trian.lr (did you mean '--train.lr'?)"),
        (["evaluate", "x", "--interpolat=3"], "unknown option --interpolat (did you mean '--interpolate'?)"),
        (["finetune", "--preset", "digit"], "unknown preset 'digit' (did you mean 'digits'?); there are: digits"),
        (["finetune", "--preset=digit"], "unknown preset 'digit' (did you mean 'digits'?)"),
        (["finetune", "--preset"], "unknown preset ''"),
        (["finetune"], "--model and --data and --out must be given"),
        (["finetune", "stray"], "unrecognized arguments: stray"),
        (["finetune", "--train.lr", "fast"], 'option "train.lr": expected float; got fast'),
        (["finetune", "--train.lr"], "argument --train.lr: expected one argument"),
        ([*RUN, "--method", "trace"], "got 'trace' (did you mean 'tracer'?)"),
        (
            [*RUN, "--train.steps", "0"],
            "`train.steps` must be at least 1 (or leave it out and set train.epochs); got 0",
        ),
        ([*RUN, "--train.batch_size", "1", "--train.lr=-1"], "one pair has no negatives; got 1; `train.lr` must be"),
        ([*RUN, "--method=flyp", "--loss.sd_weight=1"], "`method` flyp does not read loss.sd_weight"),
        (
            ["finetune", "--preset=iwildcam", "--data=d", "--out=o", "--method=flyp", "--loss.fd=2"],
            "`method` flyp does not read loss.fd; leave out what it does not use, or choose another method",
        ),
        ([*RUN, "--probe=lbfgs"], "`method` tracer does not read probe"),
        (["finetune", "--model", "tiny:randon", "--data", "digits", "--out", "never"], "did you mean 'tiny:random'?"),
        (["finetune", "--resume", "nowhere"], "nothing to resume, no config.yaml there"),
        (["evaluate", "nowhere"], "`model` 'nowhere' is neither a known name nor a folder"),
        (["evaluate"], "the following arguments are required: model"),
        (["evaluate", "tiny:random", "--interpolate", "1"], "must be 0 or at least 2 points"),
        (["evaluate", "tiny:random", "--interpolate", "3"], "need a run folder"),
        (["report", "nowhere"], "no record.json and no study.json"),
        (["study", "toi"], "unknown study 'toi' (did you mean 'toy'?)"),
        (["study", "paper"], "`imagenet` must be given: the folder with train and val; or add --dry_run for a plan"),
        (["study", "paper", "--imagenet", "nowhere"], "no folder train and no val in it; expected train and val"),
        (["study", "paper", "--dry_run", "--tables", "4"], "ViT-B/16 is in Tables 1, 2, 3, 5, 8, 9, 10, 11; got '4'"),
        (["study", "paper", "--dry_run", "--batch_size", "1"], "`batch_size` must be at least 2; got 1"),
        (["study", "toy", "--size", "quik"], "did you mean 'quick'?"),
        (["study", "toy", "--size", "full"], "give --data DIR with its IDX files, or add --download"),
    ],
)
def test_a_mistake_is_one_line_with_the_cure(arguments, message, capsys, tmp_path, monkeypatch):
    """Exit 2, stderr alone, no traceback, no folder made."""
    monkeypatch.chdir(tmp_path)
    assert message in refused(arguments, capsys)
    assert list(tmp_path.iterdir()) == []


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nmodel: *b\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n  lrr: 3\n", "unknown key 'train.lrr' (did you mean 'train.lr'?)"),
        ("modle: tiny\n", "unknown key 'modle' (did you mean 'model'?)"),
        ("train:\n  batch_size: many\n", 'option "train.batch_size": expected int; got many'),
        ("model: !!python/object/apply:os.system ['touch hacked']\n", "could not determine a constructor for the tag"),
        ("train:\n  class_path: os.system\n", "class_path is not accepted"),
        (BOMB, "YAML aliases (*name) are not accepted"),
        ("a: [\n", "Problems parsing config"),
        ("- 1\n", "Unexpected config"),
    ],
)
def test_a_wrong_config_file_is_one_line(text, message, capsys, tmp_path, monkeypatch):
    """Unknown keys, types, tags, classes, aliases, syntax; nothing is executed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(text)
    for arguments in (["--config", "run.yaml"], ["--config=run.yaml"]):
        assert message in refused(["finetune", *arguments], capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["run.yaml"]


def test_the_command_line_overrides_the_file_and_the_preset(tmp_path):
    """Wherever the preset stands."""
    path = tmp_path / "run.yaml"
    path.write_text("model: a\ndata: b\nout: c\nmethod: flyp\ntrain: {lr: 0.5, epochs: 7}\n")
    config, resume, only_json = read_options(["--config", str(path), "--train.lr", "0.25", "--json"])
    assert config == FinetuneConfig(model="a", data="b", out="c", method="flyp", train=TrainConfig(lr=0.25, epochs=7))
    assert (resume, only_json) == (False, True)
    for arguments in (["--preset", "digits", "--train.lr", "0.25"], ["--train.lr", "0.25", "--preset=digits"]):
        config, _, _ = read_options([*arguments, "--out", "x"])
        assert (config.train.lr, config.freeze, config.train.batch_size) == (0.25, "text", 64)


@pytest.mark.parametrize("preset", presets())
@pytest.mark.parametrize("method", [name for name, info in METHODS.items() if info.build is not None])
def test_every_preset_goes_with_every_method(preset, method):
    """A preset may set what the method does not read; the user did not."""
    config, _, _ = read_options(["--preset", preset, "--method", method, "--data", "d", "--out", "o"])
    assert config.method == method


def test_a_preset_s_option_that_the_method_does_not_read_is_no_mistake(tmp_path, monkeypatch, capsys):
    """What is typed beside it is, on the command line and in a file, and also when it undoes the preset."""
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets/own.yaml").write_text("model: m\nmethod: tracer\nloss: {fd: 0.25}\n")
    monkeypatch.setattr("tracerft.cli.finetune.resources.files", lambda package: tmp_path)
    given = ["--preset", "own", "--data", "d", "--out", "o", "--method", "flyp"]
    assert read_options(given)[0].loss.fd == 0.25
    assert read_options([*given, "--loss.fd", "0.25"])[0].loss.fd == 0.25  # changes nothing
    assert "does not read loss.fd;" in refused(["finetune", *given, "--loss.fd", "1"], capsys)
    (tmp_path / "run.yaml").write_text("loss: {crd: 2, targets: masked}\n")
    for arguments in (given, ["--model=m", *given[2:]]):
        line = refused(["finetune", *arguments, "--config", str(tmp_path / "run.yaml")], capsys)
        assert "`method` flyp does not read loss.crd;" in line


def test_print_config_prints_what_would_be_read_again(capsys, tmp_path):
    """As YAML on stdout, exit 0."""
    with pytest.raises(SystemExit) as stop:
        run(["finetune", "--preset", "digits", "--out", "x", "--train.lr", "0.25", "--print_config"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert yaml.safe_load(text)["train"]["lr"] == 0.25
    (tmp_path / "run.yaml").write_text(text)
    again, _, _ = read_options(["--config", str(tmp_path / "run.yaml")])
    assert again == read_options(["--preset", "digits", "--out", "x", "--train.lr", "0.25"])[0]


def test_finetune_prints_a_table_and_leaves_a_run(finished):
    """Record, report, models."""
    assert {p.name for p in finished.iterdir()} >= {"record.json", "report.html", "config.yaml", "student", "teacher"}


def test_json_is_alone_on_stdout(small_model, digits_folder, tmp_path, capsys):
    """The numbers of the record; progress goes to stderr."""
    out = tmp_path / "run"
    assert run(["finetune", "--model", str(small_model), "--data", str(digits_folder), "--out", str(out), "--json",
                *OPTIONS]) == 0  # fmt: skip
    printed = json.loads(capsys.readouterr().out)
    assert printed["results"] == json.loads((out / "record.json").read_text())["results"]


def test_evaluate_prints_the_results_of_the_run(finished, capsys):
    """As a table, and as JSON with the points between."""
    assert run(["evaluate", str(finished)]) == 0
    assert "colour-flipped" in capsys.readouterr().out
    assert run(["evaluate", str(finished), "--interpolate", "3", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    record = json.loads((finished / "record.json").read_text())["results"]
    assert set(results) == {*record, "student-wise-0.50", "teacher-wise-0.50"}
    assert all(results[name] == record[name] for name in record)


def test_interpolated_results_reach_the_report_of_a_run_on_its_own_suite(finished, digits_folder, capsys):
    """Given or not; another suite's do not, and a folder that cannot be written keeps its report."""
    kept, page = finished / INTERPOLATED, finished / "report.html"
    for told, drawn in (["--suite", "digits"], False), ([], True):
        kept.unlink(missing_ok=True)
        before = write_run_report(finished).read_text()
        assert run(["evaluate", str(finished), "--interpolate", "3", "--json", *told]) == 0
        printed = capsys.readouterr()
        assert kept.is_file() == drawn == ("curves in" in printed.err) == (page.read_text() != before)
    assert json.loads(kept.read_text())["results"] == json.loads(printed.out)["results"]
    kept.unlink()
    kept.mkdir()  # also root cannot replace a folder by a file
    assert run(["evaluate", str(finished), "--interpolate", "3", "--json"]) == 0
    assert "its report is left as it was" in capsys.readouterr().err
    kept.rmdir()


def test_evaluate_keeps_predictions_on_request(finished, tmp_path, capsys):
    """Logits and labels by model and split."""
    assert run(["evaluate", str(finished), "--predictions", str(tmp_path / "p"), "--json"]) == 0
    assert (tmp_path / "p" / "student" / "colour-random.safetensors").is_file()
    assert json.loads(capsys.readouterr().out)


def test_methods_lists_the_table(capsys):
    """As a table and as JSON."""
    assert run(["methods"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in METHODS)
    assert run(["methods", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == list(METHODS)


def test_report_is_written_again_from_the_files(finished, capsys):
    """Its path is printed."""
    (finished / "report.html").unlink()
    assert run(["report", str(finished)]) == 0
    assert capsys.readouterr().out.strip() == str(finished / "report.html")
    assert (finished / "report.html").stat().st_size > 1000


def test_resume_takes_no_other_option(finished, capsys):
    """But --json; a finished run is printed as it is."""
    line = refused(["finetune", "--resume", str(finished), "--train.lr", "1"], capsys)
    assert "takes no --train.lr" in line
    assert run(["finetune", "--resume", str(finished), "--json"]) == 0
    record = json.loads((finished / "record.json").read_text())
    assert json.loads(capsys.readouterr().out)["results"] == record["results"]


def test_an_output_folder_in_use_is_refused(finished, small_model, digits_folder, capsys):
    """With the way to go on."""
    arguments = ["--model", str(small_model), "--data", str(digits_folder), "--out", str(finished)]
    line = refused(["finetune", *arguments, *OPTIONS], capsys)
    assert "exists and is not empty" in line
    assert f"--resume {finished}" in line


def test_debug_shows_the_traceback(tmp_path):
    """The error itself."""
    from tracerft.errors import DataError

    with pytest.raises(DataError):
        run(["--debug", "report", str(tmp_path)])


def test_an_interrupt_says_how_to_go_on(monkeypatch, capsys):
    """Exit 130."""
    from tracerft.cli import methods

    def interrupt(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(methods, "run", interrupt)
    assert run(["methods"]) == 130
    assert "--resume" in capsys.readouterr().err


def test_a_failed_run_exits_with_1(monkeypatch, capsys):
    """A NaN is not the user's mistake."""
    from tracerft.cli import methods
    from tracerft.errors import NonFiniteError

    def fail(arguments):
        raise NonFiniteError("step 3: loss not finite")

    monkeypatch.setattr(methods, "run", fail)
    assert run(["methods"]) == 1
    assert capsys.readouterr().err == "tracerft: step 3: loss not finite\n"


def test_control_characters_are_made_visible():
    """A file name cannot move the cursor."""
    assert one_line("a\n b\x1b[2J" + os.linesep) == "a b\\x1b[2J"


def test_a_warning_is_a_line_without_code(tmp_path):
    """A guard that is passed at once; in a process of its own, as it is seen."""
    command = [sys.executable, "-m", "tracerft", "finetune", "--preset", "digits", "--out", str(tmp_path / "run")]
    options = ["--method", "flyp", "--train.steps", "2", "--train.lr", "0.01", "--guard.max_drop", "0.1"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    (line,) = [x for x in done.stderr.splitlines() if "guard set agreement" in x]
    assert line.startswith("tracerft: warning: step ")
    assert "UserWarning" not in done.stderr
