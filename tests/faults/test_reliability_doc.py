"""The counts on the pages are those of the tests."""

from pathlib import Path

import pytest

from tests.badinput.bad_doors import DOORS
from tests.badinput.bad_images import IMAGES
from tests.badinput.bad_sets import MANIFESTS
from tests.badinput.test_doors import MEGABYTES, SECONDS
from tests.faults import rank_faults
from tests.faults.code_rules import JUSTIFIED
from tests.faults.killing import SOME
from tests.faults.points import POINTS
from tests.faults.test_no_code_from_data import FORBIDDEN
from tests.faults.test_state_items import ITEMS, PARTS
from tests.faults.test_survival import DISK
from tracerft.data.images import MAX_PIXELS
from tracerft.data.paths import MAX_FILE_BYTES

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("docs/reliability.md", f"| {len(SOME)} kills in every test run"),
        ("docs/reliability.md", f"| {len(rank_faults.SOME)} kills in every test run"),
        ("docs/reliability.md", f"last time of {len(POINTS)} points"),
        ("docs/reliability.md", f"each of the {len(ITEMS) + len(PARTS)} items"),
        ("docs/reliability.md", f"| {len(DISK)} offsets"),
        ("docs/reliability.md", f"{len(IMAGES)} images, {len(MANIFESTS)} data sets, {len(DOORS)} commands, each"),
        ("docs/reliability.md", f"in under {SECONDS} s, bombs in under {MEGABYTES} MB"),
        ("SECURITY.md", f"({len(FORBIDDEN)} ways to"),
        ("SECURITY.md", f"exceptions, {len(JUSTIFIED)}, are listed"),
        ("SECURITY.md", f"{MAX_PIXELS // 1_000_000} million pixels"),
        ("SECURITY.md", f"files of {MAX_FILE_BYTES >> 20} MiB"),
    ],
)
def test_the_page_counts_as_the_tests_do(page, says):
    """Word for word."""
    assert says in (ROOT / page).read_text()
