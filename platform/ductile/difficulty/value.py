"""A value model learned online (PCL, arXiv 2510.01135): V(x) = sigmoid(w f(x) + b) on the prompt's last hidden state f.

Each step's visits are gone through once, in order, before they are forgotten. For s successes of n, with x = (f(x), 1),

    (w, b) <- (w, b) + rate (s - n V'(x)) x,

the gradient step on the binomial loss of s, with V' by the new (w, b) and not by the old (implicit SGD, Toulis and
Airoldi, 2017): the same for small steps, and at any rate and any length of x it does not go beyond s / n. f is on a
scale where its squared norm is 1 on average (`hidden.Scale`). PCL's value model is a language model of the policy's
size, regressed on the mean reward; this one is linear and reads the policy's own states, which are as of the last
refresh. When a refresh changes the scale, (w, b) are changed with it, so that V stays the same function of a state.
A problem without a state is treated as one whose state is the average: its estimate is sigmoid(b), and it teaches b
alone.

The uncertainty is how far pass rates were from V beyond binomial noise, as the dispersion of a Beta around V:
Var(p) = rho V (1 - V). Over the visits i, with V as it was before the visit taught it,

    rho = (rho_0 v_0 + sum_i g_i e_i) / (v_0 + sum_i g_i V_i (1 - V_i)),
    e_i = (s/n - V_i)^2 - (s/n)(1 - s/n)/(n - 1),

in [0, 1]. The second term of e is the unbiased estimate of the noise in s/n; visits of one completion do not tell it
and are left out. A visit's g is `KEPT` to the power of the visits after it. The prior Beta(a, b), of dispersion rho_0 =
1 / (a + b + 1) and v_0 = a b / (a + b)^2, counts as one visit that is never forgotten, and alone for problems without a
state. Of problems that are asked again and again V may know more than of others; rho is of those that are asked.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy  # its parts are imported where they are first used
from scipy.special import expit, logit

from ductile.config import DifficultySettings
from ductile.difficulty.base import FEATURES, Arrays, Estimates, Evidence, Rows, Visits
from ductile.difficulty.hidden import HiddenStateTable, Scale
from ductile.difficulty.population import excess

KEPT = 0.99
"""Share of the residuals that each visit leaves: they are those of about the last hundred visits."""


class ValueEstimator:
    """One linear model. Before the first refresh it has a bias alone."""

    needs = frozenset({FEATURES})

    def __init__(self, prior: tuple[float, float], rate: float) -> None:
        mean = prior[0] / (prior[0] + prior[1])
        self._rate = rate
        self._states = HiddenStateTable()
        self._scale = Scale(np.zeros(0), np.ones(0))
        self._weights = np.zeros(0)  # of the scaled state
        self._bias = float(logit(mean))
        self._excess, self._binary = 0.0, 0.0  # sums of g e and of g V (1 - V)
        self._prior_variance, self._prior_dispersion = mean * (1 - mean), 1 / (prior[0] + prior[1] + 1)
        self._seen = np.zeros(0, np.int64)  # step of the last visit, or of entering the table

    @classmethod
    def make(cls, settings: DifficultySettings) -> ValueEstimator:
        """The estimator that the settings describe."""
        return cls((settings.prior[0], settings.prior[1]), settings.hidden.rate)

    def grow(self, count: int, step: int) -> None:
        """Append `count` rows without a hidden state."""
        self._states.grow(count)
        self._seen = np.concatenate([self._seen, np.full(count, step, np.int64)])

    def predict(self, rows: Rows, step: int) -> Estimates:
        """V of each row, and the spread of pass rates around V."""
        known = self._states.known(rows)
        scores = np.full(len(rows), self._bias)
        if known.any():
            scores[known] += self._states.compute(rows[known], lambda states: self._scale(states) @ self._weights)
        mean = expit(scores)
        dispersion = np.where(known, self._dispersion, self._prior_dispersion)
        return Estimates(mean, np.sqrt(dispersion * mean * (1 - mean)), step - self._seen[rows])

    def observe(self, visits: Visits, step: int) -> None:
        """One gradient step a visit."""
        self._seen[visits.rows] = step
        known = self._states.known(visits.rows)
        states = np.zeros((len(visits.rows), len(self._weights)))
        if known.any():
            states[known] = self._scale(self._states.of(visits.rows[known]))
        for state, has_state, wins, count in zip(
            states, known.tolist(), visits.successes.tolist(), visits.counts.tolist(), strict=True
        ):
            score = float(state @ self._weights) + self._bias
            value = float(expit(score))
            if has_state and count > 1:
                self._excess = KEPT * self._excess + excess(wins / count, count, value)
                self._binary = KEPT * self._binary + value * (1 - value)
            length = float(state @ state) + 1
            moved = self._rate * implicit_gradient(score, self._rate * length, wins, count)
            self._weights = self._weights + moved * state
            self._bias += moved

    def measure_first(self, visits: Visits, step: int) -> None:
        """Outcomes of the untouched base have no hidden states yet and teach it nothing."""

    def refresh(self, evidence: Evidence, step: int) -> None:
        """The states of the policy of the moment, and their scale; V stays the same function of a state."""
        if not evidence.asked.any():
            return
        old, new = self._scale, Scale.of(evidence.features[evidence.asked])
        if self._states.width:
            slope = self._weights / old.unit
            self._bias += float(slope @ (new.centre - old.centre))
            self._weights = slope * new.unit
        else:
            self._weights = np.zeros(evidence.features.shape[1])
        self._scale = new
        self._states.put(evidence.feature_rows, evidence.features)

    def diagnostics(self) -> Mapping[str, float]:
        """What it has learned so far."""
        return {
            "weight_norm": float(np.linalg.norm(self._weights)),
            "bias": self._bias,
            "dispersion": self._dispersion,
        }

    def snapshot(self) -> Arrays:
        """Hidden states, their scale, the model, its residuals, and steps of the last visits."""
        return {
            **{f"states/{name}": array for name, array in self._states.snapshot().items()},
            "centre": self._scale.centre,
            "spread": self._scale.spread,
            "weights": self._weights,
            "numbers": np.array([self._bias, self._excess, self._binary]),
            "seen": self._seen,
        }

    def restore(self, snapshot: Arrays) -> None:
        """Become what `snapshot` describes."""
        self._states.restore({name: snapshot[f"states/{name}"] for name in self._states.snapshot()})
        self._scale = Scale(snapshot["centre"].copy(), snapshot["spread"].copy())
        self._weights = snapshot["weights"].copy()
        self._bias, self._excess, self._binary = (float(number) for number in snapshot["numbers"])
        self._seen = snapshot["seen"].copy()

    @property
    def _dispersion(self) -> float:
        """rho."""
        beyond = self._prior_dispersion * self._prior_variance + max(self._excess, 0.0)
        return min(beyond / (self._prior_variance + self._binary), 1.0)


def implicit_gradient(score: float, rate: float, wins: float, count: float) -> float:
    """g = wins - count sigmoid(score + rate g): how far a step along the gradient at its own end goes."""
    explicit = wins - count * float(expit(score))
    if abs(rate * explicit) < 1e-12:
        return explicit
    return float(
        scipy.optimize.brentq(
            lambda g: wins - count * expit(score + rate * g) - g, *sorted((0.0, explicit)), xtol=1e-14
        )
    )
