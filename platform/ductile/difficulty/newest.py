"""The newest visits of all problems together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ductile.difficulty.base import Arrays, Visits


class NewestVisits:
    """At most `limit` visits, the oldest first; a row may be among them more than once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.visits = Visits(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))

    def add(self, visits: Visits) -> None:
        """Append; what is too old is forgotten."""
        old = self.visits
        self.visits = Visits(
            np.concatenate([old.rows, visits.rows])[-self._limit :],
            np.concatenate([old.successes, visits.successes])[-self._limit :],
            np.concatenate([old.counts, visits.counts])[-self._limit :],
        )

    def snapshot(self) -> Arrays:
        """The visits."""
        return {"rows": self.visits.rows, "successes": self.visits.successes, "counts": self.visits.counts}

    def restore(self, snapshot: Arrays) -> None:
        """Become what `snapshot` describes."""
        self.visits = Visits(*(snapshot[name].copy() for name in ("rows", "successes", "counts")))


def last_of_each_row(visits: Visits) -> Visits:
    """The same without a row's earlier visits."""
    _, backwards = np.unique(visits.rows[::-1], return_index=True)
    return chosen(visits, np.sort(len(visits.rows) - 1 - backwards))


def pooled(visits: Visits) -> Visits:
    """All visits of a row as one."""
    rows, position = np.unique(visits.rows, return_inverse=True)
    sums = np.zeros((len(rows), 2))
    np.add.at(sums, position, np.stack([visits.successes, visits.counts], axis=1))
    return Visits(rows, sums[:, 0], sums[:, 1])


def chosen(visits: Visits, which: NDArray[np.int64] | NDArray[np.bool_]) -> Visits:
    """Some of the visits: their positions, or a bool for each."""
    return Visits(visits.rows[which], visits.successes[which], visits.counts[which])
