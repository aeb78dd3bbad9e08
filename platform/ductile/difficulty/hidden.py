"""Hidden states of problems: kept for the rows that have them, and put on one scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ductile.difficulty.base import Arrays, Floats, Rows

CHUNK = 4096
"""Rows that are computed on at a time: bounds the memory of their float64 copies."""


class HiddenStateTable:
    """The newest hidden state of each row that ever had one: [slot, width] float32, and each row's slot.

    A table may have a million rows, of which a refresh shows at most `difficulty.considered`.
    """

    def __init__(self) -> None:
        self._slots = np.zeros(0, np.int32)  # -1 where a row has none
        self._states = np.zeros((0, 0), np.float32)

    @property
    def width(self) -> int:
        """Numbers a state; 0 while there is none."""
        return self._states.shape[1]

    def grow(self, count: int) -> None:
        """Append `count` rows without a state."""
        self._slots = np.concatenate([self._slots, np.full(count, -1, np.int32)])

    def put(self, rows: Rows, states: NDArray[np.float32]) -> None:
        """The states of these rows from now on. states: [row, width]; no row twice."""
        if not len(rows):
            return
        new = rows[self._slots[rows] < 0]
        used = len(self._states)
        self._slots[new] = np.arange(used, used + len(new), dtype=np.int32)
        added = np.zeros((len(new), states.shape[1]), np.float32)
        self._states = np.concatenate([self._states, added]) if used else added
        self._states[self._slots[rows]] = states

    def known(self, rows: Rows) -> NDArray[np.bool_]:
        """[row], whether it has a state."""
        return self._slots[rows] >= 0

    def of(self, rows: Rows) -> Floats:
        """[row, width] float64, of rows that have one."""
        return self._states[self._slots[rows]].astype(np.float64)

    def compute(self, rows: Rows, function: Callable[[Floats], Floats]) -> Floats:
        """`function` of the rows' states, [part of the rows, width] at a time; its results put together."""
        return np.concatenate([function(self.of(rows[i : i + CHUNK])) for i in range(0, len(rows), CHUNK)])

    def snapshot(self) -> Arrays:
        """Slots and states."""
        return {"slots": self._slots, "states": self._states}

    def restore(self, snapshot: Arrays) -> None:
        """Become what `snapshot` describes."""
        self._slots, self._states = snapshot["slots"].copy(), snapshot["states"].copy()


@dataclass(frozen=True)
class Scale:
    """Standardises hidden states and divides by sqrt(width), so that a state's squared norm is 1 on average.

    Then neither the width nor the direction that all states share changes what a step size or a ridge means.
    centre, spread: [width] float64, mean and standard deviation of each coordinate; 1 where it is constant, but for
    rounding.
    """

    centre: Floats
    spread: Floats

    @classmethod
    def of(cls, states: NDArray[np.float32]) -> Scale:
        """That of some states, [state, width]."""
        spread = states.std(axis=0, dtype=np.float64)
        return cls(states.mean(axis=0, dtype=np.float64), np.where(spread > 1e-6 * spread.max(), spread, 1.0))

    @property
    def unit(self) -> Floats:
        """[width], what a step of 1 on the scale is in a state's own coordinates."""
        return self.spread * np.sqrt(len(self.spread))

    def __call__(self, states: Floats) -> Floats:
        """[state, width] on the scale."""
        return (states - self.centre) / self.unit
