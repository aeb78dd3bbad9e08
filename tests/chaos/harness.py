"""A job run under a schedule of faults: apply each at its step, watch what becomes of it, and note both."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.faults import FAULTS, Applied, Missed
from tests.chaos.progress import steps_done, steps_of_runs
from tests.chaos.scene import Scene
from tests.chaos.schedule import Planned

POLL_S = 0.03
RECOVERY_S = 150.0
"""How long the next fault waits for the run to come further than it was at this one."""


class OutOfTime(Exception):
    """The bound passed before the job ended."""


class GaveUp(Exception):
    """The job ended by itself, and did so again and again."""


@dataclass
class Event:
    """A fault that was applied. Times in seconds, `at_s` since the job's first start, `step` as checkpoints have it.

    recovery_s: from the fault until every run that has not ended was further than then, since it may have hit any of
    them; None while one is not.
    ended: exit codes of the job in the time after it, -9 of a killed driver aside.
    """

    at_s: float
    kind: str
    target: str
    step: int
    recovery_s: float | None = None
    seen: list[str] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)

    of_runs: dict[Path, int] = field(default_factory=dict)

    def as_plain(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "of_runs"}

    def recovered(self, of_runs: Mapping[Path, int]) -> bool:
        return all(steps > self.of_runs.get(run, 0) for run, steps in of_runs.items())


@dataclass
class _Lasting:
    """A fault until it is undone. Undoing may take a while, as when a node joins, and the run goes on meanwhile."""

    until: float
    place: str
    event: Event
    undo: Callable[[], str]
    undone: Future[str] | None = None


@dataclass
class Harness:
    """One job under faults. `told` is called with every change, for the display.

    starts: most starts of the job that no fault asked for, before it is given up.
    """

    scene: Scene
    bound_s: float
    told: Callable[[Harness], None] = lambda harness: None
    starts: int = 6
    events: list[Event] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    step: int = 0
    done: bool = False
    begun: float = field(default_factory=time.monotonic)
    _undoing: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4))
    _lasting: list[_Lasting] = field(default_factory=list)

    def run(self, plan: Sequence[Planned]) -> None:
        """Start the job, apply the faults, and wait for its end. Raises `OutOfTime`, `GaveUp`."""
        self.begun = time.monotonic()
        self.scene.job.start()
        for planned in plan:
            self._wait(lambda planned=planned: self.step >= planned.step)
            self._wait(lambda place=FAULTS[planned.kind].place: place not in [each.place for each in self._lasting])
            if self.done:
                self.missed.append(f"{planned.kind} at step {planned.step}: the job had ended")
                continue
            time.sleep(planned.delay_s)
            self._apply(planned)
        self._wait(lambda: False)
        self._wait_for_undone()

    @property
    def unexpected(self) -> list[str]:
        """Ends of the job after faults that it should have lived through."""
        return [
            f"{event.kind} at step {event.step}: the job ended with {event.ended}: {'; '.join(event.seen)}"
            for event in self.events
            if event.ended and not FAULTS[event.kind].ends_job
        ]

    def _apply(self, planned: Planned) -> None:
        fault = FAULTS[planned.kind]
        step = steps_done(self.scene.output)
        try:
            applied: Applied = fault.apply(self.scene, planned)
        except Missed as reason:
            self.missed.append(f"{planned.kind} at step {planned.step}: {reason}")
            return
        # What waited for its moment was applied at the end of that wait.
        step = max(step, steps_done(self.scene.output)) if not applied.undo else step
        event = Event(round(time.monotonic() - self.begun, 1), planned.kind, applied.target, step)
        event.of_runs = steps_of_runs(self.scene.output)
        self.events.append(event)
        self.told(self)
        if applied.undo is not None:
            self._lasting.append(_Lasting(time.monotonic() + planned.seconds, fault.place, event, applied.undo))
            return
        limit = time.monotonic() + RECOVERY_S
        self._wait(lambda: event.recovery_s is not None or time.monotonic() > limit)

    def _wait(self, until: Callable[[], bool]) -> None:
        while not self.done and not until():
            self._tick()
            time.sleep(POLL_S)

    def _wait_for_undone(self) -> None:
        while self._lasting:
            self._undo()
            time.sleep(POLL_S)

    def _tick(self) -> None:
        """Look at the job once."""
        now = time.monotonic()
        if now - self.begun > self.bound_s:
            raise OutOfTime(
                f"the job had not ended after {self.bound_s:.0f} s; its last words: {self.scene.job.last_words()}"
            )
        self._undo()
        code = self.scene.job.ended()
        self.step, before = max(self.step, steps_done(self.scene.output)), self.step
        of_runs = steps_of_runs(self.scene.output)
        for event in self.events:
            if event.recovery_s is None and (event.recovered(of_runs) or code == 0):
                event.recovery_s = round(now - self.begun - event.at_s, 1)
        if code == 0:
            self.done = True
        elif code is not None:
            self._again(code)
        if self.step != before or self.done:
            self.told(self)

    def _undo(self) -> None:
        """Begin to undo what is due, and note what is undone."""
        now = time.monotonic()
        for each in self._lasting:
            if each.undone is None and each.until <= now:
                each.undone = self._undoing.submit(each.undo)
        for each in [each for each in self._lasting if each.undone is not None and each.undone.done()]:
            assert each.undone is not None
            self._lasting.remove(each)
            reason = each.undone.exception()
            if reason is not None:  # the run may not be able to recover: that is the harness's fault, not the run's
                self.stuck.append(f"{each.event.kind} could not be undone: {reason}")
            said = f"not undone: {reason}" if reason is not None else each.undone.result()
            each.event.seen.append(f"{said} after {now - self.begun - each.event.at_s:.1f} s")

    def _again(self, code: int) -> None:
        """The job ended by itself: note after which fault, and give the same command again."""
        words = self.scene.job.last_words()
        if self.events:
            self.events[-1].ended.append(code)
            self.events[-1].seen.append(f"job ended with {code} ({words}); same command again")
        if not self.events or sum(len(event.ended) for event in self.events) > self.starts:
            raise GaveUp(f"the job ended with {code}: {words}")
        self.scene.job.start()
