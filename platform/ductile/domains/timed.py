"""Calls into scoring libraries with a time limit that needs no signals, so that it holds in any thread.

The library runs in a child process (`scorer.py`), shared by all domains of this process. When the limit passes the
child is killed, and the next call starts another one. Text goes over pipes as JSON lines; nothing is pickled.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

START_LIMIT_S = 180.0
"""For starting the child or loading a library there: up to 3 s on an idle machine, much more on a crowded one."""


class NotAnswered(Exception):
    """The call gave no result: it took too long, or the child died."""


class LibraryError(NotAnswered):
    """The call gave no result because the library raised an error, as it would again."""


class Scorer:
    """The child process and the lock that lets one call in at a time; a call waits for its turn outside its limit."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Have no child, without ending one: what a forked process does, since its parent's pipes are not its own."""
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def call(self, library: str, function: str, arguments: Mapping[str, Any], limit_s: float) -> Any:
        """The plain result of a function of `scorer.LIBRARIES[library]`; raises `NotAnswered`.

        limit_s: seconds for the call itself. The first call into a library has `START_LIMIT_S` more for loading it.
        """
        with self._lock:
            try:
                if self._child is None or self._child.process.poll() is not None:
                    self._stop()
                    self._child = _Child()
                if library not in self._child.loaded:
                    self._child.ask({"library": library}, START_LIMIT_S)
                    self._child.loaded.add(library)
                return self._child.ask(
                    {"library": library, "function": function, "arguments": dict(arguments)}, limit_s
                )
            except LibraryError:
                raise
            except BaseException:  # also Ctrl-C: a reply that is still to come must not meet the next call
                self._stop()
                raise

    def close(self) -> None:
        """Stop the child; the next call starts another one."""
        with self._lock:
            self._stop()

    @property
    def pid(self) -> int | None:
        """Process id of the child, if there is one."""
        return None if self._child is None else self._child.process.pid

    def _stop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None


class _Child:
    """One child process. `loaded`: the libraries that it has loaded."""

    def __init__(self) -> None:
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        # A fixed hash seed: some of reasoning-gym's generators read their problems off the order of a set.
        environment = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "0"}
        self.loaded: set[str] = set()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ductile.domains.scorer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            encoding="ascii",
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="scorer replies", daemon=True).start()

    def ask(self, request: Mapping[str, Any], limit_s: float) -> Any:
        """The result in the child's reply."""
        deadline = time.monotonic() + limit_s
        text = json.dumps({**request, "limit_s": limit_s}) + "\n"
        # Written on a thread of its own: while a new child is not reading yet, a long text would block this one.
        threading.Thread(target=self._write, args=(text,), name="scorer request", daemon=True).start()
        try:
            line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise NotAnswered(f"no result within {limit_s:g} s") from None
        if line is None:
            raise NotAnswered("the scoring process ended")
        reply = json.loads(line)
        if "error" in reply:
            raise LibraryError(reply["error"])
        return reply["result"]

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):  # what was still to be written has nowhere to go
                pipe.close()  # type: ignore[union-attr]

    def _write(self, line: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line)
            self.process.stdin.flush()
        except (BrokenPipeError, ValueError):  # the child ended, which the reader reports
            pass

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)


SCORER = Scorer()
"""The one of this process."""

atexit.register(SCORER.close)
os.register_at_fork(after_in_child=SCORER.forget)
