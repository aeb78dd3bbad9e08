"""Settings of how problems are chosen that do not go together, each told before anything starts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ductile.checks import check
from ductile.config import (
    AttentionSettings,
    AuditSettings,
    DifficultySettings,
    KnapsackSettings,
    ObjectiveSettings,
    PhaseSettings,
    RolloutSettings,
    RunSettings,
    ScreenSettings,
)
from ductile.difficulty import ALLOCATIONS, ESTIMATORS, SELECTORS, STATIC

PHASE = PhaseSettings(domain={"name": "chain_sum"}, levels=(4,), steps=5, pool=40)
SETTINGS = RunSettings(phase={"first": PHASE, "second": replace(PHASE, levels=(6,))})


def mistakes(settings: RunSettings = SETTINGS, **difficulty: Any) -> list[str]:
    return check(replace(settings, difficulty=DifficultySettings(**difficulty)))


def test_every_member_of_the_families_passes() -> None:
    graded = replace(SETTINGS, phase={"first": replace(PHASE, levels=(4, 6))})
    assert [rule for rule in SELECTORS if mistakes(graded, selection=rule)] == []
    assert [name for name in ALLOCATIONS if mistakes(graded, allocation=name)] == []
    audit = AuditSettings(every=5)
    assert [s for s in (("all",), tuple(ESTIMATORS)) if mistakes(graded, shadows=s, audit=audit)] == []


@pytest.mark.parametrize(
    ("values", "path", "nearest"),
    [
        ({"estimator": "betta"}, "difficulty.estimator: unknown estimator 'betta'; allowed: ", "beta"),
        (
            {"shadows": ("beta", "al"), "audit": AuditSettings(every=5)},
            "difficulty.shadows[1]: unknown estimator 'al'; allowed: all, ",
            "all",
        ),
        (
            {"selection": "tomson"},
            "difficulty.selection: unknown selection rule 'tomson'; allowed: ability, ",
            "thompson",
        ),
        (
            {"allocation": "napsack"},
            "difficulty.allocation: unknown allocation 'napsack'; allowed: knapsack, uniform",
            "knapsack",
        ),
    ],
)
def test_unknown_member_names_the_nearest(values: dict[str, Any], path: str, nearest: str) -> None:
    [line] = mistakes(**values)
    assert line.startswith(path) and line.endswith(f"(did you mean {nearest}?)")


@pytest.mark.parametrize("rule", STATIC)
def test_static_rule_needs_something_that_tells_problems_apart(rule: str) -> None:
    [line] = mistakes(selection=rule)
    assert line.startswith(f"difficulty.selection: {rule} goes by a static difficulty")
    assert "thompson" in line and line.count(rule) == 1
    assert mistakes(selection=rule, offline=8) == []
    graded = replace(SETTINGS, phase={**SETTINGS.phase, "third": replace(PHASE, levels=(4, 6))})
    assert mistakes(graded, selection=rule) == []
    assert mistakes(replace(SETTINGS, phase={}), selection=rule) == []


def test_knapsack_limits_hold_the_group_size_between_them() -> None:
    small = replace(SETTINGS, rollout=RolloutSettings(group_size=4))
    given = KnapsackSettings(low=6, high=8)
    [line] = mistakes(small, allocation="knapsack", knapsack=given)
    assert line.startswith("difficulty.knapsack.low: 6: a step has rollout.group_size (4)")
    assert line.endswith("allowed: at most 4")
    [line] = mistakes(SETTINGS, allocation="knapsack", knapsack=KnapsackSettings(low=2, high=7))
    assert line.startswith("difficulty.knapsack.high: 7: ") and line.endswith("allowed: at least 8")
    assert mistakes(SETTINGS, allocation="knapsack", knapsack=given) == []
    assert mistakes(small, knapsack=given) == []  # never read


def test_screening_does_not_go_with_refilling() -> None:
    given = replace(SETTINGS, objective=ObjectiveSettings(dynamic_sampling="refill"))
    [line] = mistakes(given, screen=ScreenSettings(pilots=4))
    assert line.startswith("difficulty.screen.pilots: 4: screening asks other problems") and "allowed: 0, or " in line
    assert mistakes(given) == []
    dropped = replace(SETTINGS, objective=ObjectiveSettings(dynamic_sampling="drop"))
    assert mistakes(dropped, screen=ScreenSettings(pilots=4)) == []


def test_pilots_are_spread_over_the_contexts_evenly() -> None:
    given = replace(SETTINGS, variant=replace(SETTINGS.variant, contexts=4))
    assert "difficulty.screen.pilots: 6 is no multiple of variant.contexts (4)" in "\n".join(
        mistakes(given, screen=ScreenSettings(pilots=6))
    )
    assert "difficulty.screen" not in "\n".join(mistakes(given, screen=ScreenSettings(pilots=8)))


@pytest.mark.parametrize(
    ("given", "path", "allowed"),
    [
        ({"attention": AttentionSettings(reference=8)}, "attention.reference: 8 ", {"estimator": "attention"}),
        ({"offline": 8}, "offline: 8 ", {"selection": "falling"}),
        ({"shadows": ("kalman",)}, "shadows: ['kalman'] ", {"audit": AuditSettings(every=5)}),
    ],
)
def test_nothing_is_measured_for_nobody(given: dict[str, Any], path: str, allowed: dict[str, Any]) -> None:
    [line] = mistakes(**given)
    assert line.startswith(f"difficulty.{path}")
    assert mistakes(**given, **allowed) == []


def test_audits_spread_over_the_contexts_evenly() -> None:
    given = replace(SETTINGS, variant=replace(SETTINGS.variant, contexts=5))
    assert "difficulty.audit.samples: 32 is no multiple of variant.contexts (5)" in "\n".join(
        mistakes(given, audit=AuditSettings(every=5))
    )
