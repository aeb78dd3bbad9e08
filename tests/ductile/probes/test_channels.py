"""The 2x2 of channels: each cell asks its own policy in its own way; the KL is of the trained cell's completions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from ductile.channels import context_arms
from ductile.config import PhaseSettings, ProbeSettings
from ductile.contexts.context import Context
from ductile.metrics import check_declared
from ductile.ports import Divergence
from ductile.probes import ProbeContext, run_probes
from ductile.probes.base import Arm
from ductile.probes.channels import ChannelsProbe
from ductile.problem import Problem
from tests.ductile.probes.fakes import BASE, POLICY, FakePool, context

HELP = Context("h", "[steps]", (("q", "a\n"),))
SETTINGS = ProbeSettings(problems=4, samples=2, drift_problems=3)
PHASES = {"hard": PhaseSettings({"name": "sums"}, (1, 2)), "after": PhaseSettings({"name": "rows"}, (5,))}
RATES = {("", 0): 0, ("", 7): 1, ("h", 0): 2, ("h", 7): 3}
"""(context, version of the policy) -> in how many of a level's four problems it is right."""


class Cells(FakePool):
    """Right in as many problems as `RATES` says."""

    def _group(self, policy: Any, problem: Problem, sampling: Any) -> Any:
        right = int(problem.id.rsplit("/", 1)[1]) < RATES[problem.context, policy.version]
        return FakePool(lambda *_: f"{int(right)} steps")._group(policy, problem, sampling)


def kl(reverse: float) -> Divergence:
    return Divergence(9.0, reverse, 9.0, 9.0, 10, 5)


def measured(channels: Mapping[str, Mapping[str, Arm]], top_p: float = 1.0) -> tuple[Any, Cells, ProbeContext]:
    pool = Cells(lambda *_: "", divergences=[kl(0.25), kl(0.5)])
    given = replace(context(pool, SETTINGS, PHASES, top_p=top_p), channels=channels)
    return ChannelsProbe().measure(given), pool, given


def test_four_cells_are_the_weights_and_the_context_of_their_names() -> None:
    result, _, _ = measured({"hard": context_arms(POLICY, BASE, HELP)})
    assert result.metrics == {
        "channels/base_seed/hard": 0.0,
        "channels/trained_seed/hard": 0.25,
        "channels/base_evolved/hard": 0.5,
        "channels/trained_evolved/hard": 0.75,
        "channels/kl_seed/hard": 0.25,
        "channels/kl_evolved/hard": 0.5,
    }
    check_declared(result.metrics)
    row = next(row for row in result.tables["channels"] if row["arm"] == "base_evolved")
    assert (row["instruction"], row["examples"], row["pass_rate"]) == ("[steps]", [["q", "a\n"]], 0.5)


def test_kl_is_of_the_trained_weights_on_their_own_completions_without_top_p() -> None:
    _, pool, _ = measured({"hard": context_arms(POLICY, BASE, HELP)}, top_p=0.9)
    for (p, q, groups, temperature), asked in zip(pool.compared, ("", "h"), strict=True):
        assert (p, q, temperature) == (POLICY, BASE, 0.7)
        assert [group.problem.context for group in groups] == [asked] * 3
        assert all(completion.policy_version == 7 for group in groups for completion in group.completions)
    assert {sampling.top_p for policy, ids, sampling in pool.generated if len(ids) == 3} == {1.0}
    assert {sampling.top_p for policy, ids, sampling in pool.generated if len(ids) == 4} == {0.9}


def test_run_without_a_fast_channel_measures_nothing() -> None:
    result, pool, _ = measured({})
    assert result.metrics == {} and result.tables == {} and pool.generated == []


def test_cell_that_cannot_be_made_is_left_out_with_its_kl() -> None:
    arms = context_arms(POLICY, BASE, HELP)
    del arms["base_evolved"]
    result, pool, _ = measured({"hard": arms})
    assert "channels/base_evolved/hard" not in result.metrics and "channels/kl_evolved/hard" not in result.metrics
    assert len(pool.compared) == 1


def test_cells_ask_the_bare_pool_and_what_they_cost_is_counted() -> None:
    """The deployed pool would put the context before every question of the trained policy."""
    bare = Cells(lambda *_: "", divergences=[kl(0.25), kl(0.5)])
    deployed = FakePool(lambda *_: "0 steps")
    given = replace(
        context(deployed, SETTINGS, PHASES), channels={"hard": context_arms(POLICY, BASE, HELP)}, bare_pool=bare
    )
    result = run_probes(given, ["channels"])
    assert deployed.generated == [] and result.metrics["channels/trained_seed/hard"] == 0.25
    # 4 cells of 8 problems and 2 lots of 3, 2 completions of 3 tokens each
    assert result.metrics["cost/channels/generated_tokens"] == (4 * 8 + 2 * 3) * 2 * 3


@pytest.mark.parametrize("asked", ["seed", "evolved"])
def test_prefix_is_what_the_problems_are_asked_with(asked: str) -> None:
    pool = Cells(lambda *_: "", divergences=[kl(0.25)])
    seen: list[tuple[int, ...]] = []
    generate = pool.generate
    pool.generate = lambda policy, problems, sampling: (  # type: ignore[method-assign]
        seen.extend(problem.prefix for problem in problems),
        generate(policy, problems, sampling),
    )[1]
    arm = Arm(POLICY, prefix=(90, 91) if asked == "evolved" else ())
    ChannelsProbe().measure(replace(context(pool, SETTINGS, PHASES), channels={"after": {f"trained_{asked}": arm}}))
    assert set(seen) == {(90, 91) if asked == "evolved" else ()}
