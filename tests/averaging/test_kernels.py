"""Claims about kernels: shares, both weightings, log space, and refused parameters."""

import math

import numpy as np
import pytest

from tests.reference.averages import beta_log_weights
from tracerft.averaging.clock import Clock
from tracerft.averaging.kernels import (
    beta_kernel,
    carot_kernel,
    exponential_kernel,
    final_pretrained_weight,
    frozen_kernel,
    swa_kernel,
    uniform_kernel,
)
from tracerft.errors import ArgumentError

PAPER_STEPS = 25_020  # 10 epochs of ImageNet-1K at batch 512


@pytest.mark.parametrize(("update_every", "percent"), [(1, 0.3), (10, 2.7), (100, 22.5), (500, 56.7)])
def test_point_weighting_leaves_the_known_share_to_the_pretrained_state(update_every, percent):
    """Golden values from the restated paper, section 7 (Beta(0.5, 0.5), T = 25,020)."""
    share = final_pretrained_weight(beta_kernel(0.5, 0.5), Clock(PAPER_STEPS, update_every))
    assert round(100 * share, 1) == percent


@pytest.mark.parametrize("update_every", [1, 10, 100, 500])
def test_mass_weighting_leaves_the_mass_of_the_first_cell(update_every):
    """The share is the arcsine distribution function at the first edge (closed form 2/pi asin sqrt x)."""
    share = final_pretrained_weight(beta_kernel(0.5, 0.5), Clock(PAPER_STEPS, update_every, "mass"))
    edge = (update_every / 2 + 0.5) / (PAPER_STEPS + 1)
    assert share == pytest.approx(2 / math.pi * math.asin(math.sqrt(edge)), rel=1e-10)


@pytest.mark.parametrize("update_every", [1, 7, 10, 100, 500])
def test_mass_weighting_keeps_the_mean_trajectory_position_at_one_half(update_every):
    """A symmetric kernel stays centred at every update frequency, unlike with point weighting."""
    clock, kernel = Clock(PAPER_STEPS, update_every, "mass"), beta_kernel(0.5, 0.5)
    steps = range(0, PAPER_STEPS + 1, update_every)
    weights = [math.exp(kernel.log_weight(k, clock)) for k in steps]
    position = sum(w * clock.position(k)[0] for w, k in zip(weights, steps, strict=True)) / sum(weights)
    assert position == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (2, 3), (80, 80), (1, 1), (2, 80), (80, 2)])
@pytest.mark.parametrize("update_every", [1, 3, 7, 300])
def test_masses_sum_to_one(a, b, update_every):
    """The cells tile the whole of normalised time."""
    clock = Clock(200, update_every, "mass")
    masses = [math.exp(beta_kernel(a, b).log_weight(k, clock)) for k in range(0, 201, update_every)]
    assert math.fsum(masses) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (2, 3), (80, 80), (2, 80), (80, 2)])
@pytest.mark.parametrize("update_every", [1, 7])
def test_log_masses_match_high_precision_integrals_in_both_tails(a, b, update_every):
    """200-digit integrals by mpmath are the reference."""
    clock = Clock(200, update_every, "mass")
    for step, expected in beta_log_weights(a, b, 200, update_every, "mass").items():
        assert beta_kernel(a, b).log_weight(step, clock) == pytest.approx(expected, rel=1e-12, abs=1e-11)


def test_mass_and_point_agree_in_the_limit_of_many_steps():
    """At f = 1 a cell shrinks to a point away from the singular ends."""
    clock_mass, clock_point = Clock(10_000, 1, "mass"), Clock(10_000, 1, "point")
    kernel = beta_kernel(0.5, 0.5)
    for step in (500, 5_000, 9_500):
        mass, density = kernel.log_weight(step, clock_mass), kernel.log_weight(step, clock_point)
        assert mass + math.log(10_001) == pytest.approx(density, abs=1e-5)


def test_mass_falls_back_to_density_times_width_where_the_integral_underflows():
    """Beta(80, 80) at the first of 25,020 steps has mass far below the smallest float64."""
    kernel = beta_kernel(80, 80)
    log_mass = kernel.log_weight(0, Clock(PAPER_STEPS, 1, "mass"))
    log_density = kernel.log_weight(0, Clock(PAPER_STEPS, 1, "point"))
    assert log_mass == pytest.approx(log_density - math.log(PAPER_STEPS + 1))
    assert -1000 < log_mass < -745


@pytest.mark.parametrize("weighting", ["point", "mass"])
def test_steep_kernel_keeps_the_logarithm_of_the_pretrained_share(weighting):
    """Beta(80, 80) over 200 steps leaves theta_0 a tiny share, not zero (offline reference)."""
    clock = Clock(200, 1, weighting)
    logs = list(beta_log_weights(80, 80, 200, 1, weighting).values())
    largest = max(logs)
    expected = logs[0] - largest - math.log(math.fsum(math.exp(w - largest) for w in logs))
    assert math.log(final_pretrained_weight(beta_kernel(80, 80), clock)) == pytest.approx(expected, rel=1e-12)


def test_beta_density_is_symmetric_to_the_last_digits_at_the_end():
    """1 - tau is formed without cancellation, so both ends weigh the same."""
    kernel, clock = beta_kernel(0.5, 0.5), Clock(10_000_000)
    assert kernel.log_weight(0, clock) == pytest.approx(kernel.log_weight(10_000_000, clock), rel=1e-15)


@pytest.mark.parametrize("weighting", ["point", "mass"])
def test_first_update_does_not_erase_the_pretrained_state(weighting):
    """omega_1 = 1/2 for the running mean of two states, not the 1 of Algorithm 1."""
    clock = Clock(200, 1, weighting)
    omega_0, log_total = uniform_kernel().advance(0, clock, -math.inf)
    omega_1, _ = uniform_kernel().advance(1, clock, log_total)
    assert (omega_0, omega_1) == (1, pytest.approx(0.5, rel=1e-12))


def test_exponential_kernel_under_mass_forgets_equally_per_optimiser_step():
    """With omega = 1 - rho^f the final share is rho^T at every f that divides T."""
    for update_every in (1, 5, 10):
        share = final_pretrained_weight(exponential_kernel(0.99), Clock(200, update_every, "mass"))
        assert share == pytest.approx(0.99**200, rel=1e-12)
    assert final_pretrained_weight(exponential_kernel(0.99), Clock(200, 10)) == pytest.approx(0.99**20, rel=1e-12)


def test_exponential_kernel_never_overflows():
    """A million steps at momentum 0.5 would need the weight 2^1000000."""
    kernel, clock, log_total = exponential_kernel(0.5), Clock(None), 0.0
    for step in range(1, 100_000):
        omega, log_total = kernel.advance(step, clock, log_total)
    assert (omega, math.isfinite(log_total)) == (0.5, True)


@pytest.mark.parametrize(
    ("kernel", "share"),
    [(frozen_kernel(), 1), (exponential_kernel(1), 1), (exponential_kernel(0), 0), (exponential_kernel(0.9), 0)],
)
def test_share_without_a_known_end_is_the_limit(kernel, share):
    """A moving average forgets theta_0 in the end unless it never moves."""
    assert final_pretrained_weight(kernel, Clock(None)) == share


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, -math.inf, 1e9, "0.5", None, True])
def test_beta_refuses_parameters_that_are_not_positive_numbers(value):
    """One line: argument, expectation, what came, cure."""
    for argument, make in (("a", lambda: beta_kernel(value, 1)), ("b", lambda: beta_kernel(1, value))):
        with pytest.raises(ArgumentError) as caught:
            make()
        text = str(caught.value)
        assert f"`{argument}`" in text
        assert repr(value) in text
        assert "beta_kernel(0.5, 0.5)" in text
        assert "\n" not in text


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, "x", None])
def test_momentum_outside_zero_to_one_is_refused(value):
    """Both ends are allowed, nothing beyond."""
    with pytest.raises(ArgumentError, match=r"`momentum` must be a number in \[0, 1\]; got"):
        exponential_kernel(value)


@pytest.mark.parametrize("value", [0, -3, 1.5, "9", True])
def test_clock_refuses_counts_below_one_or_not_whole(value):
    """Both counts name their cure."""
    with pytest.raises(ArgumentError, match=r"`total_steps` .* got .*; pass total_steps=epochs \* len\(loader\)"):
        Clock(value)
    with pytest.raises(ArgumentError, match="`update_every` must be a whole number of at least 1"):
        Clock(10, value)


def test_clock_accepts_numpy_counts_and_refuses_unknown_weightings():
    """A length read from an array is a count too; a misspelt word gets a suggestion."""
    assert Clock(np.int64(10)).total_steps == 10
    with pytest.raises(ArgumentError, match="did you mean 'point'"):
        Clock(10, 1, "pont")


def test_beta_without_a_known_end_is_refused():
    """Normalised time needs T."""
    with pytest.raises(ArgumentError, match="`total_steps` must be known"):
        beta_kernel(0.5, 0.5).advance(0, Clock(None), -math.inf)


def carot_momenta(total_steps, update_every):
    """Momentum at each update, read back from the shares."""
    clock, kernel, momenta = Clock(total_steps, update_every), carot_kernel(), []
    for step in range(update_every, total_steps + 1, update_every):
        momenta.append(1 - kernel.advance(step, clock, 0.0)[0])
    return momenta


def test_carot_momentum_rises_in_the_first_fifth():
    """At 0, a tenth, a fifth and the end of the run (restated recipe, section 10: .05 to .9)."""
    clock, kernel = Clock(1000), carot_kernel()
    momenta = [kernel.momentum(step, clock) for step in (0, 100, 199, 200, 201, 1000)]
    assert momenta == pytest.approx([0.05, 0.475, 0.05 + 0.85 * 199 / 200, 0.9, 0.9, 0.9], rel=1e-12)


def test_carot_momenta_of_the_published_run():
    """Decimals of the published code at every 500 of 25,030 steps; the pretrained state is gone after an epoch."""
    momenta = carot_momenta(25_030, 500)
    published = [0.135, 0.220, 0.305, 0.390, 0.475, 0.559, 0.644, 0.729, 0.814, 0.899, 0.9]
    assert momenta[:11] == pytest.approx(published, abs=6e-4)  # given with three decimals
    assert len(momenta) == 50  # the code makes one more, after its first step
    assert math.prod(momenta[:5]) == pytest.approx(1.7e-3, rel=0.02)
    share = final_pretrained_weight(carot_kernel(), Clock(25_030, 500))
    assert share == pytest.approx(math.prod(momenta), rel=1e-10)


def test_swa_shares_are_those_of_an_equal_mean():
    """From three quarters on 1, 1/2, 1/3 ...; before that always the latest; nothing of the pretrained state."""
    clock, kernel = Clock(20, 2), swa_kernel(0.75)
    shares = {step: kernel.advance(step, clock, 0.0)[0] for step in range(2, 21, 2)}
    assert all(shares[step] == 1 for step in range(2, 15, 2))
    assert [shares[16], shares[18], shares[20]] == [1, 1 / 2, 1 / 3]
    assert final_pretrained_weight(kernel, clock) == 0


@pytest.mark.parametrize(("start", "total", "every", "first"), [(0.55, 100, 1, 55), (0.0, 10, 1, 1), (1.0, 10, 1, 10)])
def test_swa_begins_at_the_rounded_step(start, total, every, first):
    """0.55 * 100 is more than 55 in float64; start 0 counts every snapshot but the pretrained one."""
    clock, kernel = Clock(total, every), swa_kernel(start)
    counts = [round(1 / kernel.advance(step, clock, 0.0)[0]) for step in range(1, total + 1)]
    assert counts == [max(1, step - first + 1) for step in range(1, total + 1)]


@pytest.mark.parametrize("start", [-0.1, 1.1, math.nan, "0.5", True, None])
def test_a_start_outside_zero_to_one_is_refused(start):
    """One line that names the argument."""
    with pytest.raises(ArgumentError, match=r"`start` must be a number in \[0, 1\]; got"):
        swa_kernel(start)


@pytest.mark.parametrize("kernel", [carot_kernel(), swa_kernel()])
def test_schedules_on_normalised_time_need_an_end(kernel):
    """Already at step 0, where a teacher is built."""
    with pytest.raises(ArgumentError, match="`total_steps` must be known"):
        kernel.advance(0, Clock(None), -math.inf)
