"""Where a step's time goes: spans that measure, and a file of them that Perfetto and chrome://tracing open.

    with span("update") as update:
        ...
    update.seconds

A span measures always and is written only while the process has a trace that is open: as in `logging` and
`torch.profiler`, whoever does the work (the loop, the dispatch of calls, a thread that writes a checkpoint) need not
know who listens. The file is in Chrome's Trace Event Format (complete events, "X"), a flushed line for each, as the
array whose closing bracket may be missing: a process that is killed leaves what it did.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

T = TypeVar("T")

MAIN = "run"
"""Lane of the main thread; other threads' are called as they are."""

_clock: Callable[[], float] = time.monotonic
_open: Trace | None = None


class Span:
    """A stretch of time on the thread's lane. seconds: what it took, once it is over."""

    __slots__ = ("_arguments", "_began", "_name", "seconds")

    def __init__(self, name: str, arguments: dict[str, Any]) -> None:
        self._name, self._arguments = name, arguments
        self._began = self.seconds = 0.0

    def __enter__(self) -> Span:
        self._began = _clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended = _clock()
        self.seconds = ended - self._began
        if _open is not None:
            _open.write(self._name, self._began, ended, _lane(), self._arguments)


def span(name: str, **arguments: Any) -> Span:
    """A span, to be entered once. arguments: plain values that the trace shows with it."""
    return Span(name, arguments)


def spans(name: str, items: Iterable[T]) -> Iterator[T]:
    """The items; what is done with each, until the next is asked for, is a span."""
    for item in items:
        with span(name):
            yield item


def record(name: str, began: float, ended: float, lane: str) -> None:
    """Write a stretch of time that something else measured, by `time.monotonic`, on a lane of its own."""
    if _open is not None:
        _open.write(name, began, ended, lane, {})


@contextmanager
def tracing(path: Path) -> Iterator[None]:
    """Write this process's spans to the file while this lasts, after those that an earlier process left there."""
    global _open
    _open = Trace(path)
    try:
        yield
    finally:
        trace, _open = _open, None
        trace.close()


@contextmanager
def listening(wanted: bool) -> Iterator[None]:
    """Whether what happens while this lasts is written, on whatever thread, where there is a trace at all."""
    trace = _open
    if trace is not None:
        trace.listens = wanted
    try:
        yield
    finally:
        if trace is not None:
            trace.listens = True


class Trace:
    """The file. Times are microseconds since 1970, so that those of several processes and runs fit together."""

    def __init__(self, path: Path) -> None:
        self.listens = True
        self._lock = threading.Lock()
        self._lanes: dict[str, int] = {}
        self._pid = os.getpid()
        self._since = time.time() - _clock()
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".writing")
        self._file: IO[str] = new.open("w")
        self._file.write("[")
        self._empty = True
        for event in _events(path):
            self._line(event)
        self._line(self._named("process_name", f"{path.parent.name} (process {self._pid})"))
        new.replace(path)  # the open file goes with it

    def write(self, name: str, began: float, ended: float, lane: str, arguments: dict[str, Any]) -> None:
        """One complete event; dropped where nobody listens."""
        with self._lock:
            if not self.listens or self._file.closed:
                return
            if lane not in self._lanes:
                self._lanes[lane] = len(self._lanes)
                self._line(self._named("thread_name", lane, self._lanes[lane]))
            event = {"name": name, "ph": "X", "pid": self._pid, "tid": self._lanes[lane]}
            event |= {"ts": round(1e6 * (began + self._since), 3), "dur": round(1e6 * (ended - began), 3)}
            self._line(event | ({"args": arguments} if arguments else {}))

    def close(self) -> None:
        """End the array."""
        with self._lock:
            self._file.write("\n]\n")
            self._file.close()

    def _named(self, what: str, name: str, lane: int = 0) -> dict[str, Any]:
        return {"name": what, "ph": "M", "pid": self._pid, "tid": lane, "args": {"name": name}}

    def _line(self, event: dict[str, Any]) -> None:
        self._file.write(("\n" if self._empty else ",\n") + json.dumps(event))
        self._file.flush()
        self._empty = False


def _events(path: Path) -> list[dict[str, Any]]:
    """What an earlier process wrote, its last line aside where that is cut."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            event = json.loads(line.strip().removesuffix(","))
        except ValueError:  # a bracket, or what a kill cut
            continue
        if isinstance(event, dict):
            found.append(event)
    return found


def _lane() -> str:
    thread = threading.current_thread()
    return MAIN if thread is threading.main_thread() else thread.name
