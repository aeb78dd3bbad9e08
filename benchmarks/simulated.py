"""Actors in virtual time: they take what they are told to take, die, start again, hang, dawdle and join on schedule.

A call is a function of the actor's name that returns (seconds, what the call returns or the error that it raises).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from actors.dispatch import Ended, Handle

Work = Callable[[str], tuple[float, Any]]


@dataclass
class Actor:
    """alive: whether it takes calls; restart_s: how long it needs to start again, inf for never."""

    alive: bool = True
    restart_s: float = 1.0
    slow: float = 1.0
    queue: deque[int] = field(default_factory=deque)
    busy: int | None = None
    life: int = 0


class Simulated:
    """Implements `dispatch.Transport`. waits: how often it was asked to wait; begun: calls by actor, probes aside."""

    def __init__(self, own: Sequence[str], others: Sequence[str] = ()) -> None:
        self._own, self._others = list(own), list(others)
        self.actors = {name: Actor() for name in (*own, *others)}
        self.clock, self.waits, self.killed = 0.0, 0, list[str]()
        self.begun: list[tuple[float, str]] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._works: dict[int, Work | None] = {}
        self._unwanted: set[Handle] = set()
        self._ended: dict[int, Ended] = {}
        self._count = 0
        self._changed = False

    def at(self, when: float, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, event))

    def die(self, name: str) -> None:
        actor = self.actors[name]
        for handle in [*actor.queue, *([actor.busy] if actor.busy is not None else [])]:
            self._end(handle, Ended(lost="died"))
        actor.queue.clear()
        actor.alive, actor.busy, actor.life = False, None, actor.life + 1
        if actor.restart_s < inf:
            life = actor.life
            self.at(self.clock + actor.restart_s, lambda: self.rise(name, life))

    def rise(self, name: str, life: int) -> None:
        if self.actors[name].life == life:
            self.actors[name].alive = True
            self._next(name)

    def join(self, name: str, pending_s: float = 0.0) -> None:
        """It is known at once and takes calls, which wait in its queue, once it has started."""
        self.actors[name] = Actor(alive=False)
        self.actors[name].life = -1  # starting for the first time: calls wait, as Ray's do
        self._own.append(name)
        self._changed = True
        self.at(self.clock + pending_s, lambda: self.rise(name, -1))

    def leave(self, name: str) -> None:
        self.actors[name].restart_s = inf
        self.die(name)
        self._own.remove(name)
        self._changed = True

    def own(self) -> Sequence[str]:
        return list(self._own)

    def others(self) -> Sequence[str]:
        return list(self._others)

    def start(self, actor: str, call: Work) -> Handle:
        self.begun.append((self.clock, actor))
        return self._put(actor, call)

    def probe(self, actor: str) -> Handle:
        return self._put(actor, None)

    def wait(self, handles: Sequence[Handle], timeout_s: float) -> list[tuple[Handle, Ended]]:
        self.waits += 1
        end = self.clock + timeout_s
        while not any(handle in self._ended for handle in handles) and not self._changed:
            if not self._events or self._events[0][0] > end:
                assert end < inf
                self.clock = end
                break
            self.clock, _, event = heapq.heappop(self._events)
            event()
            while self._events and self._events[0][0] <= self.clock:  # all that happen at this moment
                heapq.heappop(self._events)[2]()
        self._changed = False
        return [(handle, self._ended.pop(handle)) for handle in handles if handle in self._ended]

    def cancel(self, handle: Handle) -> None:
        if self._ended.pop(handle, None) is None:
            self._unwanted.add(handle)
        for actor in self.actors.values():
            if handle in actor.queue:
                actor.queue.remove(handle)
                self._end(handle, Ended())

    def kill(self, actor: str) -> None:
        self.killed.append(actor)
        self.die(actor)

    def freed(self) -> None:
        pass

    def now(self) -> float:
        return self.clock

    def _put(self, name: str, work: Work | None) -> int:
        self._count += 1
        handle, actor = self._count, self.actors[name]
        self._works[handle] = work
        if not actor.alive and actor.life >= 0:
            self._end(handle, Ended(lost="unavailable"))
        else:
            actor.queue.append(handle)
            self._next(name)
        return handle

    def _next(self, name: str) -> None:
        actor = self.actors[name]
        if not actor.alive or actor.busy is not None or not actor.queue:
            return
        handle = actor.busy = actor.queue.popleft()
        work = self._works[handle]
        seconds, value = (0.001, None) if work is None else work(name)
        seconds *= actor.slow if work is not None else 1.0
        life = actor.life
        if seconds < inf:
            self.at(self.clock + seconds, lambda: self._done(name, life, handle, value))

    def _done(self, name: str, life: int, handle: int, value: Any) -> None:
        actor = self.actors[name]
        if actor.life != life:
            return
        actor.busy = None
        self._end(handle, Ended(error=value) if isinstance(value, Exception) else Ended(value))
        self._next(name)

    def _end(self, handle: Handle, ended: Ended) -> None:
        self._works.pop(handle, None)
        if handle in self._unwanted:
            self._unwanted.discard(handle)
        else:
            self._ended[handle] = ended
