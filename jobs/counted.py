"""A bar for work of a known number of parts, on stderr; a line now and then where that is no terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_S = 10.0
"""Seconds between lines when stderr is not a terminal."""


class Counted:
    """Shows how many parts are done. before: parts that were done before this job began."""

    def __init__(self, what: str, total: int, before: int = 0) -> None:
        console = Console(stderr=True)
        self._what, self._total, self._done = what, total, before
        self._told = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True) if console.is_terminal else None
        self._task = None if self._bar is None else self._bar.add_task(what, total=total, completed=before)

    def __enter__(self) -> Counted:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def says(self, text: str) -> None:
        """What is being done, without a part being over."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=f"{self._what}: {text}")
        elif time.monotonic() - self._told >= PLAIN_S:
            self._tell(text)

    def done(self, text: str) -> None:
        """One more part is over."""
        self._done += 1
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, description=f"{self._what}: {text}")
        elif self._done == self._total or time.monotonic() - self._told >= PLAIN_S:
            self._tell(text)

    def _tell(self, text: str) -> None:
        self._told = time.monotonic()
        print(f"{self._what}: {self._done} of {self._total}, {text}", file=sys.stderr, flush=True)
