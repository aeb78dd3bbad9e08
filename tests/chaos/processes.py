"""The processes that a soak started, known by a mark in their environment: it finds, stops and kills no others.

Ray's workers inherit the environment of the node that starts them, and a node that of the job or of the harness, so
that the mark reaches every process, also one whose parent was killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

MARK = "DUCTILE_CHAOS_MARK"
"""Environment variable of everything that one soak starts."""

PART = "DUCTILE_CHAOS_PART"
"""Environment variable of everything that belongs to one part of it, such as the MLflow server."""


def titled(mark: str, title: str, **environment: str) -> list[int]:
    """Process ids with this mark (and these variables) whose command line begins with `title`, lowest first."""
    wanted = [f"{name}={value}" for name, value in {MARK: mark, **environment}.items()]
    return [
        process
        for process in _all()
        if _read(process, "cmdline").startswith(title)
        and set(wanted) <= set(_read(process, "environ").split("\0"))
        and state(process) not in "ZX"
    ]


def children(parent: int, words: str) -> list[int]:
    """Children of a process whose command line holds `words`."""
    return [
        process
        for process in _all()
        if words in _read(process, "cmdline").replace("\0", " ")
        and _read(process, "stat").rpartition(")")[2].split()[1:2] == [str(parent)]
    ]


def state(process: int) -> str:
    """The kernel's letter for what a process does (R, S, T for stopped, Z for ended); X when there is none."""
    return (_read(process, "stat").rpartition(")")[2].split() or ["X"])[0]


def send(processes: list[int], number: signal.Signals) -> None:
    """Send a signal to each; one that has ended since is passed over."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def kill_all(mark: str, limit_s: float = 15.0, **environment: str) -> int:
    """Kill every process with this mark until none is left (they start each other); how many there were."""
    killed, deadline = set[int](), time.monotonic() + limit_s
    while time.monotonic() < deadline and (left := titled(mark, "", **environment)):
        left = [process for process in left if process != os.getpid()]
        if not left:
            break
        send(left, signal.SIGKILL)
        killed.update(left)
        time.sleep(0.05)
    return len(killed)


def _all() -> Iterator[int]:
    return (int(entry.name) for entry in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)))


def _read(process: int, file: str) -> str:
    try:
        return Path(f"/proc/{process}/{file}").read_bytes().decode("utf-8", "replace")
    except OSError:  # it ended, or belongs to someone else
        return ""
