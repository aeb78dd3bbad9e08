"""What came first: the length collapse, the shortcuts, or the fall of the prior skills.

Each sign is looked for inside a phase, against that phase's own beginning, and the first phase that shows it counts:

    length:    first step whose mean completion length is at most half of the phase's first step's
    shortcut:  first measurement of the prior skills' shortcut share at least 0.25 above the boundary before the phase
    kinds:     the same for the share of each kind of shortcut: no work, a repeated answer, skipped steps
    fall:      first measurement of the prior skills' pass rate at least 0.10 below the boundary before the phase

Two details decide the order. A rollout metric at step s shows the policy before update s, after s - 1 updates; a
probe at step s shows it after s updates. And the prior skills are only measured now and then, so that all that is known
of the fall is that it lies after the measurement before: a sign within that gap is `unresolved`, neither before nor
after. Shortcuts are read on the prior skills: a problem that is too hard is answered by shortcuts from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ductile.problem import SHORTCUTS
from ductile.report.records import PhaseBand, RunRecord, Series

LENGTH = "rollout/length_mean"
SHORTCUT = "shortcut/prior"
PRIOR = "retention/prior"
LENGTH_FACTOR = 0.5
SHORTCUT_RISE = 0.25
PRIOR_FALL = 0.10
ROUNDING = 1e-9
"""Pass rates are ratios of whole numbers: 0.9 - 0.1 must count as a fall of 0.1."""

ORDERS = ("before", "unresolved", "after", "only_sign", "only_fall", "neither")


@dataclass(frozen=True)
class Onset:
    """Steps as logged; None: it never happened. `fall_after`: the last measurement that did not yet show the fall.

    kinds: kind of shortcut -> step.
    """

    length: int | None
    shortcut: int | None
    kinds: Mapping[str, int | None]
    fall: int | None
    fall_after: int | None

    @property
    def length_order(self) -> str:
        """When the length collapsed, against the fall: one of `ORDERS`."""
        return order(None if self.length is None else self.length - 1, self.fall, self.fall_after)

    @property
    def shortcut_order(self) -> str:
        """When the shortcuts rose, against the fall: one of `ORDERS`."""
        return order(self.shortcut, self.fall, self.fall_after)

    def kind_order(self, kind: str) -> str:
        """When this kind of shortcut rose, against the fall: one of `ORDERS`."""
        return order(self.kinds[kind], self.fall, self.fall_after)


def onset(record: RunRecord) -> Onset:
    """The first step of each sign in one run."""
    fall, fall_after = _measured(record.series(PRIOR), record.phases, lambda value, start: start - value, PRIOR_FALL)

    def rise(metric: str) -> int | None:
        return _measured(record.series(metric), record.phases, lambda value, start: value - start, SHORTCUT_RISE)[0]

    kinds = {kind: rise(f"{SHORTCUT}/{kind}") for kind in SHORTCUTS}
    return Onset(_collapse(record.series(LENGTH), record.phases), rise(SHORTCUT), kinds, fall, fall_after)


def order(updates: int | None, fall: int | None, fall_after: int | None) -> str:
    """Whether a sign came before the fall. updates: after how many updates it was seen; None: never.

    `only_sign`: no fall; `only_fall`: no sign.
    """
    if updates is None or fall is None or fall_after is None:
        return "neither" if updates is None and fall is None else "only_sign" if fall is None else "only_fall"
    return "before" if updates <= fall_after else "unresolved" if updates <= fall else "after"


def _collapse(series: Series, phases: Sequence[PhaseBand]) -> int | None:
    """First step of rollouts at most half as long as the phase's first ones."""
    for phase in phases:
        inside = [(step, value) for step, value in series if phase.start < step <= phase.end]
        for step, value in inside[1:]:
            if value <= LENGTH_FACTOR * inside[0][1]:
                return step
    return None


def _measured(
    series: Series, phases: Sequence[PhaseBand], change: Callable[[float, float], float], least: float
) -> tuple[int | None, int | None]:
    """First measurement whose change from the boundary before its phase is at least `least`, and the one before it."""
    for phase in phases:
        inside = [(step, value) for step, value in series if phase.start <= step <= phase.end]
        for (earlier, _), (step, value) in pairwise(inside):
            if inside[0][0] == phase.start and change(value, inside[0][1]) >= least - ROUNDING:
                return step, earlier
    return None, None
