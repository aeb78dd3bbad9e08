"""Pass rate from a problem's hidden state without any rollout of it: logistic regression, refitted at each refresh.

The newest `hidden.window` visits, those of one problem together, are binomial observations s of n at the states f of
their problems, as those are under the policy of the moment, on a scale where a state's squared norm is 1 on average
(`hidden.Scale`):

    sum_i [n_i log(1 + exp(w f_i + b)) - s_i (w f_i + b)] + ridge / 2 |w|^2      is minimised over w and b.

So before any visit the logit of a problem's pass rate has the standard deviation 1 / sqrt(ridge) around b, whatever the
width is. The prior Beta(a, b) is one more observation, a successes and b failures of a problem with the average state.

Laplace's approximation: around the minimum the weights are normal with the inverse of the Hessian as covariance, hence
a problem's logit too; m and sd of its pass rate are those of the sigmoid of that normal variable, by Gauss-Hermite
quadrature. That is how little is known of the weights. How far pass rates are from any linear function of the states is
the dispersion rho of a Beta around it (`population.dispersion`). It goes into both:
- completions of one problem then tell less of the weights, n of them as much as n / (1 + (n - 1) rho) (Williams, 1982,
  extra-binomial variation): the fit is to successes and counts that are smaller by this, with rho around a first fit;
- the uncertainty is the square root of sd^2 + rho m (1 - m), with rho around fits that a fifth of the problems was left
  out of. These are missed by the error of the weights too, which so counts twice: rather too much than too little.
States that carry nothing have rho large, so the fit stays near the mean and says that it knows little.

There are more weights than visits. w lies in the span of the f_i, so it is found there (thin singular value
decomposition, at most `window` numbers), and outside of that span every direction has its prior variance 1 / ridge.

A problem keeps the estimate of the refresh that last showed its state: weights and states belong to one policy. One
never shown has the mean and spread of the window's pass rates (`population`).

Visits of an earlier phase stay in the window with the states of that phase's last refresh, so that at a switch there is
something to go by; newer ones push them out.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.special import expit

from ductile.config import DifficultySettings, HiddenStateSettings
from ductile.difficulty.base import FEATURES, Arrays, Estimates, Evidence, Floats, Rows, Visits
from ductile.difficulty.hidden import HiddenStateTable, Scale
from ductile.difficulty.logistic import fit_logistic
from ductile.difficulty.newest import NewestVisits, chosen, pooled
from ductile.difficulty.population import dispersion, population

FOLDS = 5
"""Parts of the visited problems, each of which is left out of a fit."""

NODES = 32
"""Points of the quadrature: to 1e-4 up to a standard deviation of 3 of the logit."""


class FeaturesEstimator:
    """Hidden states, the newest visits, and what the last fit said of each row: [row, 2] mean and deviation, or NaN."""

    needs = frozenset({FEATURES})

    def __init__(self, prior: tuple[float, float], settings: HiddenStateSettings) -> None:
        self._prior = prior
        self._ridge = settings.ridge
        self._states = HiddenStateTable()
        self._newest = NewestVisits(settings.window)
        self._fitted = np.zeros((0, 2))
        self._seen = np.zeros(0, np.int64)  # step of the last visit, or of entering the table
        self._diagnostics: dict[str, float] = {}

    @classmethod
    def make(cls, settings: DifficultySettings) -> FeaturesEstimator:
        """The estimator that the settings describe."""
        return cls((settings.prior[0], settings.prior[1]), settings.hidden)

    def grow(self, count: int, step: int) -> None:
        """Append `count` rows without a hidden state."""
        self._states.grow(count)
        self._fitted = np.concatenate([self._fitted, np.full((count, 2), np.nan)])
        self._seen = np.concatenate([self._seen, np.full(count, step, np.int64)])

    def predict(self, rows: Rows, step: int) -> Estimates:
        """What the last fit said; of rows that it did not see, that they are like the window's."""
        fitted = self._fitted[rows]
        typical = population(self._newest.visits, self._prior)
        mean, deviation = np.where(np.isnan(fitted), np.array(typical), fitted).T
        return Estimates(mean, deviation, step - self._seen[rows])

    def observe(self, visits: Visits, step: int) -> None:
        """Kept for the next refresh."""
        self._newest.add(visits)
        self._seen[visits.rows] = step

    def measure_first(self, visits: Visits, step: int) -> None:
        """Outcomes of the untouched base are none of the policy of the moment."""

    def refresh(self, evidence: Evidence, step: int) -> None:
        """Fit anew, and say what comes of it for the rows whose states are given."""
        self._diagnostics = {}
        if not evidence.asked.any():
            return
        self._states.put(evidence.feature_rows, evidence.features)
        visits = pooled(chosen(self._newest.visits, self._states.known(self._newest.visits.rows)))
        self._diagnostics = {"problems": float(len(visits.rows))}
        if not len(visits.rows):
            return
        scale, rows = Scale.of(evidence.features[evidence.asked]), evidence.feature_rows[evidence.asked]
        span = Span(scale(self._states.of(visits.rows)))
        first = LaplaceFit(span.inside, visits, self._prior, self._ridge)
        thin = thinned(visits, dispersion(visits, first.rates(span.inside), self._prior))
        fit = LaplaceFit(span.inside, thin, self._prior, self._ridge)
        rho = dispersion(visits, left_out(span.inside, thin, self._prior, self._ridge), self._prior)

        def estimates(shown: Floats) -> Floats:
            mean, deviation = sigmoid_moments(*fit.logits(*span.split(scale(shown))))
            most = mean * (1 - mean)
            return np.stack([mean, np.sqrt(np.minimum(deviation**2 + rho * most, most))], axis=1)

        for part in (rows, evidence.feature_rows[~evidence.asked]):
            if len(part):
                self._fitted[part] = self._states.compute(part, estimates)
        self._diagnostics |= {
            "dispersion": rho,
            "estimate_sd": float(self._fitted[rows, 0].std()),
            "uncertainty_mean": float(self._fitted[rows, 1].mean()),
        }

    def diagnostics(self) -> Mapping[str, float]:
        """Of the last fit."""
        return self._diagnostics

    def snapshot(self) -> Arrays:
        """Hidden states, visits, the last fit's estimates, and steps of the last visits."""
        return {
            **{f"states/{name}": array for name, array in self._states.snapshot().items()},
            **{f"newest/{name}": array for name, array in self._newest.snapshot().items()},
            "fitted": self._fitted,
            "seen": self._seen,
        }

    def restore(self, snapshot: Arrays) -> None:
        """Become what `snapshot` describes."""
        self._states.restore({name: snapshot[f"states/{name}"] for name in self._states.snapshot()})
        self._newest.restore({name: snapshot[f"newest/{name}"] for name in self._newest.snapshot()})
        self._fitted, self._seen = snapshot["fitted"].copy(), snapshot["seen"].copy()


class Span:
    """The directions in which some states differ from 0: [state, width], on the scale.

    inside: [state, direction], the states themselves in these directions.
    """

    def __init__(self, states: Floats) -> None:
        left, lengths, directions = np.linalg.svd(states, full_matrices=False)
        some = lengths > 1e-10 * max(lengths[0], 1.0)
        self._directions = directions[some].T
        self.inside = left[:, some] * lengths[some]

    def split(self, states: Floats) -> tuple[Floats, Floats]:
        """Of any states: [state, direction] inside, and [state] the squared norm of what is outside."""
        inside = states @ self._directions
        return inside, np.maximum((states**2).sum(axis=1) - (inside**2).sum(axis=1), 0.0)


class LaplaceFit:
    """The regression, and the normal distribution of any problem's logit."""

    def __init__(self, states: Floats, visits: Visits, prior: tuple[float, float], ridge: float) -> None:
        """states: [visit, direction]."""
        count, width = states.shape
        inputs = np.zeros((count + 1, width + 1))
        inputs[:-1, :-1], inputs[:, -1] = states, 1.0  # the bias
        wins, counts = np.append(visits.successes, prior[0]), np.append(visits.counts, sum(prior))
        penalty = np.append(np.full(width, ridge), 0.0)
        self._weights, hessian = fit_logistic(inputs, wins, counts, penalty, np.zeros(width + 1))
        self._covariance = np.linalg.inv(hessian)
        self._ridge = ridge

    def rates(self, inside: Floats) -> Floats:
        """Pass rate at the likeliest weights, [problem]. inside: [problem, direction]."""
        return expit(inside @ self._weights[:-1] + self._weights[-1])

    def logits(self, inside: Floats, outside: Floats) -> tuple[Floats, Floats]:
        """Mean and variance of the logit, [problem] each.

        inside: [problem, direction]; outside: [problem], squared norm of the state in all other directions.
        """
        inputs = np.concatenate([inside, np.ones((len(inside), 1))], axis=1)
        variance = ((inputs @ self._covariance) * inputs).sum(axis=1)
        return inputs @ self._weights, variance + outside / self._ridge


def left_out(states: Floats, visits: Visits, prior: tuple[float, float], ridge: float) -> Floats:
    """[visit], the pass rate of each visited problem by a fit to others. states: [visit, direction]."""
    fold, rates = np.arange(len(states)) % FOLDS, np.zeros(len(states))
    for out in (fold == number for number in range(min(FOLDS, len(states)))):
        rates[out] = LaplaceFit(states[~out], chosen(visits, ~out), prior, ridge).rates(states[out])
    return rates


def thinned(visits: Visits, rho: float) -> Visits:
    """As many independent completions as the visits' dependent ones are worth."""
    share = 1 / (1 + np.maximum(visits.counts - 1, 0) * rho)
    return Visits(visits.rows, visits.successes * share, visits.counts * share)


def sigmoid_moments(mean: Floats, variance: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of sigmoid(z), [problem] each, for z normal with these moments."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    weights = weights / weights.sum()
    values = expit(mean[:, None] + np.sqrt(variance)[:, None] * nodes)
    first = values @ weights
    return first, np.sqrt(((values - first[:, None]) ** 2) @ weights)
