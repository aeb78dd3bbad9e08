"""How well estimates of pass rates hold against an audit: n fresh completions of each problem, k of them right.

The audited rate r = k/n is itself noisy, and every measure here says what it does about that:

- `brier` subtracts the noise: E[(f - r)^2 - r (1 - r) / (n - 1)] = (f - p)^2, for an estimate f and the true rate p.
- `ece` cannot be negative, so that noise raises it; beside it stands `ece_noise`, what it is on average for beliefs
  that are right: rates drawn from them, counts drawn from the rates.
- `reliability`, `resolution` and `uncertainty` of the single completions' Brier score are what they are for these
  problems with endless completions: the sampling variance of the bins' rates is taken out, see `decompose`.
- `coverage` holds k against the whole distribution that the belief predicts for it, noise included.
- `spearman` is attenuated by it, for all estimators alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy  # its parts are imported where they are first used
from numpy.random import Generator, Philox
from numpy.typing import NDArray
from scipy.special import betaln, gammaln, xlog1py, xlogy

from ductile.difficulty.base import Estimates, Floats

CENTRAL = 0.9
"""Probability of the interval whose coverage is measured."""
RESAMPLES = 1_000
DRAWS = 500
LARGEST = 1e8
"""Evidence of a Beta, alpha + beta, from which its Beta-binomial is the binomial to 1e-6, and more exact so."""


@dataclass(frozen=True)
class Bins:
    """The bins of a reliability diagram, of equal width in the estimate.

    All: [bin]. problems and completions count what fell into the bin; estimate and rate are its completions' mean
    estimate and success rate, 0 where there are none.

    Equal widths and not equal counts: a bin then means the same for every estimator, audit and seed, so that counts
    of several add up; and the many problems that share one estimate (the prior, 0, 1) are not torn apart.
    """

    problems: NDArray[np.int64]
    completions: Floats
    estimate: Floats
    rate: Floats


@dataclass(frozen=True)
class Decomposition:
    """The Brier score of single completions, brier = reliability - resolution + uncertainty + spread - agreement.

    The first three are Murphy's (1973), corrected for sampling; reliability and resolution can fall below 0. He
    assumed one estimate a bin; with several the last two complete the sum (Stephenson, Coelho & Jolliffe 2008, doi
    10.1175/2007WAF2006116.1): `spread`, the variance of the estimates within bins, and `agreement`, twice their
    covariance with the outcomes there.
    """

    brier: float
    reliability: float
    resolution: float
    uncertainty: float
    spread: float
    agreement: float


@dataclass(frozen=True)
class Calibration:
    """What one audit says of one estimator.

    brier:     mean squared error of the estimates to the true rates, audit noise subtracted; can fall below 0
    parts:     the Brier score of single completions and its parts
    ece:       expected calibration error
    ece_noise: its mean if the beliefs (mean and uncertainty) were right
    spearman:  rank correlation with the audited rates; None where either is constant
    coverage:  share of the counts inside the belief's central 90% interval, 0.9 in expectation for a right Beta
    width:     mean width of that interval, as a rate
    bias:      mean estimate minus mean audited rate
    age:       mean age in steps
    intervals: 95% bootstrap intervals over problems of brier, spearman, coverage and bias
    """

    brier: float
    parts: Decomposition
    ece: float
    ece_noise: float
    spearman: float | None
    coverage: float
    width: float
    bias: float
    age: float
    bins: Bins
    intervals: Mapping[str, tuple[float, float]]


def calibrate(estimates: Estimates, successes: Floats, counts: Floats, bins: int) -> Calibration:
    """Every measure. successes, counts: [problem] float64, at least 2 completions each; at least one problem."""
    mean, rate = estimates.mean, successes / counts
    errors = squared_errors(mean, successes, counts)
    inside, widths = covered(mean, estimates.uncertainty, successes, counts)
    resampled = _resampled_means(np.stack([errors, inside, mean - rate]))
    intervals = dict(zip(("brier", "coverage", "bias"), resampled, strict=True))
    rank = spearman(mean, rate)
    if rank is not None:
        intervals["spearman"] = _resampled_spearman(mean, rate)
    binned = bin_up(mean, successes, counts, bins)
    return Calibration(
        brier=float(errors.mean()),
        parts=decompose(mean, successes, counts, bins),
        ece=calibration_error(binned),
        ece_noise=noise_error(mean, estimates.uncertainty, counts, bins),
        spearman=rank,
        coverage=float(inside.mean()),
        width=float(widths.mean()),
        bias=float((mean - rate).mean()),
        age=float(estimates.age.mean()),
        bins=binned,
        intervals=intervals,
    )


def squared_errors(mean: Floats, successes: Floats, counts: Floats) -> Floats:
    """[problem]: (f - r)^2 - r (1 - r) / (n - 1), unbiased for the squared error to the true rate."""
    rate = successes / counts
    return (mean - rate) ** 2 - rate_variance(rate, counts)


def rate_variance(rate: Floats, counts: Floats) -> Floats:
    """r (1 - r) / (n - 1): unbiased for the variance p (1 - p) / n of an audited rate. counts: at least 2."""
    return rate * (1 - rate) / (counts - 1)


def bin_up(mean: Floats, successes: Floats, counts: Floats, bins: int) -> Bins:
    """The problems by their estimate: [0, 1/bins), ..., [1 - 1/bins, 1]."""
    where = _bin_of(mean, bins)
    completions = np.bincount(where, counts, bins).astype(np.float64)
    some = np.maximum(completions, 1)
    return Bins(
        problems=np.bincount(where, minlength=bins),
        completions=completions,
        estimate=np.bincount(where, counts * mean, bins) / some,
        rate=np.bincount(where, successes, bins) / some,
    )


def decompose(mean: Floats, successes: Floats, counts: Floats, bins: int) -> Decomposition:
    """The Brier score of all completions, each against its problem's estimate; see `Decomposition`.

    A bin's rate is sampled, so that plain reliability and resolution are too large, by sum_k w_k v_k and by that minus
    v, and plain uncertainty is too small by v: v_k is the variance of the rate of bin k, w_k its share of the
    completions, v = sum_k w_k^2 v_k that of the rate of all. Unbiased estimates of them are subtracted, as in Ferro &
    Fricker (2012, doi 10.1002/qj.1924), who had one outcome a forecast, and so the problems drawn anew; ours are fixed
    and their completions are drawn: v_k = sum of n_i^2 r_i (1 - r_i) / (n_i - 1) over the problems i in the bin, over
    the square of its completions. What is taken out cancels in the sum, which still is the plain Brier score.
    counts: at least 2.
    """
    where, binned, total = _bin_of(mean, bins), bin_up(mean, successes, counts, bins), counts.sum()
    overall, offset = successes.sum() / total, mean - binned.estimate[where]
    outcomes = successes - counts * binned.rate[where]  # sum over the problem's completions of outcome - bin's rate
    noise = np.bincount(where, counts**2 * rate_variance(successes / counts, counts), bins)  # completions^2 x variance
    bins_noise = float((noise / np.maximum(binned.completions, 1)).sum() / total)
    all_noise = float(noise.sum() / total**2)
    return Decomposition(
        brier=float((successes * (1 - mean) ** 2 + (counts - successes) * mean**2).sum() / total),
        reliability=float((binned.completions * (binned.estimate - binned.rate) ** 2).sum() / total) - bins_noise,
        resolution=float((binned.completions * (binned.rate - overall) ** 2).sum() / total) - bins_noise + all_noise,
        uncertainty=float(overall * (1 - overall)) + all_noise,
        spread=float((counts * offset**2).sum() / total),
        agreement=float(2 * (outcomes * offset).sum() / total),
    )


def calibration_error(binned: Bins) -> float:
    """ECE: mean over completions of |mean estimate - rate| of their bin (Naeini et al. 2015)."""
    return float((binned.completions * np.abs(binned.estimate - binned.rate)).sum() / binned.completions.sum())


def noise_error(mean: Floats, uncertainty: Floats, counts: Floats, bins: int, seed: int = 0) -> float:
    """The mean ECE of these beliefs over `DRAWS` audits, were they right: counts drawn from what they predict.

    A right belief is not a known rate: problems that are given the same estimate have different rates, which a bin of
    few problems shows. Each count is therefore Beta-binomial (`predicted`), and binomial only where the belief is
    certain.
    """
    below, draws = np.cumsum(predicted(mean, uncertainty, counts), axis=1), Generator(Philox(seed))
    drawn = np.stack([np.searchsorted(row, draws.random(DRAWS), side="right") for row in below], axis=1)
    members = np.eye(bins)[_bin_of(mean, bins)]  # [problem, bin]
    return float(np.abs((np.minimum(drawn, counts) - counts * mean) @ members).sum(1).mean() / counts.sum())


def spearman(mean: Floats, rate: Floats) -> float | None:
    """Rank correlation, ties with their mean rank; None where either is constant."""
    if np.ptp(mean) == 0 or np.ptp(rate) == 0:
        return None
    return float(scipy.stats.spearmanr(mean, rate).statistic)


def covered(mean: Floats, uncertainty: Floats, successes: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """[problem] how far each count lies inside the central 90% of its prediction, in [0, 1], and that interval's width.

    The prediction of k is the Beta-binomial whose Beta has the belief's mean and standard deviation. A discrete
    interval covers more than it promises; so the share is taken by which the step [F(k - 1), F(k)] of the
    distribution function lies in [0.05, 0.95]: the probability that the randomised probability integral transform
    falls there, without the dice (Czado, Gneiting & Held 2009, doi 10.1111/j.1541-0420.2009.01191.x). It is 0.9 in
    expectation where the rate is drawn from that Beta, whatever its mean and width. Of a belief of another shape only
    mean and standard deviation are held against the audit: coverage can then stray from 0.9 though both are right. A
    count that the belief rules out is not covered. The width is between the 5% and 95% quantiles of k / n: sharpness
    (Gneiting et al. 2007), audit noise included.
    """
    pmf = predicted(mean, uncertainty, counts)
    below = np.cumsum(pmf, axis=1)
    rows, k = np.arange(len(mean)), successes.astype(np.int64)
    mass, upper = pmf[rows, k], below[rows, k]
    tail = (1 - CENTRAL) / 2
    overlap = np.minimum(upper, 1 - tail) - np.maximum(upper - mass, tail)
    share = np.clip(np.divide(overlap, mass, out=np.zeros_like(mass), where=mass > 0), 0, 1)
    low, high = ((below < bound - 1e-12).sum(1) for bound in (tail, 1 - tail))
    return share, (np.minimum(high, counts) - low) / counts


def predicted(mean: Floats, uncertainty: Floats, counts: Floats) -> Floats:
    """[problem, k] probability of each count of successes, 0 where k is above the problem's completions.

    A Beta of mean m and standard deviation u has alpha + beta = m (1 - m) / u^2 - 1. Certain beliefs (u = 0) predict
    a binomial; those as uncertain as can be (u^2 = m (1 - m)) all or nothing; a mean of 0 or 1 leaves no choice.
    """
    k = np.arange(int(counts.max()) + 1, dtype=np.float64)
    m, n = np.clip(mean, 0, 1)[:, None], counts[:, None]
    spread = np.square(uncertainty)[:, None]
    total = np.divide(m * (1 - m), spread, out=np.full_like(m, np.inf), where=spread > 0) - 1
    possible, rest = k <= n, np.maximum(n - k, 0)
    choices = gammaln(n + 1) - gammaln(k + 1) - gammaln(rest + 1)
    open_, flat = (m > 0) & (m < 1) & (total > 1e-9), (m > 0) & (m < 1) & (total <= 1e-9)
    evidence = np.clip(total, 1e-9, LARGEST)
    a, b = np.where(open_, m, 0.5) * evidence, np.where(open_, 1 - m, 0.5) * evidence
    beta = choices + betaln(k + a, rest + b) - betaln(a, b)
    binomial = choices + xlogy(k, m) + xlog1py(rest, -m)
    pmf = np.exp(np.where(open_ & (total < LARGEST), beta, binomial))
    pmf = np.where(flat, m * (k == n) + (1 - m) * (k == 0), pmf)
    return np.where(possible, pmf, 0.0)


def _bin_of(mean: Floats, bins: int) -> NDArray[np.int64]:
    return np.clip((mean * bins).astype(np.int64), 0, bins - 1)


def _resampled_means(values: Floats) -> list[tuple[float, float]]:
    """95% percentile interval of each row's mean over resamples of the problems. values: [measure, problem]."""
    means = values[:, _resamples(values.shape[1])].mean(2)
    return [(float(low), float(high)) for low, high in np.quantile(means, (0.025, 0.975), axis=1).T]


def _resampled_spearman(mean: Floats, rate: Floats) -> tuple[float, float]:
    """The same of the rank correlation; resamples in which either is constant are left out."""
    chosen = _resamples(len(mean))
    ranks = [scipy.stats.rankdata(values[chosen], axis=1) for values in (mean, rate)]
    first, second = (each - each.mean(1, keepdims=True) for each in ranks)
    norm = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    found = (first * second).sum(1)[norm > 0] / norm[norm > 0]
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def _resamples(problems: int) -> NDArray[np.int64]:
    """[resample, position]: which problem was drawn; the same for every measure and estimator."""
    return Generator(Philox(0)).integers(problems, size=(RESAMPLES, problems))
