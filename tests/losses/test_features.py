"""Distances of features against plain loops and TRACER's FD."""

import math
from dataclasses import replace

import pytest
import torch

from tests.losses.pairs import random_pairs
from tracerft.errors import ArgumentError, ShapeError
from tracerft.losses import feature_distance, feature_distillation, image_feature_distillation


def _layers(seed: int, widths: tuple[int, ...] = (4, 6)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"block{w}": torch.randn(5, w, generator=generator, dtype=torch.float64) for w in widths}


def _image_part_of_fd(student: torch.Tensor, teacher: torch.Tensor) -> float:
    """FD (20) of pairs whose texts are equal."""
    pairs = random_pairs(0)
    return feature_distillation(replace(pairs, image=student), replace(pairs, image=teacher)).item()


def test_image_feature_distillation_is_half_the_image_part_of_fd():
    """With its closed-form gradient (h - h_0) / N, for the student alone."""
    h, h0 = random_pairs(1).image, random_pairs(2).image
    value = image_feature_distillation(h, h0)
    value.backward()
    assert value.item() == pytest.approx(_image_part_of_fd(h, h0) / 2, rel=1e-12)
    torch.testing.assert_close(h.grad, (h - h0).detach() / 5, rtol=0, atol=1e-12)
    assert h0.grad is None


def test_image_feature_distillation_of_a_linear_model_is_the_theorys_term():
    """1/(2 N) ||(W - W0) X||_F^2, columns of X the images: rows need not have unit norm."""
    generator = torch.Generator().manual_seed(3)
    w, w0, x = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((3, 4), (3, 4), (4, 6)))
    value = image_feature_distillation((w @ x).T, (w0 @ x).T).item()
    assert value == pytest.approx(torch.linalg.norm((w - w0) @ x).item() ** 2 / 12, rel=1e-12)


def test_feature_distance_equals_a_plain_loop():
    """Unit norm over the width, squares summed; the mean over examples and over layers of unlike width."""
    student, teacher = _layers(0), _layers(1)
    expected = 0.0
    for name in student:
        for a, b in zip(student[name].tolist(), teacher[name].tolist(), strict=True):
            norm_a, norm_b = math.hypot(*a), math.hypot(*b)
            expected += sum((x / norm_a - y / norm_b) ** 2 for x, y in zip(a, b, strict=True)) / 5 / 2
    assert feature_distance(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_feature_distance_of_the_embedding_alone_is_the_image_part_of_fd():
    """FD sums over D as this does."""
    h, h0 = random_pairs(1).image, random_pairs(2).image
    value = feature_distance({"embedding": 7 * h}, {"embedding": h0}).item()
    assert value == pytest.approx(_image_part_of_fd(h, h0), rel=1e-12)


def test_feature_distance_is_silent_at_the_start_and_leaves_the_teacher_alone():
    """0 and no gradient at theta_0; opposite features give 4."""
    student, teacher = _layers(0), _layers(1)
    student = {name: f.requires_grad_() for name, f in student.items()}
    value = feature_distance(student, {name: f.detach() for name, f in student.items()})
    value.backward()
    assert value.item() == max(f.grad.abs().max().item() for f in student.values()) == 0.0
    assert feature_distance(student, {name: -f for name, f in student.items()}).item() == pytest.approx(4.0)
    teacher = {name: f.requires_grad_() for name, f in teacher.items()}
    feature_distance(student, teacher).backward()
    assert all(f.grad is None for f in teacher.values())
    assert all(f.grad.abs().max() > 0 for f in student.values())


def test_both_are_float32_inside_autocast():
    """From bf16 features."""
    h, h0 = (random_pairs(seed).image.detach().bfloat16() for seed in (1, 2))
    with torch.autocast("cpu", torch.bfloat16):
        values = image_feature_distillation(h, h0), feature_distance({"a": h}, {"a": h0})
    exact = image_feature_distillation(h.double(), h0.double()), feature_distance({"a": h.double()}, {"a": h0.double()})
    for value, reference in zip(values, exact, strict=True):
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(reference.item(), rel=1e-6)


def test_misuse_is_explained_in_one_line():
    """Layers and shapes that do not match."""
    layers = _layers(0)
    for call, error, text in [
        (lambda: feature_distance({}, {}), ArgumentError, "capture the same names"),
        (lambda: feature_distance(layers, _layers(0, (4,))), ArgumentError, "'block6'"),
        (lambda: feature_distance(layers, {n: f[:4] for n, f in layers.items()}), ShapeError, r"'block4'.*\(4, 4\)"),
        (lambda: image_feature_distillation(layers["block4"], layers["block6"]), ShapeError, "same batch"),
    ]:
        with pytest.raises(error, match=text) as caught:
            call()
        assert "\n" not in str(caught.value)
