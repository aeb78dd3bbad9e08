"""What a probe is, what it is given, and the completions that all probes of one boundary share.

A probe measures a policy and changes nothing. Every measurement reads the same evaluation problems with the same
random keys at every boundary, so that a difference between two boundaries is the policy's, not the sample's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ductile.config import PhaseSettings, ProbeSettings, RolloutSettings
from ductile.contexts.context import SEED, Context
from ductile.ports import Composition, Judge, PolicyRef, RolloutPool, Sampling
from ductile.problem import Group, JudgedGroup, Problem, Split

STREAM = "probe/eval"
"""Stream of every evaluation. It names neither boundary nor policy: that is what pairs the measurements."""


class AskingDomain(Protocol):
    """The part of a domain that probes use."""

    @property
    def key(self) -> str:
        """What its problems carry as their `domain`."""

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats that its completions may have, `OTHER` aside."""

    def problems(self, level: int, split: Split, count: int, seed: int) -> list[Problem]:
        """`count` problems, the same for the same arguments."""


@dataclass(frozen=True)
class ProbeResult:
    """What probes measured. `metrics`: by name, finite. `tables`: rows of plain values, kept as a JSON artifact."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    tables: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """A cell of a comparison of channels: who answers, in which context and with which soft prefix."""

    policy: PolicyRef
    context: Context = SEED
    prefix: tuple[int, ...] = ()


@dataclass(frozen=True)
class ProbeContext:
    """What a probe may use.

    policy, base: the policy of the moment, and the untouched one it began as.
    phases:       the plan's phases by name, in order; empty for a plan without any.
    boundary:     how many phases are over.
    phase:        the phase that is going on, or that the boundary ends: an entry of `phases`; None at boundary 0.
    start:        the policy at the start of that phase; None at boundary 0.
    batch:        what the learner would learn from judged groups (`variants.base.Variant.batch`): an `rl.batch.Batch`.
    objective:    what it would minimise: an `rl.objective.Objective`.
    channels:     phase -> base_seed, base_evolved, trained_seed, trained_evolved -> its cell, where it can be measured;
                  of the phases whose domain has a fast channel (`ductile.channels`).
    at_alpha:     the policy's models composed with another alpha; None where the policy has no such weight.
    history:      the results of the boundaries before this one.
    run_branch:   trains throw-away copies of the learner and of the base (`branch.Branches.measured`); returns
                  `probes.branch.Arms`, or None when they go on beside the run. Itself None inside a phase.
    """

    pool: RolloutPool
    judge: Judge
    resolve: Callable[[Mapping[str, Any], str], AskingDomain]
    policy: PolicyRef
    base: PolicyRef
    phases: tuple[tuple[str, PhaseSettings], ...]
    boundary: int
    history: tuple[ProbeResult, ...]
    settings: ProbeSettings
    rollout: RolloutSettings
    seed: int
    run_branch: Callable[[], Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]] | None] | None
    phase: tuple[str, PhaseSettings] | None = None
    start: PolicyRef | None = None
    batch: Callable[[Sequence[JudgedGroup]], Any] | None = None
    objective: Any = None
    channels: Mapping[str, Mapping[str, Arm]] = field(default_factory=dict)
    bare_pool: RolloutPool | None = None
    at_alpha: Callable[[float], Composition] | None = None
    _groups: dict[tuple[str, Sampling, str], Group] = field(default_factory=dict, init=False, repr=False)
    _judged: dict[tuple[Sampling, str], JudgedGroup] = field(default_factory=dict, init=False, repr=False)

    @property
    def bare(self) -> RolloutPool:
        """The pool in which every policy answers what it is asked, and nothing of the deployed whole is added."""
        return self.bare_pool or self.pool

    def sampling(self, top_p: float, stream: str = STREAM) -> Sampling:
        """How evaluations sample: as the rollouts do, but for their own number of completions and stream."""
        rollout = self.rollout
        return Sampling(self.seed, stream, self.settings.samples, rollout.max_tokens, rollout.temperature, top_p)

    def completions(self, problems: Sequence[Problem], sampling: Sampling, of: PolicyRef | None = None) -> list[Group]:
        """A group for each problem, sampled from the policy or from the one given, and never twice in this context."""
        policy = of or self.policy
        place = "base" if policy is self.base else "start" if policy is self.start else "policy"
        keys = [(place, sampling, problem.id) for problem in problems]
        missing = {key: problem for key, problem in zip(keys, problems, strict=True) if key not in self._groups}
        if missing:
            groups = self.pool.generate(policy, list(missing.values()), sampling)
            self._groups.update(zip(missing, groups, strict=True))
        return [self._groups[key] for key in keys]

    def judged(self, problems: Sequence[Problem], sampling: Sampling) -> list[JudgedGroup]:
        """The policy's groups with their verdicts, judged once."""
        groups = self.completions(problems, sampling)
        keys = [(sampling, problem.id) for problem in problems]
        missing = {key: group for key, group in zip(keys, groups, strict=True) if key not in self._judged}
        if missing:
            self._judged.update(zip(missing, self.judge.judge(list(missing.values())), strict=True))
        return [self._judged[key] for key in keys]


class Probe(Protocol):
    """One family of measurements. `version` rises when a metric's meaning changes, and is kept with the results."""

    name: str
    version: int

    def measure(self, context: ProbeContext) -> ProbeResult:
        """Measure the policy of the context; what could not be measured is left out."""
