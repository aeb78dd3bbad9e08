"""Problem ids to row numbers and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ductile.difficulty.base import Arrays, Rows


class IdIndex:
    """Rows are numbered in the order in which ids are added; they never change."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._ids: list[str] = []

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, ids: Sequence[str]) -> tuple[Rows, int]:
        """The rows of the ids, those that are new appended; and how many were new. No id twice."""
        before = len(self)
        for id in ids:
            if id not in self._rows:
                self._rows[id] = len(self._ids)
                self._ids.append(id)
        return self.rows(ids), len(self) - before

    def rows(self, ids: Sequence[str]) -> Rows:
        """[id] int64; raises `KeyError` that names the ids that are not there."""
        unknown = [id for id in ids if id not in self._rows]
        if unknown:
            raise KeyError(f"problems that no phase's pool holds: {', '.join(unknown[:5])}")
        return np.array([self._rows[id] for id in ids], np.int64)

    def ids(self, rows: Rows) -> list[str]:
        """The ids of the rows, in order."""
        return [self._ids[row] for row in rows]

    def snapshot(self) -> Arrays:
        """All ids in order."""
        return {"ids": np.frombuffer("\n".join(self._ids).encode(), np.uint8)}

    def restore(self, snapshot: Arrays) -> None:
        """Become what `snapshot` describes."""
        text = snapshot["ids"].tobytes().decode()
        self._ids = text.split("\n") if text else []
        self._rows = {id: row for row, id in enumerate(self._ids)}
