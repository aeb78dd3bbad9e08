"""Rolling problems out as a run asks them: in the contexts of the moment, with soft prefixes, and judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ductile.config import RunSettings
from ductile.contexts import ContextPool, NoContexts
from ductile.contexts.context import with_prefixes
from ductile.ports import Judge, Learner, PolicyRef, RolloutPool, Sampling
from ductile.problem import Group, JudgedGroup, Problem
from ductile.trace import span

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """Those of a step's problems that have as many completions. places: of the problems among the step's."""

    places: tuple[int, ...]
    asked: list[Problem]
    sampling: Sampling


@dataclass
class Rollouts:
    """The pool, the judge, and what decides how a problem is put.

    seconds, judging_s: what sampling and judging took so far.
    """

    settings: RunSettings
    pool: RolloutPool
    judge: Judge
    contexts: ContextPool
    learner: Learner
    seconds: float = 0.0
    judging_s: float = 0.0

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
        judged = []
        for part in self.parts(problems, stream, samples):
            with span("generation", completions=len(part.asked) * part.sampling.samples) as generation:
                sampled = self.pool.generate(policy, part.asked, part.sampling)
            self.seconds += generation.seconds
            judged.append((part.places, self.judged(sampled)))
        return in_order(judged)

    def judged(self, groups: Sequence[Group]) -> list[JudgedGroup]:
        """The groups with their verdicts."""
        with span("verification") as verification:
            judged = list(self.judge.judge(groups))
        self.judging_s += verification.seconds
        return judged

    def parts(self, problems: Sequence[Problem], stream: str, samples: int | Sequence[int]) -> Iterator[Part]:
        """What the pool is asked for them, call by call. samples: as in `roll_out`."""
        counts = [samples] * len(problems) if isinstance(samples, int) else samples
        for size in dict.fromkeys(counts):
            places = tuple(place for place, count in enumerate(counts) if count == size)
            asked = self.asked([problems[place] for place in places], stream)
            yield Part(places, asked, self.sampling(stream, size))

    def bare(self) -> Rollouts:
        """The same without contexts: how the untouched base is asked."""
        variant = replace(self.settings.variant, contexts=None)
        return replace(self, settings=replace(self.settings, variant=variant), contexts=NoContexts())


def in_order(parts: Sequence[tuple[Sequence[int], Sequence[T]]]) -> list[T]:
    """The groups of (places of problems, as many groups of each of them) in the order of the problems.

    >>> in_order([((1,), ["b"]), ((0, 2), ["a", "a'", "c", "c'"])])
    ['a', "a'", 'b', 'c', "c'"]
    """
    placed: dict[int, list[T]] = {}
    for places, groups in parts:
        share = len(groups) // len(places)
        for position, place in enumerate(places):
            placed[place] = [*groups[position * share : (position + 1) * share]]
    return [group for place in sorted(placed) for group in placed[place]]
