"""Rollout calls on Ray actors: the one place that knows how Ray says that an actor is gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import (
    ActorUnschedulableError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    WorkerCrashedError,
)

from actors.dispatch import Ended, Handle
from actors.roster import Seats

Call = Callable[[ActorHandle], Any]
LOST = (RayActorError, ActorUnschedulableError, ObjectLostError, WorkerCrashedError, NodeDiedError, OutOfMemoryError)
"""What a call ends with when the actor, its node, or the answer on the way went."""


class RayTransport:
    """Implements `dispatch.Transport`. The roster is heard beside the calls: news of it end a wait.

    actors: those from the start, `each` for every slot, in the order of the slots.
    """

    def __init__(self, actors: Sequence[ActorHandle], each: int, slot: int, roster: Any) -> None:
        self._base = [(position // each, actor) for position, actor in enumerate(actors)]
        self._slot = slot % max(1, len(actors) // each)
        self._roster, self._news = roster, None
        self._lock = threading.Lock()
        self._freed = threading.Event()
        self._seat(((), ()))
        if roster is not None:
            self._news = roster.newer.remote(0)

    def own(self) -> Sequence[ActorHandle]:
        """See `Transport.own`."""
        return self._own

    def others(self) -> Sequence[ActorHandle]:
        """See `Transport.others`: the next slot's come first, so that not all ask the same."""
        return self._others

    def start(self, actor: ActorHandle, call: Call) -> Handle:
        """See `Transport.start`."""
        return call(actor)

    def probe(self, actor: ActorHandle) -> Handle:
        """See `Transport.probe`."""
        return actor.__ray_ready__.remote()

    def wait(self, handles: Sequence[Handle], timeout_s: float) -> list[tuple[Handle, Ended]]:
        """See `Transport.wait`."""
        news = self._news
        watched = [*handles, *([news] if news is not None else [])]
        if not watched:
            self._freed.wait(timeout_s)
            self._freed.clear()
            return []
        ready, _ = ray.wait(watched, timeout=timeout_s)
        if ready:  # and whatever else has ended
            ready, _ = ray.wait(watched, num_returns=len(watched), timeout=0)
        if news in ready:
            ready.remove(news)
            self._hear(news)
        return [(each, _ended(each)) for each in ready]

    def cancel(self, handle: Handle) -> None:
        """See `Transport.cancel`: a call that was not begun yet is not made, one that was goes on to its end."""
        ray.cancel(handle, force=False, recursive=False)

    def kill(self, actor: ActorHandle) -> None:
        """See `Transport.kill`."""
        ray.kill(actor, no_restart=False)

    def freed(self) -> None:
        """See `Transport.freed`."""
        self._freed.set()

    def now(self) -> float:
        """See `Transport.now`."""
        return time.monotonic()

    def _hear(self, news: Any) -> None:
        with self._lock:
            if news is not self._news:  # another thread heard it
                return
            ended = _ended(news)
            if ended.lost:  # the driver is gone, or its roster: what was heard last stays
                self._news = None
                return
            version, seats = ended.value
            if seats is not None:
                self._seat(seats)
            self._news = self._roster.newer.remote(version)

    def _seat(self, seats: Seats) -> None:
        """Take up who joined beside the base, and who of those has left."""
        all_seats = [*self._base, *zip(*seats, strict=True)]
        slots = max(slot for slot, _ in self._base) + 1
        self._own = [actor for slot, actor in all_seats if slot == self._slot]
        others = [(slot, actor) for slot, actor in all_seats if slot != self._slot]
        others.sort(key=lambda seat: (seat[0] - self._slot) % slots)
        self._others = [actor for _, actor in others]


def _ended(reference: Any) -> Ended:
    try:
        return Ended(ray.get(reference))
    except LOST as error:
        return Ended(lost=type(error).__name__)
    except Exception as error:  # raised inside the call
        return Ended(error=error)
