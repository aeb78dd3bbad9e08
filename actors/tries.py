"""How often a run was started without having come further, in a file of its folder: what `learner.max_failures` limits.

Whoever starts it again, the loop around it, Ray Train or Ray Tune after its process died, writes here before it begins.
A checkpoint that was not there before sets the count back: a cluster that loses a node every hour may do so for weeks.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from ductile.checkpoint import write_text

log = logging.getLogger("ductile")

FILE = "tries.json"
RESTARTS = 1000
"""Most that Ray Train and Ray Tune start a run again. What counts is this file; but a worker may fail before it writes
here, as on a full disk, and nothing may go on for ever."""

_unwritten: dict[Path, Tries] = {}
"""What the disk did not take, by folder: counted in this process alone."""


class NoProgress(RuntimeError):
    """The run was started again as often as allowed and came no further than the checkpoint it has."""


@dataclass(frozen=True)
class Tries:
    """job: which job counts; another one begins anew.  at: the newest checkpoint then.  error: what ended the last.

    diverged: the message of a divergence that the run went back from; the same one again is no bit that flipped.
    """

    job: str
    at: str = ""
    count: int = 0
    error: str = ""
    diverged: str = ""


def begin_try(folder: Path, job: str, max_failures: int) -> None:
    """Count a start. Raises `NoProgress` when the run failed more often than allowed since it last came further."""
    tries, at = _read(folder, job), newest(folder)
    count = tries.count + 1 if tries.at == at else 1
    if count > max_failures + 1:
        reason = tries.error or "its process died"
        raise NoProgress(
            f"failed {count - 1} times (learner.max_failures={max_failures}) without coming further than "
            f"{at or 'its beginning'}; the last time: {reason}"
        )
    _write(folder, Tries(job, at, count, "", tries.diverged))


def note_error(folder: Path, job: str, error: BaseException) -> None:
    """Keep what ended this try, for the message of the last."""
    lines = str(error).strip().splitlines() or [""]
    _write(folder, Tries(**{**asdict(_read(folder, job)), "error": f"{type(error).__name__}: {lines[0]}"}))


def first_divergence(folder: Path, job: str, update: str) -> bool:
    """Whether the run has not gone back from a divergence at this update before; from now on it has."""
    tries = _read(folder, job)
    _write(folder, Tries(**{**asdict(tries), "diverged": update}))
    return tries.diverged != update


def end_tries(folder: Path) -> None:
    """The run ended as runs do: the next one counts anew."""
    _unwritten.pop(folder, None)
    try:
        (folder / FILE).unlink(missing_ok=True)
    except OSError as error:
        log.error("%s stays: %s", folder / FILE, error)


def newest(folder: Path) -> str:
    """Name of the newest complete checkpoint; empty before the first."""
    return max((path.name for path in folder.glob("checkpoint-*") if path.name[11:].isdigit()), default="")


def _read(folder: Path, job: str) -> Tries:
    tries = _unwritten.get(folder) or _kept(folder / FILE)
    return tries if tries is not None and tries.job == job else Tries(job)


def _kept(path: Path) -> Tries | None:
    try:
        return Tries(**json.loads(path.read_text())) if path.exists() else None
    except (OSError, ValueError, TypeError) as error:
        log.error("%s cannot be read, and is counted anew: %s", path, error)
        return None


def _write(folder: Path, tries: Tries) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / FILE, json.dumps(asdict(tries)))
        _unwritten.pop(folder, None)
    except OSError as error:  # raised here it would take the place of the error that is counted
        log.error("%s cannot be written, and is kept in memory: %s", folder / FILE, error)
        _unwritten[folder] = tries
