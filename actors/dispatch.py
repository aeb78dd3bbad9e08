"""Which call goes to which actor, and what happens when one dies, hangs, dawdles or joins. Knows no Ray.

    calls wait; whoever is free pulls the next one      own actors, others only where none of the own is alive
    an actor has one call at a time                     of all batches: what waits in its queue would seem to hang
    batches that are made at a time                     the oldest is given actors first
    an actor is given a call once it was seen alive     a probe that it answers; until then nobody waits for it alone
    a call is lost with its actor                       made again elsewhere, at most `rollout.retries` times
    none is alive                                       wait, at most `rollout.patience_s`; that uses up no try
    a call takes `rollout.timeout_s`                    its actor is killed: what it holds is not worth keeping
    a call takes `rollout.hedge` times the median       begun on a free actor too, the first answer wins (hedged
                                                        requests: Dean and Barroso, The tail at scale, CACM 2013)

Calls name everything that they need, so a call that is made twice has the same answer.
"""

from __future__ import annotations

import itertools
import logging
import statistics
import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, Generic, Protocol, TypeVar

from ductile.config import RolloutSettings
from ductile.trace import record

log = logging.getLogger(__name__)

Actor = TypeVar("Actor", bound=Hashable)
Handle = Hashable
"""A call that was begun, or a probe."""

HEDGE_LEAST_S = 1.0
"""No call is begun twice before this: of short calls every hiccup is many times the median."""

PROBE_AGAIN_S = (0.25, 2.0)
"""An actor that did not answer a probe is probed again after so long, doubling up to the second."""

LOOK_S = 0.02
"""A batch looks so often for an actor while other batches hold all of them."""


class LostCall(RuntimeError):
    """A rollout call failed on every actor that it was tried on, or there was none to try it on."""


@dataclass(frozen=True)
class Ended:
    """How a call or a probe ended. error: raised inside the call; lost: the actor went, and why."""

    value: Any = None
    error: BaseException | None = None
    lost: str = ""


class Transport(Protocol[Actor]):
    """The actors, and the way to them. No method blocks but `wait`."""

    def own(self) -> Sequence[Actor]:
        """The actors of this run at the moment, starting ones too."""

    def others(self) -> Sequence[Actor]:
        """Actors of other runs, which may be asked where the own ones cannot help."""

    def start(self, actor: Actor, call: Callable[[Any], Any]) -> Handle:
        """Begin a call on the actor."""

    def probe(self, actor: Actor) -> Handle:
        """Begin a call that ends as soon as the actor is there and free."""

    def wait(self, handles: Sequence[Handle], timeout_s: float) -> Sequence[tuple[Handle, Ended]]:
        """Those that have ended; waits for the first, for a change of the actors, or until time is up."""

    def cancel(self, handle: Handle) -> None:
        """Nobody wants it any more; it may go on."""

    def kill(self, actor: Actor) -> None:
        """End the actor's process; it starts again."""

    def freed(self) -> None:
        """An actor may be given a call: whoever waits for no handle need not wait longer."""

    def now(self) -> float:
        """Seconds."""


@dataclass
class Dispatcher(Generic[Actor]):
    """Makes calls on the actors of a transport; several threads may do so at a time.

    counts: `retried` and `hedged` calls so far.
    """

    transport: Transport[Actor]
    settings: RolloutSettings
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._crew = _Crew(self.transport, self.settings)
        self._line: list[_Batch[Actor]] = []  # the batches that are being made, the oldest first

    def run(self, calls: Sequence[Callable[[Any], Any]]) -> list[Any]:
        """What the calls return, in order.

        An error inside a call is raised as it is: it would come again. Raises `LostCall`.
        """
        batch = _Batch(self._crew, self.settings, self.counts, calls)
        self._line.append(batch)
        try:
            while len(batch.results) < len(calls):
                batch.turn(self._line)
        finally:
            batch.leave()
            self._line.remove(batch)
        return [batch.results[number] for number in range(len(calls))]

    def alive(self) -> int:
        """How many of the run's own actors were alive when last heard of."""
        return sum(actor in self._crew.trusted for actor in self.transport.own())


class _Crew(Generic[Actor]):
    """The actors as all batches see them: who is alive, who is busy, whom to probe.

    trusted: seen alive, and not heard otherwise since.
    """

    def __init__(self, transport: Transport[Actor], settings: RolloutSettings) -> None:
        self.transport, self._timeout_s = transport, settings.timeout_s
        self.trusted: set[Actor] = set()
        self._busy: dict[Actor, Handle] = {}  # with a call that somebody waits for
        self._lock = threading.Lock()  # of choosing an actor and making it busy
        self._probes: dict[Actor, Handle] = {}
        self._again: dict[Actor, tuple[float, float]] = {}  # when to probe, and the pause after that
        self._suspect: dict[Actor, float] = {}  # went on with a call that another answered; since when
        self._lanes: dict[Actor, int] = {}  # in the order of their first calls' ends

    def present(self) -> list[Actor]:
        return [*self.transport.own(), *self.transport.others()]

    def lane(self, actor: Actor) -> str:
        """What a trace calls it."""
        return f"rollout actor {self._lanes.setdefault(actor, len(self._lanes))}"

    def alive(self) -> bool:
        """Whether any is, of other runs' too."""
        return any(actor in self.trusted for actor in self.present())

    def free(self, others: bool) -> Iterator[Actor]:
        """Who may be given a call. others: of other runs too, as always where no own one is alive."""
        own = self.transport.own()
        yield from self._idle(own)
        if others or not any(actor in self.trusted for actor in own):
            yield from self._idle(self.transport.others())

    def _idle(self, actors: Iterable[Actor]) -> Iterator[Actor]:
        return (actor for actor in actors if actor in self.trusted and actor not in self._busy)

    def start(self, call: Callable[[Any], Any], others: bool) -> tuple[Handle, Actor] | None:
        """Begin the call on a free actor; None where there is none."""
        with self._lock:
            actor = next(self.free(others), None)
            if actor is None:
                return None
            handle = self._busy[actor] = self.transport.start(actor, call)
            return handle, actor

    def release(self, actor: Actor) -> None:
        """Its call ended."""
        self._busy.pop(actor, None)
        self.transport.freed()

    def forsake(self, actor: Actor, handle: Handle) -> None:
        """Nobody wants its call any more; it is asked again once it is done with it."""
        self.transport.cancel(handle)
        self.trusted.discard(actor)
        self._suspect[actor] = self.transport.now()
        self.release(actor)

    def look_after(self) -> None:
        """Probe those of whom nothing is known; kill those that go on for ever with what nobody waits for."""
        now = self.transport.now()
        for actor in self.present():
            if actor in self.trusted:
                continue
            if now >= self._suspect.get(actor, inf) + self._timeout_s:
                self.kill(actor)
            when, _ = self._again.get(actor, (now, 0.0))
            if actor not in self._probes and now >= when:
                self._probes[actor] = self.transport.probe(actor)

    def probes(self) -> dict[Handle, Actor]:
        """Those that are on their way."""
        return {handle: actor for actor, handle in list(self._probes.items())}

    def answered(self, actor: Actor, ended: Ended) -> None:
        """A probe ended."""
        if self._probes.pop(actor, None) is None:  # another thread saw it first
            return
        self._suspect.pop(actor, None)
        if not ended.lost:
            self.trusted.add(actor)
            self._again.pop(actor, None)
            return
        self.doubt(actor)

    def doubt(self, actor: Actor) -> None:
        """It died, or so it seems: give it nothing before it has answered a probe."""
        self.trusted.discard(actor)
        self.release(actor)
        first, most = PROBE_AGAIN_S
        pause = self._again.get(actor, (0.0, first))[1]
        self._again[actor] = (self.transport.now() + pause, min(2 * pause, most))

    def kill(self, actor: Actor) -> None:
        self.transport.kill(actor)
        self._suspect.pop(actor, None)
        self._probes.pop(actor, None)
        self.doubt(actor)

    def wakes(self) -> Iterator[float]:
        """When somebody has to be probed or killed."""
        for actor in self.present():
            if actor not in self.trusted:
                if actor not in self._probes and actor in self._again:
                    yield self._again[actor][0]
                if actor in self._suspect:
                    yield self._suspect[actor] + self._timeout_s


@dataclass(frozen=True)
class _Try(Generic[Actor]):
    """A call on an actor. proven: the actor was seen alive since this batch began, so that a loss is the call's."""

    call: int
    actor: Actor
    began: float
    proven: bool


class _Batch(Generic[Actor]):
    """Calls that are made together: those of one size, so that the time of one says what another should take."""

    def __init__(
        self,
        crew: _Crew[Actor],
        settings: RolloutSettings,
        counts: Counter[str],
        calls: Sequence[Callable[[Any], Any]],
    ) -> None:
        self._crew, self._transport, self._settings = crew, crew.transport, settings
        self._counts, self._calls = counts, calls
        self._waiting = deque(range(len(calls)))
        self._running: dict[Handle, _Try[Actor]] = {}
        self._losses: Counter[int] = Counter()
        self._hedged: set[int] = set()
        self._seconds: list[float] = []  # of the calls that were answered
        self._judged, self._bound = 0, 0.0  # how many of them gave the bound of what takes long
        self._proven: set[Actor] = set()
        self._alone_since: float | None = None  # since when calls wait and no actor is alive
        self.results: dict[int, Any] = {}
        self.wanting = True  # an actor, now

    def turn(self, line: Sequence[_Batch[Actor]]) -> None:
        """Give out what can be given, wait for whatever comes first, and take it in. line: all batches, in order."""
        crew = self._crew
        crew.look_after()
        if not any(each.wanting for each in itertools.takewhile(lambda each: each is not self, list(line))):
            self._assign()
            self._hedge()
        self.wanting = bool(self._waiting) or self._overdue()
        self._lose_patience()
        probes = crew.probes()
        now = self._transport.now()
        pause = max(0.0, min(self._wakes()) - now)
        if self.wanting and len(line) > 1:  # what the other batches' calls end with is not heard here
            pause = min(pause, LOOK_S)
        for handle, ended in self._transport.wait([*self._running, *probes], pause):
            if handle in probes:
                crew.answered(probes[handle], ended)
                if not ended.lost:
                    self._proven.add(probes[handle])
            elif handle in self._running:  # not the slower of two that ended together
                self._take(handle, ended)
        self._end_late_ones()

    def leave(self) -> None:
        """Whatever still runs is wanted by nobody."""
        for handle in list(self._running):
            self._forget(handle)

    def _assign(self) -> None:
        """Calls to free actors. One that was lost may go to other runs' actors, as every call where no own is alive."""
        while self._waiting:
            lost = self._losses[self._waiting[0]] > 0
            if not self._start(self._waiting[0], others=lost):
                return
            self._waiting.popleft()

    def _hedge(self) -> None:
        """The calls that take long are begun on free actors too."""
        now = self._transport.now()
        for entry in list(self._running.values()):
            due = self._hedge_at(entry)
            if due is None or due > now:
                continue
            if not self._start(entry.call, others=True):
                return
            self._hedged.add(entry.call)
            self._counts["hedged"] += 1

    def _overdue(self) -> bool:
        """Whether a second try is due, for which no actor was free."""
        now = self._transport.now()
        return any((self._hedge_at(entry) or inf) <= now for entry in self._running.values())

    def _hedge_at(self, entry: _Try[Actor]) -> float | None:
        """When a second try of the call is due; None where there is none to come, or calls still wait for a first."""
        if not self._settings.hedge or self._waiting or entry.call in self._hedged or not self._seconds:
            return None
        return entry.began + self._long()

    def _long(self) -> float:
        """Seconds after which a call has taken long."""
        if self._judged != len(self._seconds):
            self._judged = len(self._seconds)
            self._bound = max(HEDGE_LEAST_S, self._settings.hedge * statistics.median(self._seconds))
        return self._bound

    def _start(self, call: int, others: bool) -> bool:
        began = self._transport.now()
        started = self._crew.start(self._calls[call], others)
        if started is None:
            return False
        handle, actor = started
        self._running[handle] = _Try(call, actor, began, actor in self._proven)
        return True

    def _take(self, handle: Handle, ended: Ended) -> None:
        entry = self._running[handle]
        if ended.lost:
            self._lost(handle, ended.lost)
            return
        del self._running[handle]
        self._crew.release(entry.actor)
        self._proven.add(entry.actor)
        if ended.error is not None:
            raise ended.error
        self.results[entry.call] = ended.value
        self._seconds.append(self._transport.now() - entry.began)
        record("call", entry.began, self._transport.now(), self._crew.lane(entry.actor))
        for other in [other for other, each in self._running.items() if each.call == entry.call]:
            self._forget(other)

    def _forget(self, handle: Handle) -> None:
        self._crew.forsake(self._running.pop(handle).actor, handle)

    def _lost(self, handle: Handle, reason: str) -> None:
        entry = self._running.pop(handle)
        record("call lost", entry.began, self._transport.now(), self._crew.lane(entry.actor))
        self._crew.doubt(entry.actor)
        # Of an actor that was last seen alive by an earlier batch, who knows how long it has been dead.
        self._losses[entry.call] += entry.proven
        self._proven.discard(entry.actor)
        if self._losses[entry.call] > self._settings.retries:
            raise LostCall(
                f"a rollout call was lost {self._losses[entry.call]} times (rollout.retries={self._settings.retries}, "
                f"rollout.timeout_s={self._settings.timeout_s:g}): {reason}"
            )
        if any(each.call == entry.call for each in self._running.values()):
            return
        log.warning("rollout call lost (%s); trying again on another actor", reason)
        self._hedged.discard(entry.call)
        self._counts["retried"] += 1
        self._waiting.appendleft(entry.call)

    def _end_late_ones(self) -> None:
        now, limit = self._transport.now(), self._settings.timeout_s
        for handle, entry in list(self._running.items()):
            if now >= entry.began + limit and handle in self._running:
                self._crew.kill(entry.actor)
                self._running[handle] = replace(entry, proven=True)  # a call that hangs is one that was begun
                self._lost(handle, f"no answer in {limit:g} s")

    def _lose_patience(self) -> None:
        """Raise `LostCall` where calls have waited too long for any actor to be alive."""
        now = self._transport.now()
        if self._running or not self._waiting or self._crew.alive():
            self._alone_since = None
            return
        if self._alone_since is None:
            self._alone_since = now
        if now >= self._alone_since + self._settings.patience_s:
            raise LostCall(
                f"none of {len(self._crew.present())} rollout actors was alive for rollout.patience_s="
                f"{self._settings.patience_s:g} s; `ray status` says what those wait for that are starting"
            )

    def _wakes(self) -> Iterable[float]:
        """When something is to be done even if nothing is heard."""
        now = self._transport.now()
        yield now + self._settings.timeout_s
        yield from self._crew.wakes()
        free = next(self._crew.free(others=True), None) is not None
        for entry in self._running.values():
            yield entry.began + self._settings.timeout_s
            due = self._hedge_at(entry) if free else None
            if due is not None:
                yield due
        if self._alone_since is not None:
            yield self._alone_since + self._settings.patience_s
