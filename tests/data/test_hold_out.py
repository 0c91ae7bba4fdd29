"""Which images are kept out of training."""

import math

import numpy as np
import pytest

from tracerft.data.hold_out import _numbers, mark_held_out
from tracerft.data.manifest import Manifest, Sample
from tracerft.data.sampling import keys, uniforms


def of_sizes(sizes: dict[str, int]) -> Manifest:
    """Class folders with so many images each, none of which exists."""
    classes = tuple(sizes)
    samples = [Sample(f"{name}/{i}.png", 1, (), classes.index(name), 0) for name in classes for i in range(sizes[name])]
    return Manifest(tuple(samples), classes, None)


def held(manifest: Manifest, share: float) -> set[str]:
    """Names of what is kept out."""
    return {manifest.samples[i].name for i in np.flatnonzero(mark_held_out(manifest, share))}


def of_class(names: set[str], name: str) -> set[str]:
    """Those in one folder."""
    return {n for n in names if n.startswith(f"{name}/")}


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.95])
def test_every_class_of_two_gives_one_and_keeps_one(share):
    """A single image is trained on; without a share nothing is kept out."""
    manifest = of_sizes({f"c{n}": n for n in range(1, 60)})
    out = held(manifest, share)
    assert not of_class(out, "c1")
    for n in range(2, 60):
        assert 1 <= len(of_class(out, f"c{n}")) <= n - 1
        if n * share >= 1 and n * (1 - share) >= 1:
            assert abs(len(of_class(out, f"c{n}")) - n * share) < 1
    assert held(manifest, 0.0) == set()


def test_the_total_is_the_wanted_share():
    """400 classes of 14: a tenth is 560, standard deviation 9.8; rounding each class would give 400."""
    assert abs(len(held(of_sizes({f"c{i}": 14 for i in range(400)}), 0.1)) - 560) < 40


def test_a_plain_loop_picks_the_same():
    """From: the rule of the docstring, class by class."""
    sizes = {"b": 7, "a": 31, "one": 1, "two": 2}
    expected = set()
    for name, n in sizes.items():
        key = {f"{name}/{i}.png": keys(0, 0, _numbers([f"{name}/{i}.png"]), "hold out")[0] for i in range(n)}
        wanted = math.floor(0.3 * n + uniforms(0, 0, _numbers([name]), "share")[0])
        expected |= set(sorted(key, key=key.get)[: max(1, min(wanted, n - 1)) if n > 1 else 0])
    assert held(of_sizes(sizes), 0.3) == expected


def test_other_classes_do_not_matter():
    """One class grows, one comes, one goes: the others keep what they held out, the grown one moves one at most."""
    before = held(of_sizes({"cat": 20, "dog": 9, "owl": 13}), 0.25)
    for n in range(21, 30):
        after = held(of_sizes({"ant": 40, "cat": n, "dog": 9}), 0.25)
        assert of_class(after, "dog") == of_class(before, "dog")
        grown = held(of_sizes({"cat": n}), 0.25)
        assert grown == of_class(after, "cat")
        assert len(held(of_sizes({"cat": n - 1}), 0.25) - grown) <= 1


def test_the_order_of_the_images_does_not_matter():
    """As they are known by name."""
    manifest = of_sizes({"cat": 20, "dog": 9})
    assert held(manifest.subset(list(range(29))[::-1]), 0.25) == held(manifest, 0.25)


def test_images_with_captions_alone_are_drawn_one_by_one():
    """By their position, as they have no classes."""
    captioned = Manifest(tuple(Sample(f"{i}.png", 1, ("x",), None, 0) for i in range(500)), (), None)
    expected = uniforms(0, 0, np.arange(500), "hold out") < 0.2
    assert np.array_equal(mark_held_out(captioned, 0.2), expected)
    assert 70 < expected.sum() < 130
