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
    # rates 0, 1/2, 1 and 1/2, 1/2, 1; noise 0, 1/4 / 63, 0 and 1/4 / 63, 1/4 / 63, 0
    found = half_life([counted(0, 0, 32, 64, samples=64), counted(10, 32, 32, 64, samples=64)])
    error = (0.25 - 3 * 0.25 / 63) / 3
    spread = np.var([0.5, 0.5, 1], ddof=1) - 2 * 0.25 / 63 / 3
    assert found.curve == ((0, 1.0), (10, pytest.approx(1 - error / spread)))
    assert found.steps == pytest.approx(10 * 0.5 / (error / spread))


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
    assert found.censored
    assert [skill for _, skill in found.curve] == pytest.approx([1, 1, 1], abs=0.01)


def test_problems_that_are_all_alike_have_nothing_to_predict():
    rng = np.random.default_rng(3)
    found = half_life([audited(rng, np.full(64, 0.02), step) for step in (0, 5, 10)])
    assert (found.curve, found.steps, found.why, found.censored) == (((0, 1.0),), None, "no spread", False)
    assert half_life([counted(0, 0, 4)]).why == "no spread"


@pytest.mark.parametrize(("mean", "deviation"), [(0.5, 0.05), (0.5, 0.1), (0.85, 0.07), (0.1, 0.1)])
def test_noise_rarely_finds_a_half_life_of_rates_that_stand_still(mean, deviation):
    rng = np.random.default_rng(5)
    found = []
    for _ in range(100):
        rates = np.clip(rng.normal(mean, deviation, 48), 0, 1)
        found.append(half_life([audited(rng, rates, step) for step in (0, 5, 10, 15, 20)]))
    assert sum(each.steps is not None for each in found) <= 5


def test_problems_that_are_all_solved_in_the_end_leave_no_statement_of_longer():
    """A frozen estimate holds over the first steps; then every rate is 1, and there is no difference to predict."""
    rng = np.random.default_rng(6)
    rates = rng.random(64)
    solved = Audited(20, np.full(64, 32.0), np.full(64, 32.0))
    found = half_life([audited(rng, rates, 0), audited(rng, rates + 0.1 * (1 - rates), 5), solved])
    assert [delta for delta, _ in found.curve] == [0, 5]
    assert found.curve[1][1] > 0.8
    assert (found.steps, found.why, found.censored) == (None, "no spread", False)


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


def test_without_drift_what_is_seen_is_what_noise_makes():
    rng = np.random.default_rng(4)
    rates = rng.beta(0.6, 1.0, 20_000)
    found = crossings(audited(rng, rates, 0), audited(rng, rates, 5), 0.2, 0.8)
    assert found.entered > 500  # noise alone moves many
    spread = 4 * np.sqrt(found.entered)
    assert found.entered == pytest.approx(found.noise_entered, abs=spread)
    assert found.left == pytest.approx(found.noise_left, abs=spread)


def test_what_is_seen_beyond_noise_is_no_bound_of_what_crossed():
    """Rates that move up to an edge and not over it: a tenth and more of the problems is seen to cross all the same."""
    rng = np.random.default_rng(7)
    found = crossings(audited(rng, np.full(5_000, 0.05), 0), audited(rng, np.full(5_000, 0.19), 5), 0.2, 0.8)
    seen = found.entered + found.left - found.noise_entered - found.noise_left
    assert seen > 500  # none crossed
