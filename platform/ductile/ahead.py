"""Bounded staleness: a step's rollouts are begun some updates before the one that learns from them.

With `rollout.staleness` k, step t is asked, posed and begun when step t - k begins: with the estimates, and under the
policy, of that moment, which is k updates older than the one that learns from them. At a phase's start the steps up to
k are begun with the phase's first policy; none is begun beyond its end. So nothing crosses a switch or a boundary, and
what a step learns from depends on no clock and on no number of actors. What the older policy means for the objective
says `rl.losses.importance`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ductile.course import Course
from ductile.course.course import Asked
from ductile.group_arrays import Arrays, arrays_groups, as_bytes, from_bytes, group_arrays
from ductile.plan import Phase
from ductile.ports import PolicyRef, RunPool
from ductile.problem import Group, JudgedGroup
from ductile.rollouts import Rollouts, in_order
from ductile.trace import span


@dataclass(frozen=True)
class _Begun:
    """A step whose rollouts go on. parts: places of problems, and what the pool's `collect` takes."""

    step: int
    asked: Asked
    parts: tuple[tuple[tuple[int, ...], int], ...]


@dataclass(frozen=True)
class _Done:
    """A step whose rollouts are here and not yet judged."""

    step: int
    asked: Asked
    groups: list[Group]


class Ahead:
    """The steps of the phase that were begun and that no update has learned from, the next one first.

    Every rank has its own; they stay alike, since what they ask goes through ports.
    """

    def __init__(self, pool: RunPool, staleness: int) -> None:
        """staleness: k, at least 1."""
        self._pool, self._staleness = pool, staleness
        self._steps: deque[_Begun | _Done] = deque()

    def roll_out(
        self, rollouts: Rollouts, course: Course, policy: PolicyRef, phase: Phase, series: str, step: int, seed: int
    ) -> tuple[list[JudgedGroup], dict[str, float]]:
        """The step's judged groups and metrics, once as many later steps as may be are begun under `policy`.

        The course then speaks of this step. series: the phase's stream; a step's own is `series/step`.
        """
        first = self._steps[-1].step + 1 if self._steps else step
        for number in range(first, min(step + self._staleness, phase.steps - 1) + 1):
            with span("ask", ahead=number - step):
                problems = course.ask(phase, number, seed)
                samples = course.allocate(problems, number)
            with span("generation begun", ahead=number - step) as beginning:
                parts = [
                    (part.places, self._pool.begin(policy, part.asked, part.sampling))
                    for part in rollouts.parts(problems, f"{series}/{number}", samples)
                ]
            rollouts.seconds += beginning.seconds
            self._steps.append(_Begun(number, course.asked, tuple(parts)))
        with span("generation") as waiting:
            done = self._done(self._steps.popleft())
        if done.step != step:
            raise RuntimeError(f"step {step} is to be learned from, but step {done.step} was begun first")
        rollouts.seconds += waiting.seconds
        course.recall(done.asked)
        behind = [policy.version - each.policy_version for group in done.groups for each in group.completions]
        metrics = {"rollout/staleness": float(np.mean(behind)), "rollout/waited_s": waiting.seconds}
        return rollouts.judged(done.groups), metrics

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """All of it, as arrays that `restore` takes; waits for what goes on, which then is here."""
        done = [self._done(each) for each in self._steps]
        self._steps = deque(done)
        arrays: dict[str, NDArray[Any]] = {
            "steps": as_bytes([{"step": each.step, "asked": _plain(each.asked)} for each in done])
        }
        for position, each in enumerate(done):
            arrays |= {f"{position}/{name}": array for name, array in group_arrays(each.groups).items()}
        return arrays

    def restore(self, snapshot: Arrays) -> None:
        """Become what `snapshot` returned."""
        self._steps = deque(
            _Done(values["step"], _asked(values["asked"]), arrays_groups(_part(snapshot, f"{position}/")))
            for position, values in enumerate(from_bytes(snapshot["steps"]))
        )

    def _done(self, each: _Begun | _Done) -> _Done:
        if isinstance(each, _Done):
            return each
        groups = in_order([(places, self._pool.collect(handle)) for places, handle in each.parts])
        return _Done(each.step, each.asked, groups)


def make_ahead(pool: RunPool, staleness: int) -> Ahead | None:
    """None where each step's rollouts are begun when it learns from them."""
    return Ahead(pool, staleness) if staleness else None


def _plain(asked: Asked) -> dict[str, Any]:
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in asdict(asked).items()}


def _asked(values: Mapping[str, Any]) -> Asked:
    sets = {name: frozenset(values[name]) for name in ("replayed", "left_out")}
    return Asked(**{**values, **sets, "reviewed": tuple(values["reviewed"])})


def _part(snapshot: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in snapshot.items() if name.startswith(prefix)}
