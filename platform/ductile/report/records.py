"""What the report is made from: one record a run, read back from the tracker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FINISHED = "FINISHED"
"""The only status whose numbers are averaged."""

Series = Sequence[tuple[int, float]]
"""(step, value) pairs by step."""


@dataclass(frozen=True)
class PhaseBand:
    """The RL steps of a phase: its steps are start + 1, ..., end; `start` is where the boundary before it lies.

    domain: the domain's key, empty where the plan does not say it.
    """

    name: str
    start: int
    end: int
    domain: str = ""
    levels: tuple[int, ...] = ()

    def alike(self, other: PhaseBand) -> bool:
        """Whether both ask the same domain and levels for as many steps, whatever they are called."""
        own, others = ((b.domain, b.levels, b.end - b.start) for b in (self, other))
        return bool(self.domain) and own == others


@dataclass(frozen=True)
class RunRecord:
    """One run. `metrics`: by name. `boundaries`: rows as the loop writes them: step, phase, metrics, tables.

    `audits`: rows of `ductile.audit.audit_row`, by step; empty where the run was not audited.
    """

    run_id: str
    variant: str
    plan: str
    seed: int
    status: str
    metrics: Mapping[str, Series] = field(default_factory=dict)
    boundaries: Sequence[Mapping[str, Any]] = ()
    phases: Sequence[PhaseBand] = ()
    audits: Sequence[Mapping[str, Any]] = ()

    @property
    def finished(self) -> bool:
        """Whether its numbers count."""
        return self.status == FINISHED

    def series(self, name: str) -> Series:
        """The metric's history; empty when it was never logged."""
        return self.metrics.get(name, ())

    def before(self, name: str) -> float | None:
        """The metric at boundary 0, before the first phase."""
        return self.boundaries[0]["metrics"].get(name) if self.boundaries else None

    def after(self, name: str) -> float | None:
        """The metric at the last boundary; None for a plan without phases, which has nothing after."""
        return self.boundaries[-1]["metrics"].get(name) if len(self.boundaries) > 1 else None

    def last(self, name: str) -> float | None:
        """The metric at the last boundary, which for a plan without phases is boundary 0."""
        return self.boundaries[-1]["metrics"].get(name) if self.boundaries else None


@dataclass(frozen=True)
class ReportContext:
    """What the records do not say. `plans` and `variants` give the order; others follow as they come."""

    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    plans: Sequence[str] = ()
    variants: Sequence[str] = ()
    source: str = ""
    created: str = ""


def phase_bands(plan: Iterable[Mapping[str, Any]]) -> tuple[PhaseBand, ...]:
    """The steps of each phase. plan: rows with name, steps, domain and levels, as in the artifact `plan.json`."""
    bands, start = [], 0
    for phase in plan:
        domain, levels = phase.get("domain", ""), tuple(phase.get("levels", ()))
        bands.append(PhaseBand(phase["name"], start, start + phase["steps"], domain, levels))
        start += phase["steps"]
    return tuple(bands)


def ordered(first: Sequence[str], found: Iterable[str]) -> list[str]:
    """The names of `found`, those in `first` in its order and then the others as they come."""
    names = list(dict.fromkeys(found))
    return [name for name in dict.fromkeys(first) if name in names] + [name for name in names if name not in first]


def of_cell(records: Iterable[RunRecord], plan: str, variant: str) -> list[RunRecord]:
    """The runs of one plan under one variant, by seed."""
    return sorted((r for r in records if r.plan == plan and r.variant == variant), key=lambda r: (r.seed, r.run_id))
