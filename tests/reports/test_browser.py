"""The page in a real browser: the script runs under the policy, columns sort, hostile names stay inert."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.reports.example import HOSTILE, write_study
from tests.reports.predictions import write_examples, write_predicted_run
from tracerft.reports.comparison import write_comparison
from tracerft.reports.study import write_run_report, write_study_report

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no `chromium` on PATH; install it (apt-get install chromium) to check the page"
)
QUIET = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
# Puts the page into a frame of 400 px and notes how wide it wants to be.
NARROW = """
  const frame = document.createElement("iframe");
  frame.style.cssText = "width:400px;height:800px;border:0";
  frame.onload = () => {
    const root = frame.contentDocument.documentElement;
    document.documentElement.dataset.wide = root.scrollWidth + "/" + root.clientWidth;
  };
  frame.srcdoc = document.documentElement.outerHTML.replace(/<script[^]*?<\\/script>/g, "");
  document.body.append(frame);
"""


def rendered(path: Path, profile: Path) -> str:
    """The document after its scripts ran."""
    return opened(path, profile).stdout


def console(path: Path, profile: Path) -> list[str]:
    """What the page, or the browser about it, wrote to the console."""
    said = opened(path, profile, "--enable-logging=stderr").stderr.splitlines()
    return [line for line in said if "CONSOLE" in line]


def opened(path: Path, profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The browser, after it has shown the page."""
    command = [str(CHROMIUM), *QUIET, *options, f"--user-data-dir={profile}", "--dump-dom", path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


def with_script(path: Path, script: str) -> Path:
    """A copy without the policy, which would rightly refuse it, that runs one script more."""
    text = path.read_text(encoding="utf-8")
    text, count = re.subn(r"<meta http-equiv=[^>]*>", "", text)
    assert count == 1
    copy = path.with_name("copy.html")
    copy.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    return copy


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study full of hostile names."""
    return write_study_report(write_study(tmp_path_factory.mktemp("study") / "toy"))


def test_the_script_runs_under_its_policy_and_names_do_not(report, tmp_path):
    """The mark of the script is there, the mark of the names is not; heads became buttons."""
    dom = rendered(report, tmp_path)
    root = dom[: dom.index("<head")]
    assert 'data-script="ready"' in root
    assert "data-broken" not in root
    assert '<button type="button">Original' in dom


def test_names_are_inert_even_without_the_policy(report, tmp_path):
    """Escaping holds by itself; the policy is the second wall."""
    root = rendered(with_script(report, "document.documentElement.dataset.extra = 'ran'"), tmp_path).partition("<head")[
        0
    ]
    assert 'data-extra="ran"' in root
    assert "data-broken" not in root


def test_pictures_are_shown_under_the_policy_and_fold(tmp_path):
    """Each is decoded, in albums of which the first three are open; a hostile split or class name does nothing."""
    folder = write_predicted_run(tmp_path / "run")
    for split in ("id", "far", "near"):
        write_examples(folder, split, list(range(30)))
    path = write_run_report(folder)
    assert 'data-script="ready"' in rendered(path, tmp_path / "one").partition("<head")[0]
    script = """
      const broken = [...document.images].filter((image) => image.naturalWidth !== 48);
      document.documentElement.dataset.shown = [document.images.length, broken.length].join();
      document.documentElement.dataset.opened = document.querySelectorAll("details[open] .pictures").length > 0;
    """
    text = path.read_text(encoding="utf-8")
    policy = re.search(r"<meta http-equiv=[^>]*>", text)
    assert policy
    allowed = re.sub(r"script-src '[^']*'", "script-src 'unsafe-inline'", policy[0])
    copy = path.with_name("allowed.html")
    text = text.replace(policy[0], allowed).replace("</body>", f"<script>{script}</script></body>")
    copy.write_text(text, encoding="utf-8")
    root = rendered(copy, tmp_path / "two").partition("<head")[0]
    assert re.search(r'data-shown="[1-9][0-9]*,0"', root)
    assert 'data-opened="true"' in root
    assert "data-broken" not in root


def test_no_page_writes_to_the_console(report, tmp_path):
    """A study, a run with pictures and a comparison; what breaks the policy would be heard."""
    folders = [write_predicted_run(tmp_path / name) for name in ("one", "two")]
    write_examples(folders[0], "far", list(range(9)))
    write_comparison(folders, tmp_path / "both")
    pages = [report, write_run_report(folders[0]), tmp_path / "both" / "comparison.html"]
    assert [console(page, tmp_path / f"profile{i}") for i, page in enumerate(pages)] == [[], [], []]
    copy = report.with_name("refused.html")
    copy.write_text(
        report.read_text(encoding="utf-8").replace("</body>", "<script>1</script></body>"), encoding="utf-8"
    )
    assert "Content Security Policy" in "".join(console(copy, tmp_path / "refused"))


def test_columns_sort_both_ways_and_back(report, tmp_path):
    """Press a head three times: best first, worst first, the study's order; absent values always last."""
    script = """
      const table = document.querySelector("table[data-sortable]");
      const show = (column) => [...table.tBodies[0].rows].map((r) => r.cells[column].dataset.value ?? "none").join();
      const press = (column) => {
        table.tHead.rows[0].cells[column].querySelector("button").click();
        return table.tHead.rows[0].cells[column].getAttribute("aria-sort") + ":" + show(column);
      };
      const said = [press(2), press(2), press(2), press(4), press(4)];
      document.documentElement.dataset.said = said.join("|");
    """
    dom = rendered(with_script(report, script), tmp_path)
    found = re.search(r'data-said="([^"]*)"', dom)
    assert found
    first, second, third, up, down = found[1].split("|")
    values = [float(v) for v in first.partition(":")[2].split(",")]
    assert first.startswith("descending:")
    assert values == sorted(values, reverse=True)
    assert second == "ascending:" + ",".join(reversed(first.partition(":")[2].split(",")))
    assert third.startswith("none:")
    assert up == "ascending:12.25,none,none,none,none"
    assert down == "descending:12.25,none,none,none,none"


def test_a_narrow_window_scrolls_tables_and_not_the_page(report, tmp_path):
    """At 400 px the page is no wider than its window."""
    found = re.search(r'data-wide="(\d+)/(\d+)"', rendered(with_script(report, NARROW), tmp_path))
    assert found
    assert int(found[1]) <= int(found[2]) <= 400


@pytest.mark.parametrize("kind", ["run", "comparison"])
def test_forgetting_and_comparison_are_inert_and_fit_a_narrow_window(kind, tmp_path):
    """Hostile class, split and run names do nothing even without the policy; 400 px are enough."""
    folders = [write_predicted_run(tmp_path / name) for name in ("one", HOSTILE[1])]
    write_examples(folders[0], "far", list(range(60)))
    if kind == "comparison":
        write_comparison(folders, tmp_path / "both")
    path = write_run_report(folders[0]) if kind == "run" else tmp_path / "both" / "comparison.html"
    dom = rendered(with_script(path, NARROW), tmp_path / "profile")
    root = dom[: dom.index("<head")]
    assert "data-broken" not in root
    assert 'data-script="ready"' in root
    found = re.search(r'data-wide="(\d+)/(\d+)"', root)
    assert found
    assert int(found[1]) <= int(found[2]) <= 400
