import numpy as np
import pytest
from scipy import stats

from ductile.difficulty.staleness import Audited, crossings, half_life


def audited(rng, rates, step, samples=32):
    counts = np.full(len(rates), float(samples))
    return Audited(step, rng.binomial(samples, rates).astype(np.float64), counts)


def counted(step, *successes, samples=4):
    return Audited(step, np.array(successes, np.float64), np.full(len(successes), float(samples)))


def test_skill_of_two_audits_by_hand():
    # rates 0, 1/2, 1 and 1/2, 1/2, 1; noise 0, 1/12, 0 and 1/12, 1/12, 0
    found = half_life([counted(0, 0, 2, 4), counted(10, 2, 2, 4)])
    error = (0.25 - 1 / 12 - 2 / 12) / 3
    spread = np.var([0.5, 0.5, 1], ddof=1) - (2 / 12) / 3
    assert found.curve == ((0, 1.0), (10, pytest.approx(1 - error / spread)))


def test_half_life_of_a_stationary_process_is_that_of_its_correlation():
    """AR(1) around 1/2: S(delta) = 1 - 2 (1 - rho^delta), which is one half where rho^delta = 3/4."""
    rng = np.random.default_rng(0)
    rho, deviation = 0.97, 0.13
    x = rng.normal(0, deviation, 20_000)
    audits = []
    for step in range(31):
        if step % 5 == 0:
            audits.append(audited(rng, np.clip(0.5 + x, 0, 1), step))
        x = rho * x + np.sqrt(1 - rho**2) * rng.normal(0, deviation, len(x))
    found = half_life(audits)
    assert dict(found.curve)[10] == pytest.approx(2 * rho**10 - 1, abs=0.03)
    assert found.steps == pytest.approx(np.log(0.75) / np.log(rho), abs=0.7)
    assert found.why == ""


def test_half_life_of_a_known_drift():
    """All rates rise alike by c a step: S = 1 - (c delta)^2 / variance."""
    rng = np.random.default_rng(1)
    start = rng.uniform(0.1, 0.5, 20_000)
    audits = [audited(rng, start + 0.01 * step, step) for step in range(0, 31, 2)]
    found = half_life(audits)
    assert found.steps == pytest.approx(np.sqrt(0.5 * 0.4**2 / 12) / 0.01, abs=0.4)


def test_rates_that_stand_still_have_no_half_life():
    rng = np.random.default_rng(2)
    rates = rng.random(5_000)
    found = half_life([audited(rng, rates, step) for step in (0, 5, 10)])
    assert (found.steps, found.why) == (None, "longer than the phase")
    assert [skill for _, skill in found.curve] == pytest.approx([1, 1, 1], abs=0.01)


def test_problems_that_are_all_alike_have_nothing_to_predict():
    rng = np.random.default_rng(3)
    found = half_life([audited(rng, np.full(64, 0.02), step) for step in (0, 5, 10)])
    assert (found.curve, found.steps, found.why) == (((0, 1.0),), None, "no spread")
    assert half_life([counted(0, 0, 4)]).why == "no spread"


def test_crossings_by_hand():
    # of 4: band 0.25 to 0.75. In to above; below to in; stays in
    found = crossings(counted(0, 3, 0, 2), counted(5, 4, 1, 2), 0.25, 0.75)
    assert (found.step, found.steps, found.problems, found.entered, found.left) == (5, 5, 3, 1, 1)


def test_noise_of_one_problem_by_enumeration():
    # 4 and 4 completions, 1 success together: it is in the first or the second audit, each half of the time
    found = crossings(counted(0, 1), counted(1, 0), 0.25, 0.75)
    assert (found.noise_entered, found.noise_left) == pytest.approx((0.5, 0.5))
    # 7 successes of 8 are 3 and 4 or 4 and 3: in the band in one of the two
    found = crossings(counted(0, 3), counted(1, 4), 0.25, 0.75)
    assert (found.noise_entered, found.noise_left) == pytest.approx((0.5, 0.5))
    # 4 of 4 and 4: only 0|4 and 4|0 put both outside, no split changes sides
    found = crossings(counted(0, 2), counted(1, 2), 0.25, 0.75)
    assert (found.noise_entered, found.noise_left) == pytest.approx((0, 0))


@pytest.mark.parametrize("rate", [0.03, 0.2, 0.5, 0.81])
def test_noise_of_a_rate_that_stands_still_is_exact(rate):
    """Over all outcomes of two audits, of 6 and 4 completions, the expectation is the chance of crossing."""
    k1, k2 = (each.ravel().astype(float) for each in np.meshgrid(np.arange(7), np.arange(5)))
    chance = stats.binom.pmf(k1, 6, rate) * stats.binom.pmf(k2, 4, rate)
    entered = expected = 0.0
    for a, b, p in zip(k1, k2, chance, strict=True):
        one = crossings(
            Audited(0, np.array([a]), np.array([6.0])), Audited(1, np.array([b]), np.array([4.0])), 0.2, 0.8
        )
        entered += p * one.entered
        expected += p * one.noise_entered
    assert entered == pytest.approx(expected, abs=1e-12)


def test_without_drift_nothing_is_left_and_with_drift_no_more_than_truly_crossed():
    rng = np.random.default_rng(4)
    rates = rng.beta(0.6, 1.0, 20_000)

    def excess(earlier, later):
        found = crossings(audited(rng, earlier, 0), audited(rng, later, 5), 0.2, 0.8)
        assert found.entered > 500  # noise alone moves many
        return (found.entered + found.left - found.noise_entered - found.noise_left) / len(rates)

    assert abs(excess(rates, rates)) < 0.006
    moved = 1 / (1 + np.exp(-np.log(rates / (1 - rates)) - 1.5))
    inside, then = ((each >= 0.2) & (each <= 0.8) for each in (rates, moved))
    truly = (inside != then).mean()
    assert 0.5 * truly < excess(rates, moved) < truly
