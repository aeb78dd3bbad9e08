"""A score that says nothing: what every other one has to beat (Ayed and Hayou 2023, arXiv 2302.06960)."""

from __future__ import annotations

import numpy as np

from ductile.scores.base import Asked, Floats


class Random:
    """Uniform in [0, 1), drawn from the seed."""

    needs: frozenset[str] = frozenset()
    hardness = True  # so that it can stand where any other score does

    def __call__(self, asked: Asked) -> Floats:
        """See `Score`; neither high nor low means anything."""
        return np.random.Generator(np.random.Philox(asked.seed)).random(asked.count)
