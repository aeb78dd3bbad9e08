"""Problem ids to row numbers and back, in arrays: some 60 bytes a problem, and no Python object for any.

A table of open addresses with linear probing (Knuth, The Art of Computer Programming 3, 6.4, algorithm L), in which
all ids of a call are sought at once: in each round every id that is still sought looks at one slot. Two ids of the
same hash are told apart by their bytes, so a collision costs time and never mixes two problems.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ductile.difficulty.base import Arrays, Rows
from ductile.difficulty.columns import Column
from ductile.difficulty.texts import Texts, hashed, pack, same, unpack

FREE = -1
FULL = 2 / 3
"""Share of the slots that may be taken: above it the runs of taken slots grow long (Knuth's table 6.4-4)."""

PART = 1 << 17
"""Ids that are looked up at a time: large enough for NumPy, small enough for the cache."""


class IdIndex:
    """Rows are numbered from 0 as ids are added; they never change. At most 2^31 - 1 rows."""

    def __init__(self, hashes: Callable[[Texts], NDArray[np.uint64]] = hashed) -> None:
        self._hashes_of = hashes
        self._text = Column(np.uint8)  # all ids, one after the other
        self._offsets = Column(np.int64)  # row's id: from its offset to the next row's
        self._offsets.grow(1, 0)
        self._hashes = Column(np.uint64)
        self._slots = np.full(16, FREE, np.int32)  # a power of two; each holds a row

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, ids: Sequence[str]) -> tuple[Rows, int]:
        """The row of each of the ids, those that are new appended; and how many were new."""
        before = len(self)
        if len(ids) > FULL * len(self._slots):  # no fewer rows than that, where no id is given twice
            self._rebuild(len(ids))
        rows = [self._add(part) for part in pack(ids).parts(PART)]
        return np.concatenate([np.zeros(0, np.int64), *rows]), len(self) - before

    def rows(self, ids: Sequence[str]) -> Rows:
        """[id] int64; raises `KeyError` that names the ids that are not there."""
        parts = [self._find(part, self._hashes_of(part)) for part in pack(ids).parts(PART)]
        rows = np.concatenate([np.zeros(0, np.int64), *parts])
        if (rows == FREE).any():
            unknown = [ids[position] for position in np.flatnonzero(rows == FREE)[:5]]
            raise KeyError(f"problems that no phase's pool holds: {', '.join(unknown)}")
        return rows

    def ids(self, rows: Rows) -> list[str]:
        """The ids of the rows, in order."""
        return unpack(self._texts(rows))

    def snapshot(self) -> Arrays:
        """All ids in order: views of what is only ever appended to."""
        return {"text": self._text.values, "offsets": self._offsets.values}

    def restore(self, snapshot: Arrays) -> None:
        """Become what `snapshot` describes."""
        self._text.become(snapshot["text"])
        self._offsets.become(snapshot["offsets"])
        offsets = self._offsets.values
        texts = Texts(self._text.values, offsets[:-1], np.diff(offsets))
        self._hashes.become(np.concatenate([np.zeros(0, np.uint64), *map(self._hashes_of, texts.parts(PART))]))
        self._rebuild(len(self))

    def _add(self, texts: Texts) -> Rows:
        hashes = self._hashes_of(texts)
        rows = self._find(texts, hashes)
        while len(missing := np.flatnonzero(rows == FREE)):  # again only where two new ids have one hash
            new = missing[_firsts(hashes[missing])]
            rows[new] = np.arange(len(self), len(self) + len(new))
            self._append(texts.take(new), hashes[new])
            if len(new) < len(missing):
                rows[missing] = self._find(texts.take(missing), hashes[missing])
        return rows

    def _append(self, texts: Texts, hashes: NDArray[np.uint64]) -> None:
        """New rows for texts of different hashes."""
        rows = np.arange(len(self), len(self) + len(texts))
        self._text.extend(texts.joined())
        self._offsets.extend(self._offsets.values[-1] + np.cumsum(texts.lengths))
        self._hashes.extend(hashes)
        if len(self) > FULL * len(self._slots):
            self._rebuild(len(self))
        else:
            self._place(rows, hashes)

    def _rebuild(self, rows: int) -> None:
        """Slots anew, at least half as many again as these rows."""
        self._slots = np.full(max(16, 1 << int(np.ceil(np.log2(max(rows, 1) / FULL)))), FREE, np.int32)
        for first in range(0, len(self), PART):
            hashes = self._hashes.values[first : first + PART]
            self._place(np.arange(first, first + len(hashes)), hashes)

    def _place(self, rows: Rows, hashes: NDArray[np.uint64]) -> None:
        """Each row into the first free slot from its hash on."""
        at = self._home(hashes)
        while len(rows):
            free = self._slots[at] == FREE
            self._slots[at[free]] = rows[free]  # where several want one slot, the last of them has it
            later = self._slots[at] != rows
            rows, at = rows[later], self._next(at[later])

    def _find(self, texts: Texts, hashes: NDArray[np.uint64]) -> Rows:
        """The row of each text, FREE where it has none."""
        rows = np.full(len(texts), FREE, np.int64)
        sought, at = np.arange(len(texts)), self._home(hashes)
        while len(sought) and len(self):  # again only for texts whose hash is another's
            at = self._stop(hashes[sought], at)
            held = self._slots[at]
            taken = held != FREE  # a free slot ends the search
            sought, at, held = sought[taken], at[taken], held[taken]
            alike = same(texts.take(sought), self._texts(held))
            rows[sought[alike]] = held[alike]
            sought, at = sought[~alike], self._next(at[~alike])
        return rows

    def _stop(self, hashes: NDArray[np.uint64], at: NDArray[np.int64]) -> NDArray[np.int64]:
        """For each hash the first slot from `at` on that is free or holds a row of this hash."""
        at, left = at.copy(), np.arange(len(at))
        while len(left):
            held = self._slots[at[left]]
            left = left[(held != FREE) & (self._hashes.values[held] != hashes[left])]
            at[left] = self._next(at[left])
        return at

    def _texts(self, rows: NDArray[np.integer]) -> Texts:
        starts = self._offsets.values[rows]
        return Texts(self._text.values, starts, self._offsets.values[rows + 1] - starts)

    def _home(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        return (hashes & np.uint64(len(self._slots) - 1)).astype(np.int64)

    def _next(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        return (at + 1) & (len(self._slots) - 1)


def _firsts(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """[hash] int64, where each different hash first stands, rising."""
    ordered = np.sort(hashes)
    if (ordered[1:] != ordered[:-1]).all():  # nearly always, and much quicker to see than to find their places
        return np.arange(len(hashes))
    return np.sort(np.unique(hashes, return_index=True)[1])
