"""Every probe's cost is its own: what it had sampled or scored, times the models of the policy."""

from __future__ import annotations

from dataclasses import replace

from ductile.config import ProbeSettings, SkillSettings
from ductile.metrics import check_declared
from ductile.ports import Composition, Divergence, Member
from ductile.probes import run_probes
from ductile.probes.cost import MeteredPool
from ductile.problem import Problem
from tests.ductile.probes.fakes import BASE, POLICY, FakePool, context

SETTINGS = ProbeSettings(prior={"sums": SkillSettings({"name": "s"}, (2,))}, problems=4, samples=2, drift_problems=3)
SAME = Divergence(0.0, 0.0, 0.0, 0.0, 1, 1)


def right(problem: Problem, sample: int) -> str:
    return "1 steps"


def test_shared_completions_are_paid_by_the_first_to_ask() -> None:
    # 4 problems, 2 completions of 3 tokens; then 3 of them from the base, scored in both directions by two models
    metrics = run_probes(
        context(FakePool(right, divergences=[SAME] * 2), SETTINGS), ["retention", "formats", "drift"]
    ).metrics
    assert metrics["cost/retention/generated_tokens"] == 4 * 2 * 3
    assert metrics["cost/formats/generated_tokens"] == metrics["cost/formats/forward_tokens"] == 0
    assert metrics["cost/drift/generated_tokens"] == 3 * 2 * 3
    # each direction: 3 problems x 2 completions of one prompt token and three of their own, through two models
    assert metrics["cost/drift/forward_tokens"] == 2 * (3 * 2 * (1 + 3) * 2)
    assert all(metrics[f"cost/{name}/seconds"] >= 0 for name in ("retention", "formats", "drift"))
    check_declared(metrics)


def test_tokens_count_once_for_each_model_of_a_composition() -> None:
    members = tuple(Member(role, "folder", 1.0) for role in ("base", "expert", "anti_expert"))
    pool = MeteredPool(FakePool(right))
    given = context(FakePool(right), SETTINGS)
    policy = replace(POLICY, composition=Composition(members, "expert"))
    pool.generate(policy, [Problem("p", "d", 1, "?", "!")], given.sampling(1.0))
    assert pool.generated == 3 * 2 * 3


class Looked:
    """A loaded policy that five tokens went through."""

    forwarded = 0

    def look(self) -> str:
        self.forwarded += 5
        return "seen"


def look(loaded: Looked) -> str:
    return loaded.look()


def test_what_goes_through_a_policy_that_is_looked_into_is_forward() -> None:
    class Pool(FakePool):
        def inspect(self, policy, measure):
            assert policy is BASE
            return measure(Looked())

    pool = MeteredPool(Pool(right))
    assert pool.inspect(BASE, look) == "seen"
    assert (pool.forward, pool.generated) == (5, 0)
