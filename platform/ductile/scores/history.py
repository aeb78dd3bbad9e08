"""What a finished run's audits found of problems: the history that static scores of RL are read from.

A run with `difficulty.audit.every` above 0 writes audits.json, an artifact with a row for each audit. Each phase audits
the same of its problems throughout, `difficulty.audit.problems` of them at most; of all others nothing is known. So a
pool that is to be pruned by such a score must have been audited whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ductile.settings import SettingsError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class History:
    """Judged completions by audit in time's order. successes, counts: [audit, problem] float64, 0 where not audited."""

    successes: Floats
    counts: Floats


def read_audits(file: str, path: str = "history") -> list[Mapping[str, Any]]:
    """The rows of an audits.json; raises `SettingsError` with one line that starts with `path` when it holds none."""
    wants = "give the artifact audits.json of a finished run with difficulty.audit.every above 0"
    try:
        rows = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError([f"{path}: {file!r} cannot be read: {error.strerror or error}; {wants}"]) from error
    except ValueError as error:
        raise SettingsError([f"{path}: {file!r} is no JSON: {error}; {wants}"]) from error
    if not isinstance(rows, list) or not rows or not all(map(_row, rows)):
        raise SettingsError([f"{path}: {file!r} has no rows of audits; {wants}"])
    return rows


def history_of(rows: Sequence[Mapping[str, Any]], ids: Sequence[str]) -> History:
    """The counts of these problems. rows: of `read_audits`, in time's order."""
    places = {id: place for place, id in enumerate(ids)}
    successes, counts = np.zeros((2, len(rows), len(ids)))
    for audit, row in enumerate(rows):
        part = row["pool"]
        for id, wins, judged in zip(part["ids"], part["successes"], part["counts"], strict=True):
            if id in places:
                successes[audit, places[id]], counts[audit, places[id]] = wins, judged
    return History(successes, counts)


def _row(row: Any) -> bool:
    part = row.get("pool") if isinstance(row, dict) else None
    if not isinstance(part, dict):
        return False
    columns = [part.get(name) for name in ("ids", "successes", "counts")]
    return all(isinstance(column, list) for column in columns) and len({len(column or ()) for column in columns}) == 1
