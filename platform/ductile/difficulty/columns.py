"""An array with a row for each problem, which grows at its end as phases bring new problems."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class Column:
    """[row, ...] of one dtype.

    A row is copied a bounded number of times, however often the column grows: whenever the memory at hand is too
    small, half as much again is taken. What is taken and not yet used costs address space alone, no memory.
    """

    def __init__(self, dtype: DTypeLike, *shape: int) -> None:
        self._held: NDArray[Any] = np.empty((0, *shape), dtype)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def values(self) -> NDArray[Any]:
        """[row, ...], a view to read and write, until the next growth."""
        return self._held[: self._length]

    def grow(self, count: int, value: Any) -> None:
        """Append `count` rows that all hold `value`."""
        self._reserve(count)
        self._held[self._length : self._length + count] = value
        self._length += count

    def extend(self, values: NDArray[Any]) -> None:
        """Append rows."""
        self._reserve(len(values))
        self._held[self._length : self._length + len(values)] = values
        self._length += len(values)

    def become(self, values: NDArray[Any]) -> None:
        """Hold a copy of these rows and no others."""
        self._held, self._length = values.astype(self._held.dtype), len(values)

    def _reserve(self, count: int) -> None:
        needed, capacity = self._length + count, len(self._held)
        if needed <= capacity:
            return
        held = np.empty((max(needed, capacity + capacity // 2), *self._held.shape[1:]), self._held.dtype)
        held[: self._length] = self.values
        self._held = held
