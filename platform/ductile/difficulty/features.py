"""Pass rate from a problem's hidden state without any rollout of it: logistic regression, refitted at each refresh.

The newest `hidden.window` visits are binomial observations s of n at the states f of their problems, as those are under
the policy of the moment, on a scale where a state's squared norm is 1 on average (`hidden.Scale`):

    sum_i [n_i log(1 + exp(w f_i + b)) - s_i (w f_i + b)] + ridge / 2 |w|^2      is minimised over w and b.

So before any visit the logit of a problem's pass rate has the standard deviation 1 / sqrt(ridge) around b, whatever the
width is. The prior Beta(a, b) is one more observation, a successes and b failures of a problem with the average state.

Laplace's approximation: around the minimum the weights are normal with the inverse of the Hessian as covariance, hence
a problem's logit too; mean and standard deviation of its pass rate are those of the sigmoid of that normal variable, by
Gauss-Hermite quadrature. This is how little the fit knows of its weights; how far pass rates are from any linear
function of the states it does not know.

There are more weights than visits. w lies in the span of the f_i, so it is found there (thin singular value
decomposition, at most `window` numbers), and outside of that span every direction has its prior variance 1 / ridge.

A problem keeps the estimate of the refresh that last showed its state: weights and states belong to one policy. One
never shown has the mean and spread of the window's pass rates (`population`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.special import expit

from ductile.config import DifficultySettings, HiddenStateSettings
from ductile.difficulty.base import FEATURES, Arrays, Estimates, Evidence, Floats, Rows, Visits
from ductile.difficulty.hidden import CHUNK, HiddenStateTable, Scale
from ductile.difficulty.logistic import fit_logistic
from ductile.difficulty.newest import NewestVisits, chosen
from ductile.difficulty.population import population

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
        if not len(evidence.feature_rows):
            return
        self._states.put(evidence.feature_rows, evidence.features)
        visits = chosen(self._newest.visits, self._states.known(self._newest.visits.rows))
        self._diagnostics = {"visits": float(len(visits.rows))}
        if not len(visits.rows):
            return
        scale = Scale.of(evidence.features)
        fit = LaplaceFit(scale(self._states.of(visits.rows)), visits.successes, visits.counts, self._prior, self._ridge)
        rows = evidence.feature_rows
        logits = self._states.compute(rows, lambda states: np.stack(fit.logits(scale(states)), axis=1))
        self._fitted[rows] = np.concatenate(
            [np.stack(sigmoid_moments(*logits[i : i + CHUNK].T), axis=1) for i in range(0, len(rows), CHUNK)]
        )
        self._diagnostics |= {
            "log_loss": fit.log_loss,
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


class LaplaceFit:
    """The regression, and the normal distribution of any problem's logit.

    log_loss: mean negative log-likelihood of a completion of the visits that it was fitted to, nats.
    """

    def __init__(
        self, states: Floats, successes: Floats, counts: Floats, prior: tuple[float, float], ridge: float
    ) -> None:
        """states: [visit, width] on the scale; successes, counts: [visit]."""
        left, lengths, span = np.linalg.svd(states, full_matrices=False)
        inside = lengths > 1e-10 * max(lengths[0], 1.0)
        self._span, self._ridge = span[inside].T, ridge  # [width, direction]
        inputs = np.ones((len(states) + 1, int(inside.sum()) + 1))  # in the span, and 1 for the bias
        inputs[:-1, :-1], inputs[-1, :-1] = left[:, inside] * lengths[inside], 0.0
        penalty = np.full(inputs.shape[1], ridge)
        penalty[-1] = 0.0
        wins, totals = np.append(successes, prior[0]), np.append(counts, sum(prior))
        self._weights, hessian = fit_logistic(inputs, wins, totals, penalty, np.zeros(inputs.shape[1]))
        self._covariance = np.linalg.inv(hessian)
        scores = inputs[:-1] @ self._weights
        self.log_loss = float((counts * np.logaddexp(0, scores) - successes * scores).sum() / counts.sum())

    def logits(self, states: Floats) -> tuple[Floats, Floats]:
        """Mean and variance of the logit, [problem] each. states: [problem, width] on the scale."""
        inside = states @ self._span
        inputs = np.concatenate([inside, np.ones((len(states), 1))], axis=1)
        variance = ((inputs @ self._covariance) * inputs).sum(axis=1)
        outside = (states**2).sum(axis=1) - (inside**2).sum(axis=1)
        return inputs @ self._weights, variance + np.maximum(outside, 0.0) / self._ridge


def sigmoid_moments(mean: Floats, variance: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of sigmoid(z), [problem] each, for z normal with these moments."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    weights = weights / weights.sum()
    values = expit(mean[:, None] + np.sqrt(variance)[:, None] * nodes)
    first = values @ weights
    return first, np.sqrt(((values - first[:, None]) ** 2) @ weights)
