"""Which exit code an ending has, for those who write scripts."""

import pytest

from tracerft import errors
from tracerft.cli import main


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ArgumentError("x"), 2),
        (errors.RunFolderError("x"), 2),
        (errors.CheckpointError("x"), 2),
        (errors.NonFiniteError("x"), 1),
        (errors.WorkerError("x"), 1),
        (errors.StoppedError("x"), 143),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_ending_has_its_exit_code(error, code, monkeypatch, capsys):
    """As the module's first lines promise; one line on stderr, nothing on stdout."""

    class Command:
        @staticmethod
        def run(arguments):
            raise error

    monkeypatch.setattr(main, "import_module", lambda name: Command)
    assert main.run(["methods"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tracerft: ")
    assert err.count("\n") == 1
