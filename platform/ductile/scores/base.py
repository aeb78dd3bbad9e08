"""What a static score is, and what it may look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ductile.config import ScoresSettings
from ductile.packed import Pair
from ductile.scores.history import History

Floats = NDArray[np.float64]

WORKED, BASE, HISTORY = "worked", "base", "history"
"""What a score needs: worked solutions, the base itself, or what a finished run's audits found."""


@dataclass(frozen=True)
class Asked:
    """Problems to score. A score that does not need a part never asks for it.

    rows:     token ids of each problem's prompt and of a worked solution
    prompts:  token ids of each problem's prompt
    fresh:    seed -> a model of the base's architecture with freshly drawn weights
    base:     the base
    rewards:  [problem, completion] of the base, 0 or 1, NaN where a completion could not be judged
    history:  the audits of a finished run, of these problems in this order
    settings: of the scores; seed: of everything random
    told:     called with what is done, for the display
    """

    rows: Callable[[], Sequence[Pair]]
    prompts: Callable[[], Sequence[NDArray[np.int32]]]
    fresh: Callable[[int], PreTrainedModel]
    base: Callable[[], PreTrainedModel]
    rewards: Callable[[], Floats]
    history: Callable[[], History]
    count: int
    settings: ScoresSettings
    seed: int
    told: Callable[[str], None]


class Score(Protocol):
    """A static score. needs: `WORKED`, `BASE`, `HISTORY`; hardness: whether a high value is a hard problem."""

    needs: frozenset[str]
    hardness: bool

    def __call__(self, asked: Asked) -> Floats:
        """[problem] float64; NaN where it cannot be said."""


def seed_of(*keys: int) -> int:
    """One seed of several numbers."""
    return int(np.random.SeedSequence(keys).generate_state(1)[0])
