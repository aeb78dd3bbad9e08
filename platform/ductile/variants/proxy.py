"""Proxy-tuned RL: the base is never touched; a small expert beside it is trained, and the policy is their sum.

    policy = softmax(base + alpha * (expert - anti_expert))        (proxy-tuning, arXiv 2401.08565, section 2)

The anti-expert is the small model as it was before RL, so at the start the policy is exactly the base. RL samples from
the composed policy, the behaviour log-probabilities are those of the composed softmax, and the gradient of the composed
log-probability goes through the expert alone.

What becomes of the expert between two phases is its memory:

    sequential   it goes on: one expert for everything
    fresh        it is frozen and a new one begins; a frozen one answers its own domain, and goes on where a phase asks
                 that domain again. A domain that no phase asked is answered by the base alone. This routing knows a
                 problem's domain, which the other memories need not: what it keeps of other skills, it keeps by that.
    sum          it is frozen and a new one begins on top of it: base + alpha * sum_t (expert_t - anti_expert)
    distil       the base is trained to answer as the whole policy does (distillation.py), and a new expert begins

The new expert is the untouched small model, so that sum begins where it was, distil as near as it was trained, and
fresh at the base.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ductile.config import RunSettings
from ductile.ports import Composition, Member
from ductile.variants.base import PolicyGradient

if TYPE_CHECKING:  # steps import variants
    from ductile.plan import Phase
    from ductile.step import StepPorts

EXPERT, ANTI, BASE = "expert", "anti_expert", "base"
"""Roles. Frozen experts of a sum are `expert_1`, `expert_2`, ..."""
DISTIL_STEPS = 40


@dataclass(frozen=True)
class Proxy(PolicyGradient):
    """Base, expert and anti-expert; three forward passes a token, counted in `budget/forward_tokens`."""

    alpha: float
    alpha_end: float | None = None
    memory: str = "sequential"
    distil_steps: int | None = None
    lr: float | None = None

    needs_expert = True

    def check(self) -> Iterator[str]:
        """Only a distillation has steps."""
        if self.distil_steps is not None and self.memory != "distil":
            yield f"distil_steps: {self.distil_steps} is set, but memory is {self.memory}; allowed: with memory=distil"

    def composition(self, base: Path, expert: Path) -> Composition:
        """base + alpha * (expert - anti_expert)."""
        return Composition(
            (
                Member(BASE, str(base), 1.0),
                Member(EXPERT, str(expert), self.alpha),
                Member(ANTI, str(expert), -self.alpha),
            ),
            EXPERT,
        )

    def at_alpha(self, composition: Composition, alpha: float) -> Composition:
        """The same models with another alpha; the anti-expert is taken off once for each expert."""
        experts = len(composition.members) - 2
        coefficients = {BASE: 1.0, ANTI: -alpha * experts}
        members = tuple(replace(m, coefficient=coefficients.get(m.role, alpha)) for m in composition.members)
        return replace(composition, members=members)

    def switch(self, settings: RunSettings, ended: Phase, stream: str, ports: StepPorts) -> None:
        """Begin a new expert; what became of the old one is the memory's."""
        if self.memory == "sequential":
            return
        learner = ports.learner
        now = {member.role: member for member in learner.composition.members}
        begun = {member.role: member for member in learner.origin.members}
        if self.memory == "distil":
            from ductile.distillation import distilled_base  # of models: a job that only checks settings needs none

            steps = self.distil_steps or DISTIL_STEPS
            base = replace(now[BASE], path=distilled_base(settings, ended, stream, steps, ports))
            members: tuple[Member, ...] = (base, begun[EXPERT], begun[ANTI])
        else:
            frozen = replace(now[EXPERT], path=learner.freeze())
            if self.memory == "fresh":
                kept = replace(learner.composition, members=(now[BASE], frozen, now[ANTI]))
                learner.keep_expert(ended.domain.key, kept)
                members = (now[BASE], begun[EXPERT], begun[ANTI])
            else:
                earlier = tuple(m for m in learner.composition.members if m.role.startswith(f"{EXPERT}_"))
                frozen = replace(frozen, role=f"{EXPERT}_{len(earlier) + 1}")
                members = (now[BASE], *earlier, frozen, begun[EXPERT], begun[ANTI])
        learner.recompose(self.at_alpha(Composition(members, EXPERT), now[EXPERT].coefficient))
