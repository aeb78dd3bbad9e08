"""Small worlds whose problems get easier, in which hidden states say which, or nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy.special import expit

from ductile.difficulty.base import Estimator, Evidence, Visits


@dataclass
class World:
    """Problems with hidden states [problem, width]; their pass rate is sigmoid(logits + ease), [problem]."""

    states: np.ndarray
    logits: np.ndarray
    ease: float
    rng: Generator

    @classmethod
    def make(cls, telling: bool, problems: int = 200, width: int = 8, seed: int = 0) -> World:
        """Half of the variance is in the first direction; where the states are telling, it is the difficulty."""
        rng = np.random.default_rng(seed)
        states = rng.normal(size=(problems, width)) * np.r_[np.sqrt(width - 1), np.ones(width - 1)]
        logits = 2 * (states[:, 0] / np.sqrt(width - 1) if telling else rng.normal(size=problems))
        return cls(states, logits, -1.0, rng)

    @property
    def rates(self) -> np.ndarray:
        return expit(self.logits + self.ease)

    def visits(self, rows: np.ndarray, count: int = 8) -> Visits:
        wins = self.rng.binomial(count, self.rates[rows]).astype(float)
        return Visits(rows, wins, np.full(len(rows), float(count)))

    def evidence(self, reference: Visits | None = None) -> Evidence:
        shown = (self.states + 10.0).astype(np.float32)  # all states share a large part
        return Evidence(
            np.arange(len(shown)),
            shown,
            np.ones(len(shown), bool),
            np.zeros(0, np.int64),
            np.zeros(0),
            np.zeros(0),
            reference,
        )

    def live(self, estimator: Estimator, steps: int, asked: int = 16, visited: float = 0.5) -> None:
        """So many steps of training, in which all problems get easier; a part of them is never asked."""
        estimator.grow(len(self.states), 0)
        for step in range(steps):
            if step % 5 == 0:
                estimator.refresh(self.evidence(), step)
            rows = self.rng.choice(int(visited * len(self.states)), asked, replace=False)
            estimator.observe(self.visits(rows), step)
            self.ease += 2.0 / steps
        estimator.refresh(self.evidence(), steps)

    @property
    def unvisited(self) -> np.ndarray:
        """Rows that `live` with its defaults never asks."""
        return np.arange(len(self.states) // 2, len(self.states))
