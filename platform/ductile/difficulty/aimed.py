"""Selection rules that go by how near a problem's estimate is to what they want: an order, or weights to draw by.

Each is a pure function of the candidates and returns positions among them, [selected] int64, without repeats.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.special import xlog1py, xlogy

from ductile.config import DifficultySettings
from ductile.difficulty.base import Candidates, Floats
from ductile.difficulty.belief import beta_of


def easy(candidates: Candidates, count: int, settings: DifficultySettings, rng: Generator) -> NDArray[np.int64]:
    """The highest estimated pass rates."""
    return highest(candidates.estimates.mean, count, rng)


def hard(candidates: Candidates, count: int, settings: DifficultySettings, rng: Generator) -> NDArray[np.int64]:
    """The lowest estimated pass rates."""
    return highest(-candidates.estimates.mean, count, rng)


def uncertain(candidates: Candidates, count: int, settings: DifficultySettings, rng: Generator) -> NDArray[np.int64]:
    """The least certain estimates."""
    return highest(candidates.estimates.uncertainty, count, rng)


def target(candidates: Candidates, count: int, settings: DifficultySettings, rng: Generator) -> NDArray[np.int64]:
    """Of `candidates` x count random problems those whose estimates are closest to `settings.target`.

    With the estimator `value` and a target of 0.5 this is PCL (arXiv 2510.01135): of k m candidates the m with the
    smallest |V - 0.5|. With `candidates` times the step's problems at least the pool's, they are the pool's closest.
    """
    looked_at = some(candidates, count, settings, rng)
    distance = np.abs(candidates.estimates.mean[looked_at] - settings.target)
    return looked_at[highest(-distance, count, rng)]


def thompson(candidates: Candidates, count: int, settings: DifficultySettings, rng: Generator) -> NDArray[np.int64]:
    """MoPPS (arXiv 2507.04632): the same by a draw from what is believed of each problem in place of the mean.

    Of `candidates` x count random problems the `count` largest -(draw - target)^2. The belief is the Beta distribution
    of the estimate's mean and uncertainty (`belief.beta_of`): with the estimator `beta` it is MoPPS's own posterior.
    """
    looked_at = some(candidates, count, settings, rng)
    alpha, beta = beta_of(candidates.estimates)
    drawn = rng.beta(alpha[looked_at], beta[looked_at])
    return looked_at[highest(-((drawn - settings.target) ** 2), count, rng)]


def dots(candidates: Candidates, count: int, settings: DifficultySettings, rng: Generator) -> NDArray[np.int64]:
    """DOTS (arXiv 2506.05316): P(q) proportional to exp(-|estimate - target| / temperature), without replacement."""
    return drawn_by(-np.abs(candidates.estimates.mean - settings.target) / settings.temperature, count, rng)


def peaked(candidates: Candidates, count: int, settings: DifficultySettings, rng: Generator) -> NDArray[np.int64]:
    """DARE (arXiv 2605.09188): P(q) proportional to the density of Beta(a, a) at 1 - estimate, without replacement.

    a = 1 + kappa / 2, kappa = `settings.concentration`. Its peak is at 0.5 whatever `settings.target` is.
    """
    power, mean = settings.concentration / 2, candidates.estimates.mean
    return drawn_by(xlogy(power, mean) + xlog1py(power, -mean), count, rng)


def some(candidates: Candidates, count: int, settings: DifficultySettings, rng: Generator) -> NDArray[np.int64]:
    """Positions of `settings.candidates` x count random candidates, of all when there are no more."""
    return rng.permutation(len(candidates.rows))[: settings.candidates * count]


def highest(keys: Floats, count: int, rng: Generator) -> NDArray[np.int64]:
    """Positions of the `count` highest of the keys [candidate], the highest first; ties in random order."""
    order = rng.permutation(len(keys))
    return order[np.argsort(-keys[order], kind="stable")[:count]]


def drawn_by(log_weights: Floats, count: int, rng: Generator) -> NDArray[np.int64]:
    """Positions drawn one after another without replacement, each in proportion to its weight among those left.

    log_weights: [candidate], up to a constant; -inf is drawn when nothing else is left, evenly. Adding Gumbel noise
    and taking the highest is exactly this (Gumbel top-k, arXiv 1903.06059), and nothing over- or underflows.
    """
    return highest(log_weights + rng.gumbel(size=len(log_weights)), count, rng)
