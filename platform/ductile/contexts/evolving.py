"""The fast channel of fast-slow training: a population of contexts a domain, evolved between RL steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ductile.config import RunSettings
from ductile.contexts.adapter import RolloutAdapter
from ductile.contexts.context import Context, in_context
from ductile.contexts.evidence import Evidence, restored_evidence
from ductile.contexts.evolution import draw_round, evolve
from ductile.contexts.pool import Evolved
from ductile.contexts.population import Population, restored
from ductile.contexts.reflectors import ChatModel, Vocabulary
from ductile.contexts.room import room
from ductile.domains.base import content_hash
from ductile.plan import Phase
from ductile.ports import Judge, PolicyRef, RolloutPool, Sampling
from ductile.problem import JudgedGroup, Problem


class EvolvingContexts:
    """Implements `ContextPool`. All randomness is keyed by the run's seed and the step's stream.

    pool, judge: what a round of evolution rolls out and judges with; its cost is returned for the run's budget.
    """

    def __init__(self, settings: RunSettings, pool: RolloutPool, judge: Judge) -> None:
        self._settings, self._pool, self._judge = settings, pool, judge
        self._populations: dict[str, Population] = {}
        self._evidence = Evidence()
        self._bare: dict[str, Problem] = {}  # asked and not yet observed: by id, as they are without a context
        self._domain = ""

    def start_phase(self, phase: Phase) -> None:
        """The phase that begins: a domain met before keeps its population; what was seen is seen anew."""
        self._domain = phase.domain.key
        self._populations.setdefault(self._domain, Population())
        self._evidence = Evidence()

    def evolve(self, policy: PolicyRef, phase: Phase, step: int, stream: str) -> Evolved:
        """A round before the phase's first step, and then before every `variant.evolve_every`-th."""
        variant, rollout = self._settings.variant, self._settings.rollout
        assert variant.contexts and variant.evolve_every and variant.evolve_calls  # the variant needs them
        if step % variant.evolve_every:
            return {}, {}
        rng = self._rng(stream, "evolve")
        pool = sorted(phase.pool.values(), key=lambda problem: problem.id)
        problems = draw_round(pool, variant.evolve_calls, variant.contexts, rng)
        fits = room(policy, [*problems.scored, *problems.mutated], rollout.max_tokens)
        sampling = Sampling(self._settings.seed, stream, 1, rollout.max_tokens, rollout.temperature, rollout.top_p)
        adapter = RolloutAdapter(self._pool, self._judge, policy, sampling, fits, self._evidence)
        population = self._populations[self._domain]
        chat = None
        if variant.reflector == "model":
            assert variant.reflector_url and variant.reflector_model  # the variant's `check`
            chat = ChatModel(variant.reflector_url, variant.reflector_model)
        else:
            known = [member.context for member in population.members]
            adapter.propose_new_texts = Vocabulary(phase.domain.formats, self._evidence, fits, known, rng)
        self._populations[self._domain], metrics = evolve(
            population, problems, adapter, chat, variant.contexts, self._key(stream, "gepa")
        )
        if chat is not None:
            chat.require_answers()
            metrics |= {
                "fast/reflector_calls": float(chat.calls),
                "fast/reflector_failures": float(chat.failures),
                "fast/reflector_tokens": float(chat.tokens),
            }
        metrics |= {
            "fast/unusable": float(adapter.unusable),
            "fast/completions": float(adapter.completions),
            "fast/tokens": float(adapter.tokens),
        }
        return metrics, {
            "completions": adapter.completions,
            "sampled_tokens": adapter.tokens,
            "forward_tokens": adapter.tokens * len(policy.composition.members),
        }

    def ask(self, problems: Sequence[Problem], stream: str) -> list[Problem]:
        """Each problem in `variant.contexts` contexts of its domain's front, drawn for it alone.

        A problem of a domain without a population is asked bare, as often.
        """
        count = self._settings.variant.contexts
        assert count
        self._bare |= {problem.id: problem for problem in problems}
        return [
            in_context(problem, context)
            for problem in problems
            for context in self._populations.get(problem.domain, Population()).draw(
                count, self._rng(stream, f"ask/{problem.id}")
            )
        ]

    def observe(self, judged: Sequence[JudgedGroup]) -> None:
        """Count the formats of the phase's domain and keep right answers: what the next round proposes from."""
        for group in judged:
            problem = self._bare[group.group.problem.id]
            if problem.domain == self._domain:
                self._evidence.observe(problem, group)
        self._bare = {}

    def deployed(self) -> Mapping[str, Context]:
        """The context of highest mean reward in its last round, for each domain met."""
        return {domain: population.best().context for domain, population in self._populations.items()}

    def snapshot(self) -> Mapping[str, Any]:
        """Everything, as plain JSON values."""
        populations = {domain: population.snapshot() for domain, population in self._populations.items()}
        return {"domain": self._domain, "populations": populations, "evidence": self._evidence.snapshot()}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Become what `snapshot` returned."""
        self._domain = snapshot["domain"]
        self._populations = {domain: restored(members) for domain, members in snapshot["populations"].items()}
        self._evidence = restored_evidence(snapshot["evidence"])

    def _key(self, stream: str, use: str) -> int:
        return content_hash(f"{self._settings.seed}|{stream}|contexts/{use}")

    def _rng(self, stream: str, use: str) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(self._key(stream, use))))
