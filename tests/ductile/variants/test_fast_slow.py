"""Fast-slow training: one baseline for all contexts of a problem, and options that make no sense are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ductile.checks import check
from ductile.config import RunSettings, VariantSettings
from ductile.problem import Completion, Group, JudgedGroup, Problem, Verdict
from ductile.settings import SettingsError, build
from ductile.variants import make_variant

OPTIONS = {"name": "fast_slow", "contexts": 2, "evolve_every": 6, "evolve_calls": 256, "reflector": "vocabulary"}


def judged(id: str, context: str, rewards: list[float]) -> JudgedGroup:
    completions = tuple(
        Completion(id, n, np.array([n, 1], np.int32), np.zeros(2, np.float32), "", True, 0)
        for n, _ in enumerate(rewards)
    )
    problem = Problem(id, "d", 1, "?", "!", context=context)
    prompt = np.array([7 if context else 8], np.int32)
    return JudgedGroup(Group(problem, prompt, completions), tuple(Verdict(reward, "steps") for reward in rewards))


def test_all_contexts_of_a_problem_share_one_baseline() -> None:
    """Rewards 1 1 in one context, 1 0 in the other: mean 3/4. With a baseline each the first would be silent."""
    settings = build(RunSettings, {"variant": OPTIONS, "objective": {"loss": "cispo", "advantage": "no_std"}})
    batch = make_variant(settings.variant).batch([judged("p", "", [1, 1]), judged("p", "h", [1, 0])], settings)
    assert [(row.prompt.tolist(), row.advantage) for row in batch.rows] == [
        ([8], 0.25),
        ([8], 0.25),
        ([7], 0.25),
        ([7], -0.75),
    ]


def test_policy_is_the_base_and_the_loss_is_the_one_that_is_set() -> None:
    settings = build(RunSettings, {"variant": OPTIONS, "objective": {"loss": "cispo"}})
    variant = make_variant(settings.variant)
    composition = variant.composition(Path("base"), Path("expert"))
    assert [member.path for member in composition.members] == ["base"] and not variant.needs_expert
    assert variant.objective(settings.objective).loss == "cispo"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"evolve_calls": 35}, "variant.evolve_calls: 35 cannot score 2 contexts; allowed: at least 36"),
        ({"reflector": "model", "reflector_model": "m"}, "variant.reflector_url: reflector model needs it"),
        ({"reflector": "model", "reflector_url": "http://x"}, "variant.reflector_model: reflector model needs it"),
        ({"reflector_url": "http://x"}, "variant.reflector_url: 'http://x' is set, but reflector vocabulary does not"),
        (
            {"reflector": "model", "reflector_model": "m", "reflector_url": "x:1"},
            "variant.reflector_url: 'x:1' is no address",
        ),
        ({"evolve_every": None}, "variant.evolve_every: fast_slow needs it"),
    ],
)
def test_options_that_make_no_sense_are_refused_with_the_reason(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(SettingsError) as refused:
        make_variant(build(VariantSettings, {**OPTIONS, **changes}))
    assert any(problem.startswith(line) for problem in refused.value.problems)


def mistakes(values: dict[str, Any]) -> list[str]:
    run = build(RunSettings, {"variant": OPTIONS, "model": {"instructed": 0.2}, "rollout": {"group_size": 8}, **values})
    return [line for line in check(run) if line.startswith("variant.")]


def test_group_must_be_a_multiple_of_the_contexts() -> None:
    assert mistakes({}) == []
    (line,) = mistakes({"variant": {**OPTIONS, "contexts": 3}})
    assert line.startswith("variant.contexts: 3: rollout.group_size (8)") and line.endswith("allowed: 1, 2, 4, 8")


def test_vocabulary_needs_a_base_that_follows_it() -> None:
    assert mistakes({"model": {"examples": 0.1}}) == [] and mistakes({"model": {"path": "mine"}}) == []
    (line,) = mistakes({"model": {}})
    assert line.startswith("variant.reflector: vocabulary: the base is not taught")
