import numpy as np
import pytest
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from ductile.difficulty.base import Estimates
from ductile.difficulty.calibration import (
    bin_up,
    calibrate,
    calibration_error,
    covered,
    decompose,
    noise_error,
    predicted,
    spearman,
    squared_errors,
)


def floats(*values):
    return np.array(values, np.float64)


def audit(rng, rates, samples):
    counts = np.full(len(rates), float(samples))
    return rng.binomial(samples, rates).astype(np.float64), counts


def estimates(mean, uncertainty=None, age=None):
    mean = np.asarray(mean, np.float64)
    spread = np.zeros_like(mean) if uncertainty is None else uncertainty
    return Estimates(mean, spread, np.zeros(len(mean), np.int64) if age is None else age)


def completions(mean, successes, counts):
    """Every single completion: its problem's estimate, and whether it was right."""
    said = np.repeat(mean, counts.astype(int))
    right = np.concatenate(
        [[1] * int(s) + [0] * int(n - s) for s, n in zip(successes, counts, strict=True)], dtype=np.int64
    )
    return said, right


@pytest.fixture
def uneven():
    """Thirty problems, some with fewer judged completions, some estimates alike and some on the edges of bins."""
    rng = np.random.default_rng(3)
    counts = rng.integers(2, 12, 30).astype(np.float64)
    mean = np.concatenate([rng.random(20), np.full(5, 0.5), [0.0, 1.0, 0.1, 0.3, 0.7]])
    return mean, rng.binomial(counts.astype(int), rng.random(30)).astype(np.float64), counts


def test_audit_noise_is_subtracted_from_the_squared_error():
    # r = 1/4: (0.5 - 0.25)^2 - 0.25 * 0.75 / 3 = 0.0625 - 0.0625; r = 1: 0.25 - 0
    assert squared_errors(floats(0.5, 0.5), floats(1, 4), floats(4, 4)) == pytest.approx([0.0, 0.25])


def test_corrected_error_is_exactly_unbiased():
    n, k = 5, np.arange(6)
    for estimate, rate in ((0.3, 0.3), (0.9, 0.2), (0.0, 0.01)):
        chance = stats.binom.pmf(k, n, rate)
        expected = chance @ squared_errors(np.full(6, estimate), k.astype(float), np.full(6, float(n)))
        assert expected == pytest.approx((estimate - rate) ** 2, abs=1e-12)


def test_brier_of_single_completions_is_sklearns(uneven):
    said, right = completions(*uneven)
    assert decompose(*uneven, 10).brier == pytest.approx(brier_score_loss(right, said), abs=1e-14)


@pytest.mark.parametrize("bins", [1, 2, 7, 10, 50])
def test_parts_add_up_exactly(uneven, bins):
    parts = decompose(*uneven, bins)
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.spread - parts.agreement
    assert total == pytest.approx(parts.brier, abs=1e-15)
    assert min(parts.spread, abs(parts.agreement)) > 0  # the three of Murphy would not add up here


def test_without_differences_inside_bins_murphys_parts_are_all():
    mean, successes, counts = floats(0.1, 0.1, 0.9), floats(0, 4, 8), floats(8, 8, 8)
    parts = decompose(mean, successes, counts, 10)
    # bins of rates 4/16 and 8/8 with mean rate 1/2; noise: one problem of rate 1/2, variance 1/28 of half of its bin
    bins_noise, all_noise = 16 / 24 * 1 / 28 / 4, 1 / 28 / 9
    assert parts.reliability == pytest.approx((16 * 0.15**2 + 8 * 0.1**2) / 24 - bins_noise)
    assert parts.resolution == pytest.approx((16 * 0.25**2 + 8 * 0.5**2) / 24 - bins_noise + all_noise)
    assert parts.uncertainty == pytest.approx(0.25 + all_noise)
    assert (parts.spread, parts.agreement) == pytest.approx((0, 0), abs=1e-15)


def test_bins_are_those_of_sklearn(uneven):
    binned = bin_up(*uneven, 10)
    said, right = completions(*uneven)
    inside = (said * 10 != np.round(said * 10)) | (said == 0) | (said == 0.5)  # sklearn closes edges on the other side
    rate, mean = calibration_curve(right[inside], said[inside] + 1e-9, n_bins=10)
    own = bin_up(*(each[np.isin(uneven[0], said[inside])] for each in uneven), 10)
    some = own.completions > 0
    assert own.rate[some] == pytest.approx(rate)
    assert own.estimate[some] == pytest.approx(mean, abs=1e-8)
    assert binned.problems.sum() == 30
    assert binned.completions.sum() == len(said)


def test_edges_belong_to_the_bin_above_and_one_to_the_last():
    assert bin_up(floats(0, 0.5, 1), floats(1, 1, 1), floats(2, 2, 2), 2).problems.tolist() == [1, 2]


def test_calibration_error_weighs_bins_by_completions():
    binned = bin_up(floats(0.2, 0.9), floats(1, 6), floats(2, 6), 10)
    assert calibration_error(binned) == pytest.approx((2 * 0.3 + 6 * 0.1) / 8)


def test_parts_are_on_average_those_of_the_true_rates():
    """Exactly, over all outcomes of two problems in one bin and one in another, of 3, 2 and 3 completions."""
    mean, rates, counts = floats(0.3, 0.3, 0.8), floats(0.2, 0.6, 0.7), floats(3, 2, 3)
    found = np.zeros(3)
    for outcome in np.ndindex(4, 3, 4):
        chance = stats.binom.pmf(outcome, counts, rates).prod()
        parts = decompose(mean, floats(*outcome), counts, 2)
        found += chance * floats(parts.reliability, parts.resolution, parts.uncertainty)
    low, overall = (3 * 0.2 + 2 * 0.6) / 5, (3 * 0.2 + 2 * 0.6 + 3 * 0.7) / 8
    reliability = (5 * (0.3 - low) ** 2 + 3 * 0.1**2) / 8
    resolution = (5 * (low - overall) ** 2 + 3 * (0.7 - overall) ** 2) / 8
    assert found == pytest.approx([reliability, resolution, overall * (1 - overall)], abs=1e-12)


def test_noise_error_of_certain_beliefs_is_that_of_the_binomial():
    # one problem, one bin: E|k/n - f|
    sure = np.zeros(2)
    k = np.arange(9)
    exact = stats.binom.pmf(k, 8, 0.3) @ np.abs(k / 8 - 0.3)
    assert noise_error(floats(0.3), sure[:1], floats(8), 1) == pytest.approx(exact, rel=0.12)
    # two in one bin are one of 16, in two bins they are apart
    k = np.arange(17)
    pooled = stats.binom.pmf(k, 16, 0.3) @ np.abs(k / 16 - 0.3)
    assert noise_error(floats(0.3, 0.3), sure, floats(8, 8), 1) == pytest.approx(pooled, rel=0.12)
    assert noise_error(floats(0.3, 0.7), sure, floats(8, 8), 2) == pytest.approx(exact, rel=0.12)
    assert noise_error(floats(0.0, 1.0), sure, floats(8, 8), 4) == 0


def test_noise_error_of_uncertain_beliefs_is_that_of_the_beta_binomial():
    k, alpha, beta = np.arange(9), 1.5, 3.5
    exact = stats.betabinom.pmf(k, 8, alpha, beta) @ np.abs(k / 8 - 0.3)
    spread = floats(stats.beta.std(alpha, beta))
    assert noise_error(floats(0.3), spread, floats(8), 1) == pytest.approx(exact, rel=0.12)


@pytest.mark.parametrize("visited", [False, True])
def test_noise_error_is_what_a_right_estimator_shows(visited):
    """The prior of problems that were never asked, and the posterior of 8 completions each."""
    rng = np.random.default_rng(1)
    shown, expected = [], []
    for _ in range(40):
        rates = rng.random(48)
        seen = rng.binomial(8, rates) if visited else np.zeros(48)
        alpha, beta = 1 + seen, 1 + (8 if visited else 0) - seen
        belief = estimates(alpha / (alpha + beta), stats.beta.std(alpha, beta))
        found = calibrate(belief, *audit(rng, rates, 32), 10)
        shown.append(found.ece)
        expected.append(found.ece_noise)
    assert np.mean(shown) == pytest.approx(np.mean(expected), rel=0.15)


def test_rank_correlation_with_ties_by_hand_and_none_of_a_constant():
    # ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: covariance 4.5, variances 4.5 and 5
    assert spearman(floats(0.1, 0.2, 0.2, 0.4), floats(0, 0.3, 0.5, 1)) == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    assert spearman(floats(0.5, 0.5), floats(0, 1)) is None
    assert spearman(floats(0.2, 0.5), floats(1, 1)) is None


def test_prediction_is_scipys_beta_binomial():
    mean, total = floats(0.3, 0.5, 0.999), floats(5, 2, 50)
    uncertainty = np.sqrt(mean * (1 - mean) / (total + 1))
    found = predicted(mean, uncertainty, floats(32, 8, 32))
    for row, (m, t, n) in enumerate(zip(mean, total, (32, 8, 32), strict=True)):
        exact = stats.betabinom.pmf(np.arange(33), n, m * t, (1 - m) * t)
        assert found[row] == pytest.approx(exact, abs=1e-12)


def test_degenerate_beliefs_predict_what_they_say():
    n, k = 6, np.arange(7)
    mean = floats(0.3, 0.3, 0.0, 1.0, 0.0, 0.3, 0.3)
    uncertainty = floats(0.0, np.sqrt(0.21), 0.0, 0.0, 0.2, 0.6, 1e-7)
    found = predicted(mean, uncertainty, np.full(7, float(n)))
    binomial, nothing, whole = stats.binom.pmf(k, n, 0.3), (k == 0) * 1.0, (k == n) * 1.0
    either = 0.7 * nothing + 0.3 * whole
    expected = [binomial, either, nothing, whole, nothing, either, binomial]
    assert found == pytest.approx(np.array(expected), abs=1e-9)
    assert found.sum(1) == pytest.approx(np.ones(7))


@pytest.mark.parametrize(("mean", "uncertainty"), [(0.5, 0.1), (0.02, 0.02), (0.97, 0.0), (0.4, 0.3), (0.0, 0.0)])
def test_right_belief_is_covered_nine_times_in_ten_exactly(mean, uncertainty):
    n = 7
    k = np.arange(n + 1)
    counts, same = np.full(n + 1, float(n)), np.full(n + 1, mean)
    chance = predicted(floats(mean), floats(uncertainty), floats(n))[0]
    inside, _ = covered(same, np.full(n + 1, uncertainty), k.astype(float), counts)
    assert chance @ inside == pytest.approx(0.9, abs=1e-12)


def test_count_that_the_belief_rules_out_is_not_covered():
    inside, width = covered(floats(0, 1), floats(0, 0), floats(3, 3), floats(8, 8))
    assert inside.tolist() == [0, 0]
    assert width.tolist() == [0, 0]


def test_width_is_between_the_quantiles_of_the_prediction():
    _, width = covered(floats(0.5, 0.5), floats(0.0, np.sqrt(1 / 12)), floats(16, 16), floats(32, 32))
    binomial = stats.binom.ppf([0.05, 0.95], 32, 0.5)
    flat = stats.betabinom.ppf([0.05, 0.95], 32, 1, 1)
    assert width == pytest.approx([np.diff(binomial)[0] / 32, np.diff(flat)[0] / 32])


def test_perfect_estimator_has_no_error_and_a_biased_one_its_bias():
    rng = np.random.default_rng(0)
    rates = rng.beta(0.5, 0.8, 1500)
    successes, counts = audit(rng, rates, 32)
    perfect = calibrate(estimates(rates), successes, counts, 10)
    low, high = perfect.intervals["brier"]
    assert low < 0 < high
    assert perfect.brier == pytest.approx(0, abs=5e-4)
    assert perfect.ece == pytest.approx(perfect.ece_noise, abs=0.003)
    assert perfect.coverage == pytest.approx(0.9, abs=0.02)
    assert perfect.bias == pytest.approx(0, abs=0.006)
    assert perfect.spearman > 0.97
    shrunk = calibrate(estimates(0.5 * rates + 0.4), successes, counts, 10)
    assert shrunk.brier == pytest.approx(np.mean((0.4 - 0.5 * rates) ** 2), abs=0.003)
    assert shrunk.bias == pytest.approx(np.mean(0.4 - 0.5 * rates), abs=0.006)
    assert shrunk.spearman == pytest.approx(perfect.spearman)  # the order is all it reads
    assert shrunk.coverage < 0.6
    assert shrunk.ece > 10 * shrunk.ece_noise


def test_belief_that_is_a_posterior_is_covered():
    rng = np.random.default_rng(1)
    rates = rng.beta(2, 3, 1500)
    seen = rng.binomial(8, rates)
    alpha, beta = 2 + seen, 3 + 8 - seen
    belief = estimates(alpha / (alpha + beta), stats.beta.std(alpha, beta))
    successes, counts = audit(rng, rates, 32)
    found = calibrate(belief, successes, counts, 10)
    assert found.coverage == pytest.approx(0.9, abs=0.02)
    assert found.brier == pytest.approx(np.mean(stats.beta.var(alpha, beta)), abs=0.0015)
    sure = Estimates(belief.mean, 0.3 * belief.uncertainty, belief.age)
    assert calibrate(sure, successes, counts, 10).coverage < 0.8


def test_intervals_are_as_wide_as_the_spread_over_audits():
    """The bootstrap's half widths against the spread of the measures over many independent audits."""
    rng = np.random.default_rng(2)

    def once():
        rates = rng.random(64)
        mean = np.clip(rates + rng.normal(0, 0.1, 64), 0, 1)
        return calibrate(estimates(mean, np.full(64, 0.1)), *audit(rng, rates, 32), 10)

    found = [once() for _ in range(40)]
    for name in ("brier", "spearman", "bias", "coverage"):
        spread = 2 * 1.96 * np.std([getattr(each, name) for each in found])
        width = np.mean([np.subtract(*each.intervals[name][::-1]) for each in found])
        assert 0.7 < width / spread < 1.4


def test_the_same_audit_gives_the_same_numbers():
    rng = np.random.default_rng(4)
    successes, counts = audit(rng, rng.random(20), 8)
    said = estimates(rng.random(20), np.full(20, 0.1), np.arange(20))
    first, again = (calibrate(said, successes, counts, 5) for _ in range(2))
    assert (first.intervals, first.ece_noise) == (again.intervals, again.ece_noise)
    assert first.age == 9.5
