"""`tracerft report`: write report.html again from the files of a run or study."""

from collections.abc import Sequence
from pathlib import Path

from tracerft.cli.options import Parser
from tracerft.errors import DataError


def run(arguments: Sequence[str]) -> None:
    """Write the report and print its path."""
    parser = Parser("report", "Write report.html of a finished run or study again, from its files alone.")
    parser.add_argument("folder", type=str, help="a run folder (record.json) or a study folder (study.json)")
    folder = Path(parser.read(arguments).folder)
    from tracerft.reports.study import write_run_report, write_study_report

    if (folder / "study.json").is_file():
        print(write_study_report(folder))
    elif (folder / "record.json").is_file():
        print(write_run_report(folder))
    else:
        raise DataError(f"{folder}: no record.json and no study.json; give the folder of a finished run or study")
