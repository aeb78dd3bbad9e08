"""Rolling problems out as a run asks them: in the contexts of the moment, with soft prefixes, and judged."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ductile.config import RunSettings
from ductile.contexts import ContextPool, NoContexts
from ductile.contexts.context import with_prefixes
from ductile.ports import Judge, Learner, PolicyRef, RolloutPool, Sampling
from ductile.problem import JudgedGroup, Problem


@dataclass
class Rollouts:
    """The pool, the judge, and what decides how a problem is put. seconds: what sampling took so far."""

    settings: RunSettings
    pool: RolloutPool
    judge: Judge
    contexts: ContextPool
    learner: Learner
    seconds: float = 0.0

    def asked(self, problems: Sequence[Problem], stream: str) -> list[Problem]:
        """The problems as they are put to the policy: one of them for each context."""
        return with_prefixes(self.contexts.ask(problems, stream), self.learner.prefixes())

    def sampling(self, stream: str, samples: int) -> Sampling:
        """How `samples` completions of each problem are drawn, contexts sharing them."""
        rollout, contexts = self.settings.rollout, self.settings.variant.contexts or 1
        return Sampling(
            self.settings.seed, stream, samples // contexts, rollout.max_tokens, rollout.temperature, rollout.top_p
        )

    def roll_out(
        self, policy: PolicyRef, problems: Sequence[Problem], stream: str, samples: int | Sequence[int]
    ) -> list[JudgedGroup]:
        """The problems' completions with their verdicts, in order. samples: of each, or one number for all."""
        counts = [samples] * len(problems) if isinstance(samples, int) else samples
        groups: list[list[JudgedGroup]] = [[] for _ in problems]
        for size in dict.fromkeys(counts):
            places = [place for place, count in enumerate(counts) if count == size]
            asked = self.asked([problems[place] for place in places], stream)
            began = time.monotonic()
            sampled = self.pool.generate(policy, asked, self.sampling(stream, size))
            self.seconds += time.monotonic() - began
            judged = self.judge.judge(sampled)
            share = len(judged) // len(places)
            for position, group in enumerate(judged):
                groups[places[position // share]].append(group)
        return [group for each in groups for group in each]

    def bare(self) -> Rollouts:
        """The same without contexts: how the untouched base is asked."""
        variant = replace(self.settings.variant, contexts=None)
        return replace(self, settings=replace(self.settings, variant=variant), contexts=NoContexts())
