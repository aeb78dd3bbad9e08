"""Where the trials of a search say what they measured, and are told whether to go on.

A run reports from inside its loop, which is in the trial's own process or in a worker of Ray Train; it waits there for
the answer. A run that is told to stop raises `Stopped` and unwinds as one that ends: nobody kills it, so that its
actors, its Ray Train and its MLflow run end as they always do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.actor import ActorHandle

from actors.tracker import RunTracker
from ductile.ports import Stopped
from ductile.sweep import values_of


@dataclass
class _Trial:
    """events: reports of the run, and None when it is over. waiting: the run's report that has no answer yet."""

    events: asyncio.Queue[dict[str, Any] | None] = field(default_factory=asyncio.Queue)
    waiting: asyncio.Future[str] | None = None
    verdict: str = ""  # "early" or "ends" once it must stop


@ray.remote(num_cpus=0, max_restarts=0)
class DeskActor:
    """One for a search, owned by its driver. A trial is known by its number."""

    def __init__(self) -> None:
        self._trials: dict[int, _Trial] = {}

    async def open(self, number: int) -> None:
        """Begin with an empty queue: what an earlier process of this trial left there is void."""
        await self.close(number, early=False)
        self._trials[number] = _Trial()

    async def report(self, number: int, event: dict[str, Any]) -> str:
        """From the run: hand over a report and wait; "" to go on, else why not."""
        trial = self._trials[number]
        if not trial.verdict:
            trial.waiting = asyncio.get_running_loop().create_future()
            trial.events.put_nowait(event)
            return await trial.waiting
        return trial.verdict

    async def over(self, number: int) -> None:
        """From the trial: its runs are over, and no report will come."""
        self._trials[number].events.put_nowait(None)

    async def go_on(self, number: int) -> None:
        """From the trial: what was reported is worth going on from."""
        self._answer(self._trials[number], "")

    async def next(self, number: int, timeout_s: float) -> tuple[bool, dict[str, Any] | None]:
        """From the trial: the next event, or (False, None) when none comes in time."""
        try:
            return True, await asyncio.wait_for(self._trials[number].events.get(), timeout_s)
        except TimeoutError:
            return False, None

    async def close(self, number: int, early: bool) -> None:
        """Whatever the run reports from now on, and what it waits for, is answered with stopping."""
        trial = self._trials.get(number)
        if trial is not None:
            trial.verdict = trial.verdict or ("early" if early else "ends")
            self._answer(trial, trial.verdict)

    @staticmethod
    def _answer(trial: _Trial, verdict: str) -> None:
        if trial.waiting is not None and not trial.waiting.done():
            trial.waiting.set_result(verdict)


@dataclass(frozen=True)
class ReportingTracker(RunTracker):
    """The tracker port of a trial's run: what is measured inside its plan is told to the desk too.

    objectives: name -> metric.  steps: of the whole plan; what is measured after the last one is the trial's result,
    and none of the desk's business.
    """

    desk: ActorHandle
    number: int
    objectives: Mapping[str, str]
    steps: int

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        super().metrics(values, step)
        found = values_of(values, self.objectives)
        if not found or not 0 < step < self.steps:
            return
        verdict = ray.get(self.desk.report.remote(self.number, {"step": step, "values": found}))
        if verdict:
            raise Stopped(step, verdict == "early")
