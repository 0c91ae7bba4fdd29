"""Whatever is in a file, reading it ends in success or in one line of ours; never in another exception.

`make fuzz` tries more. What once ended otherwise lies in ``found/TARGET`` and is tried in every run.
"""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, Target
from tracerft.errors import TracerftError

FOUND = sorted((Path(__file__).parent / "found").glob("*/*"))
FEW, MANY = 150, 1500

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def survives(target: Target, folder: Path, data: bytes) -> None:
    """Read ``data``; an error must be ours and one line that can be read and printed."""
    try:
        target.read(folder, data)
    except TracerftError as error:
        text = str(error)
        assert "\n" not in text
        assert text.isprintable(), repr(text)
        assert 0 < len(text) < 2000
        text.encode()


@st.composite
def damaged(draw: st.DrawFn, whole: list[bytes], words: tuple[bytes, ...]) -> bytes:
    """One of the inputs after up to four cuts, changed bytes, repeated parts, or words put in or over."""
    data = draw(st.sampled_from(whole))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 12)))
        bits = st.binary(min_size=1, max_size=4)
        put = draw(st.one_of(st.sampled_from(words), bits) if words else bits)
        data = draw(
            st.sampled_from(
                [data[:start], data[:start] + put + data[end:], data[:end] + data[start:], data[:start] + data[end:]]
            )
        )
    return data


def fuzz(name: str, folder: Path, examples: int) -> None:
    """``examples`` damaged inputs of one kind, the same in every run; writes nothing outside of ``folder``."""
    target = TARGETS[name]

    @settings(
        max_examples=examples // target.slowness,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged(target.seeds(folder), target.words))
    def every(data: bytes) -> None:
        survives(target, folder, data)

    every()


@pytest.mark.parametrize("name", TARGETS)
def test_whole_input_is_read(name, tmp_path):
    """The inputs that damage starts from are good ones; else nothing behind the first check would be tried."""
    target = TARGETS[name]
    for data in target.seeds(tmp_path):
        target.read(tmp_path, data)


@pytest.mark.parametrize("name", TARGETS)
def test_damage_ends_in_one_line(name, tmp_path):
    """Some damaged inputs of each kind."""
    fuzz(name, tmp_path, FEW)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", TARGETS)
def test_much_damage_ends_in_one_line(name, tmp_path):
    """Thousands of them."""
    fuzz(name, tmp_path, MANY)


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_was_found_stays_fixed(path, tmp_path):
    """Inputs that once ended in another exception."""
    survives(TARGETS[path.parent.name], tmp_path, path.read_bytes())


def test_the_page_counts_the_kinds():
    """docs/reliability.md says how many kinds of files are damaged."""
    page = Path(__file__).parents[2] / "docs/reliability.md"
    assert f"`tests/fuzz`: {len(TARGETS)} kinds of files" in page.read_text()
