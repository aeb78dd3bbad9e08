"""What an estimator of per-problem pass rates is: arrays in, arrays out, one row for each problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
"""[problem] int64, row numbers in the table."""


@dataclass(frozen=True)
class Estimates:
    """What is believed of some problems at a step.

    mean:        [problem] float64, expected pass rate under the current policy, in [0, 1]
    uncertainty: [problem] float64, standard deviation of that belief
    age:         [problem] int64, steps since the last visit, or since the problem entered the table
    """

    mean: NDArray[np.float64]
    uncertainty: NDArray[np.float64]
    age: NDArray[np.int64]


class Estimator(Protocol):
    """Estimates pass rates from group outcomes. `step` never decreases from one call to the next."""

    def grow(self, count: int, step: int) -> None:
        """Append `count` rows of problems never visited, entered at `step`."""

    def predict(self, rows: Rows, step: int) -> Estimates:
        """The estimates of `rows` as of `step`; changes nothing."""

    def observe(self, rows: Rows, successes: NDArray[np.float64], counts: NDArray[np.float64], step: int) -> None:
        """Take in `successes` of `counts` judged completions, [problem] float64, each row at most once."""

    def snapshot(self) -> Mapping[str, Any]:
        """Everything, as plain lists of numbers."""

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Become what `snapshot` describes."""
