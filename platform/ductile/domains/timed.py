"""Calls into scoring libraries with limits: time that needs no signals, so that it holds in any thread, and memory.

The library runs in a child process (`scorer.py`), shared by all domains of this process. When the limit passes the
child is killed, and the next call starts another one. Text goes over pipes as JSON lines; nothing is pickled. The child
has a short list of this process's environment and none of its open files, so no key or token of the job's.

What a call gives shall depend on its arguments alone: a child that ended in a call may have been killed by anyone, and
one that had hardly any CPU until its limit was held up by the machine, so such a call is made once more. Arguments that
failed in two calls are not tried again while this process lives.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import logging
import os
import selectors
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

START_LIMIT_S = 180.0
"""For starting the child or loading a library there: up to 3 s on an idle machine, much more on a crowded one."""

MOST_REQUEST = 1 << 20
"""Bytes of a request. No answer of a model is longer; the libraries' parsers take more than linear time."""

MOST_REPLY = 1 << 21
"""Bytes of a reply that are read; the child says less in one."""

INHERITED = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
"""What the child has of this process's environment."""

POISONOUS = 2
"""Failures after which the same arguments are not tried again: one may have been the machine's."""

WORKING = 0.25
"""Share of its limit for which a child that worked on a call had the CPU, also on a crowded machine."""

REMEMBERED = 4096
"""Failed arguments that are remembered, as digests."""


class NotAnswered(Exception):
    """The call gave no result: it took too long, its arguments are too long, or the child died."""


class LibraryError(NotAnswered):
    """The call gave no result because the library raised an error, as it would again."""


class _Ended(NotAnswered):
    """The child ended, stood still, or said what no child of ours says: perhaps for a reason outside the call."""


class Scorer:
    """The child process and the lock that lets one call in at a time; a call waits for its turn outside its limit."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Have no child, without ending one: what a forked process does, since its parent's pipes are not its own."""
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._failures: Counter[bytes] = Counter()
        self._restarts = 0
        self._lost_s = 0.0

    def call(self, library: str, function: str, arguments: Mapping[str, Any], limit_s: float) -> Any:
        """The plain result of a function of `scorer.LIBRARIES[library]`; raises `NotAnswered`.

        limit_s: seconds for the call itself. The first call into a library has `START_LIMIT_S` more for loading it.
        """
        request = {"library": library, "function": function, "arguments": dict(arguments), "limit_s": limit_s}
        text = json.dumps(request)
        if len(text) > MOST_REQUEST:
            raise NotAnswered(f"it has {len(text)} bytes; allowed: at most {MOST_REQUEST}")
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        with self._lock:
            if self._failures[digest] >= POISONOUS:
                raise NotAnswered(f"no result when it was tried {POISONOUS} times before")
            begun = time.monotonic()
            try:
                try:
                    return self._ask(library, text, limit_s)
                except _Ended:
                    self._stop()
                    return self._ask(library, text, limit_s)
            except LibraryError:
                raise
            except NotAnswered:
                self._failed(digest, begun)
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

    def _ask(self, library: str, text: str, limit_s: float) -> Any:
        if self._child is None or self._child.process.poll() is not None:
            self._stop()
            self._child = _Child()
        if library not in self._child.loaded:
            self._child.ask(json.dumps({"library": library, "limit_s": START_LIMIT_S}), START_LIMIT_S)
            self._child.loaded.add(library)
        return self._child.ask(text, limit_s)

    def _failed(self, digest: bytes, begun: float) -> None:
        self._stop()
        if len(self._failures) >= REMEMBERED:
            self._failures.clear()
        self._failures[digest] += 1
        self._restarts += 1
        self._lost_s += time.monotonic() - begun
        if self._restarts & (self._restarts - 1) == 0:  # at 1, 2, 4, 8, ...: a policy may make many of them
            log.warning(
                "%d answers so far broke the process that judges them, which took %.0f s; a domain's timeout_s limits "
                "each, and the answers count as unjudged",
                self._restarts,
                self._lost_s,
            )

    def _stop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None


class _Child:
    """One child process. `loaded`: the libraries that it has loaded."""

    def __init__(self) -> None:
        self.loaded: set[str] = set()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ductile.domains.scorer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            start_new_session=True,  # Ctrl-C is for this process, which ends the child
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._requests, self._replies = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self._requests, False)
        os.set_blocking(self._replies, False)

    def ask(self, text: str, limit_s: float) -> Any:
        """The result in the child's reply to this line, of which nothing more than the line is ever kept."""
        line = self._exchange(memoryview(text.encode() + b"\n"), limit_s)
        try:
            reply = json.loads(line)
            if "error" in reply:
                raise LibraryError(str(reply["error"]))
            return reply["result"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise _Ended("the scoring process gave no reply that can be read") from None

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):  # what was still to be written has nowhere to go
                pipe.close()  # type: ignore[union-attr]

    def _exchange(self, request: memoryview, limit_s: float) -> bytes:
        """Write the request and read one line, whichever the child is ready for."""
        reply, deadline, used_s = bytearray(), time.monotonic() + limit_s, self._cpu_s()
        with selectors.DefaultSelector() as ready:
            ready.register(self._replies, selectors.EVENT_READ)
            ready.register(self._requests, selectors.EVENT_WRITE)
            while True:
                events = ready.select(max(0.0, deadline - time.monotonic()))
                if not events:
                    worked = self._cpu_s() - used_s >= WORKING * limit_s
                    raise (NotAnswered if worked else _Ended)(f"no result within {limit_s:g} s")
                for key, _ in events:
                    if key.fd == self._requests:
                        request = self._write(request)
                        if not request:
                            ready.unregister(self._requests)
                    else:
                        reply += self._read()
                        if len(reply) > MOST_REPLY + 1:
                            raise _Ended("the scoring process gave no reply that can be read")
                        if reply.endswith(b"\n"):
                            return bytes(reply)

    def _cpu_s(self) -> float:
        """CPU seconds that the child has used; where the system does not tell, infinitely many more each time."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return time.monotonic() * 1e9
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _write(self, request: memoryview) -> memoryview:
        try:
            return request[os.write(self._requests, request) :]
        except BlockingIOError:
            return request
        except BrokenPipeError:
            raise _Ended("the scoring process ended") from None

    def _read(self) -> bytes:
        try:
            block = os.read(self._replies, 1 << 16)
        except BlockingIOError:
            return b""
        if not block:
            raise _Ended("the scoring process ended")
        return block


def environment() -> dict[str, str]:
    """The child's whole environment: where Python's modules are, and nothing that is secret."""
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    # One thread: the pools of a machine of many cores would reserve more address space than the child may have.
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    # A fixed hash seed: some of reasoning-gym's generators read their problems off the order of a set.
    return inherited | threads | {"PYTHONPATH": path, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}


SCORER = Scorer()
"""The one of this process."""

atexit.register(SCORER.close)
os.register_at_fork(after_in_child=SCORER.forget)
