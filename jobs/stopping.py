"""How a job is stopped: the first Ctrl-C or SIGTERM asks its runs to stop, the second ends it at once.

`ray job stop` sends SIGTERM, and kills the job after RAY_JOB_STOP_WAIT_TIME_S seconds, which the job's supervisor reads
from its own environment: the runtime_env of the job reaches it (infra/runtime_env.yaml).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import ray
from ray.exceptions import RayError

from actors.placement import on_this_node
from actors.stop import StopActor, StopFlag

ASK_AGAIN_S = 1.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """A SIGTERM that ends the job at once."""


class Stopping:
    """The request to stop, from a signal to the runs. `number`: the signal that asked, 0 before."""

    def __init__(self, flag: StopFlag) -> None:
        self.flag = flag
        self.number = 0
        self._asked, self._over = threading.Event(), threading.Event()

    def received(self, number: int, frame: FrameType | None) -> None:
        """The handler. It does no more than it must: the main thread may be anywhere, Ray's own code included."""
        if self._asked.is_set():
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        self.number = number
        self._asked.set()
        text = "stopping: runs end their step and write a checkpoint; once more to end at once\n"
        os.write(sys.stderr.fileno(), text.encode())

    def asked(self) -> bool:
        """Whether a signal has come."""
        return self._asked.is_set()

    def pass_on(self) -> None:
        """On a thread: once asked, ask the runs, and again until the job is over: the flag's process may die too."""
        self._asked.wait()
        while not self._over.wait(ASK_AGAIN_S if self._told() else 0.1):
            pass

    def close(self) -> None:
        """The job is over."""
        self._over.set()
        self._asked.set()

    def _told(self) -> bool:
        if self._over.is_set():
            return True
        try:
            ray.get(self.flag.actor.ask.remote(), timeout=5)
        except RayError:
            return False
        return True


@contextmanager
def stoppable() -> Iterator[Stopping]:
    """Take Ctrl-C and SIGTERM for requests to stop while this lasts. On the main thread, after Ray has started."""
    actor: Any = StopActor.options(scheduling_strategy=on_this_node()).remote()
    stopping = Stopping(StopFlag(actor))
    before = [signal.signal(number, stopping.received) for number in SIGNALS]
    threading.Thread(target=stopping.pass_on, name="stopping", daemon=True).start()
    try:
        yield stopping
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)
        stopping.close()
