"""Each direction of the KL is measured on completions of its own first argument, and keeps its own sign and place."""

from __future__ import annotations

from dataclasses import replace

from ductile.config import PhaseSettings, ProbeSettings, SkillSettings
from ductile.metrics import check_declared
from ductile.ports import Divergence
from ductile.probes import run_probes
from ductile.probes.drift import DriftProbe
from ductile.problem import Problem
from tests.ductile.probes.fakes import BASE, POLICY, FakePool, context

SETTINGS = ProbeSettings(
    prior={"sums": SkillSettings({"name": "s"}, (2, 3))},
    neutral={"names": SkillSettings({"name": "n"}, (1,))},
    problems=4,
    drift_problems=3,
)
PHASES = {"hard": PhaseSettings({"name": "h"}, (9,))}


def numbered(count: int) -> list[Divergence]:
    """Divergences whose every number says which call gave it, and which field it is."""
    return [Divergence(i + 0.1, i + 0.2, i + 0.3, i + 0.4, 10 * i, i) for i in range(1, count + 1)]


def right(problem: Problem, sample: int) -> str:
    return "1 steps"


def test_forward_is_measured_on_the_base_and_reverse_on_the_policy() -> None:
    pool = FakePool(right, divergences=numbered(6))
    DriftProbe().measure(context(pool, SETTINGS, PHASES))
    assert [(p, q) for p, q, _, _ in pool.compared] == [(POLICY, BASE)] * 6
    writers = [
        {completion.policy_version for group in groups for completion in group.completions}
        for _, _, groups, _ in pool.compared
    ]
    assert writers == [{BASE.version}, {POLICY.version}] * 3
    assert {temperature for *_, temperature in pool.compared} == {0.7}


def test_each_number_reaches_its_own_metric() -> None:
    result = DriftProbe().measure(context(FakePool(right, divergences=numbered(6)), SETTINGS, PHASES))
    expected = {}
    for first, kind in ((1, "new"), (3, "prior"), (5, "neutral")):
        expected |= {
            f"drift/kl_forward_base/{kind}": first + 0.1,  # Divergence.token_forward is KL(q || p), and q is the base
            f"drift/kl_forward_base_sequence/{kind}": first + 0.3,
            f"drift/kl_reverse_base/{kind}": first + 1.2,
            f"drift/kl_reverse_base_sequence/{kind}": first + 1.4,
        }
    assert result.metrics == expected
    check_declared(result.metrics)
    assert result.tables["drift"][1] == {
        "reference": "base",
        "prompts": "new",
        "direction": "reverse",
        "kl_token": 2.2,
        "kl_sequence": 2.4,
        "tokens": 20,
        "completions": 2,
    }


def test_prompts_come_from_every_level_in_turn() -> None:
    pool = FakePool(right, divergences=numbered(6))
    DriftProbe().measure(context(pool, SETTINGS, PHASES))
    assert [group.problem.id for group in pool.compared[2][2]] == ["s/2/0", "s/3/0", "s/2/1"]


def test_kinds_without_prompts_are_left_out() -> None:
    pool = FakePool(right, divergences=numbered(2))
    result = DriftProbe().measure(context(pool, replace(SETTINGS, neutral={})))
    assert {name.rsplit("/", 1)[1] for name in result.metrics} == {"prior"}


def test_nucleus_of_the_rollouts_is_not_the_drifts() -> None:
    pool = FakePool(right, divergences=numbered(6))
    DriftProbe().measure(context(pool, SETTINGS, PHASES, top_p=0.5))
    assert {sampling.top_p for _, _, sampling in pool.generated} == {1.0}


def test_policy_is_not_sampled_again_after_retention() -> None:
    pool = FakePool(right, divergences=numbered(6))
    run_probes(context(pool, SETTINGS, PHASES), ["retention", "drift"])
    of_policy = [ids for policy, ids, _ in pool.generated if policy is POLICY]
    assert of_policy[1:] == [["n/1/0", "n/1/1", "n/1/2"]]  # neutral prompts are in no retention


TWO_SKILLS = ProbeSettings(
    prior={"sums": SkillSettings({"name": "s"}, (2,)), "words": SkillSettings({"name": "w"}, (1,))},
    problems=4,
    drift_problems=2,
)


def test_each_prior_skill_is_also_measured_alone() -> None:
    pool = FakePool(right, divergences=numbered(6))
    result = DriftProbe().measure(context(pool, TWO_SKILLS))
    assert [[group.problem.id for group in groups] for _, _, groups, _ in pool.compared[::2]] == [
        ["s/2/0", "w/1/0"],
        ["s/2/0", "s/2/1"],
        ["w/1/0", "w/1/1"],
    ]
    assert result.metrics["drift/kl_reverse_base/prior/words"] == 6.2
    check_declared(result.metrics)


def test_drift_from_the_start_of_the_phase_has_the_start_as_its_reference() -> None:
    start = replace(BASE, weights="start", version=4)
    pool = FakePool(right, divergences=numbered(4))
    given = replace(context(pool, replace(SETTINGS, neutral={})), start=start)
    result = DriftProbe().measure(given)
    assert [(p, q) for p, q, _, _ in pool.compared] == [(POLICY, BASE)] * 2 + [(POLICY, start)] * 2
    writers = [{c.policy_version for group in groups for c in group.completions} for _, _, groups, _ in pool.compared]
    assert writers == [{BASE.version}, {POLICY.version}, {start.version}, {POLICY.version}]
    assert result.metrics["drift/kl_forward_start/prior"] == 3.1
    assert result.metrics["drift/kl_reverse_start/prior"] == 4.2
    check_declared(result.metrics)


def test_first_phase_starts_from_the_base_and_is_not_measured_twice() -> None:
    pool = FakePool(right, divergences=numbered(2))
    given = replace(context(pool, replace(SETTINGS, neutral={})), start=replace(BASE, weights="same"))
    metrics = DriftProbe().measure(given).metrics
    assert len(pool.compared) == 2
    for per in ("", "_sequence"):
        assert metrics[f"drift/kl_forward_start{per}/prior"] == metrics[f"drift/kl_forward_base{per}/prior"]
        assert metrics[f"drift/kl_reverse_start{per}/prior"] == metrics[f"drift/kl_reverse_base{per}/prior"]
