"""The cue against the constraint by hand: cells, minimal pairs, the logistic fit and both dominance ratios."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from ductile.config import HeuristicsSettings, ProbeSettings
from ductile.metrics import check_declared
from ductile.probes.heuristics import (
    RIDGE,
    HeuristicsProbe,
    PairedDomain,
    fit_logistic,
    logit_dominance,
    occlusion_dominance,
)
from ductile.problem import Group, JudgedGroup, Problem, Split, Verdict
from tests.ductile.probes.fakes import FakePool, context


@dataclass(frozen=True)
class Thing:
    name: int
    cue: int
    z: int

    @property
    def suggested(self) -> str:
        return "B" if self.cue >= 50 else "A"


@dataclass(frozen=True)
class Paired:
    """Items whose problem's data say what they hold; cues 20 and 80."""

    key: str = "paired"
    formats: tuple[str, ...] = ("direct",)

    def problems(self, level: int, split: Split, count: int, seed: int) -> list[Problem]:
        raise AssertionError("the probe asks items")

    def items(self, level: int, split: Split, count: int, seed: int) -> Sequence[Thing]:
        assert split == "eval"
        return [Thing(number, 80 if number // 2 % 2 else 20, number % 2) for number in range(count)]

    def at(self, item: Thing, cue: int, z: int) -> Thing:
        return replace(item, cue=cue, z=z)

    def problem(self, item: Thing, cue: bool = True, constraint: bool = True) -> Problem:
        data = {"name": item.name, "cue": item.cue if cue else None, "z": item.z if constraint else None}
        answer = "B" if data["z"] else item.suggested
        return Problem(f"{item.name}/{data}", self.key, 1, "?", answer, data)


@dataclass
class Reader:
    """A judge that takes the text as the answer; `?` could not be read, `!` not be judged."""

    def judge(self, groups: Sequence[Group]) -> list[JudgedGroup]:
        return [
            JudgedGroup(
                group,
                tuple(
                    Verdict(
                        None if c.text == "!" else float(c.text == group.problem.answer),
                        "direct",
                        "",
                        c.text if c.text in "AB" else None,
                    )
                    for c in group.completions
                ),
            )
            for group in groups
        ]


SETTINGS = HeuristicsSettings(
    {"name": "paired"}, levels=(1,), items=8, samples=2, cues=(0, 40, 60, 99), sweep_items=3, bootstrap=60
)


def measure(answers: Callable[[Problem, int], str], settings: HeuristicsSettings = SETTINGS) -> Any:
    def resolve(values: Mapping[str, Any], path: str) -> Paired:
        return Paired()

    given = context(FakePool(answers), ProbeSettings(heuristics=settings))
    result = HeuristicsProbe().measure(replace(given, resolve=resolve, judge=Reader()))
    check_declared(result.metrics)
    return result


def named(result: Any) -> dict[str, float]:
    return {name.removeprefix("heuristic/L1/"): value for name, value in result.metrics.items()}


def right(problem: Problem, sample: int) -> str:
    return problem.answer


def cue_only(problem: Problem, sample: int) -> str:
    return "A" if problem.data["cue"] is not None and problem.data["cue"] < 50 else "B"


def always_b(problem: Problem, sample: int) -> str:
    return "B"


def test_a_policy_that_is_right_everywhere() -> None:
    metrics = named(measure(right))
    assert {value for name, value in metrics.items() if name.startswith("accuracy/")} == {1.0}
    assert (metrics["strict"], metrics["conservative_bias"], metrics["cue_removed_gain"]) == (1.0, 0.0, 0.0)
    assert metrics["dominance_occlusion"] == 0.0  # taking the cue away changes no answer, taking z away all


def test_a_policy_that_follows_the_cue_alone() -> None:
    metrics = named(measure(cue_only))
    assert metrics["accuracy/cue_against/constraint_present"] == 0.0
    assert metrics["accuracy/cue_with/constraint_present"] == 1.0
    assert metrics["accuracy/cue_against/constraint_absent"] == 1.0
    assert metrics["strict"] == 0.0
    assert metrics["conservative_bias"] == metrics["cue_removed_gain"] == 1.0
    # the constraint changes nothing, so that both ratios would be over nothing
    assert "dominance_occlusion" not in metrics and "dominance_logit" not in metrics


def test_a_policy_that_always_says_b() -> None:
    metrics = named(measure(always_b))
    assert metrics["accuracy/cue_against/constraint_absent"] == 0.0
    assert metrics["conservative_bias"] == -1.0
    assert "dominance_occlusion" not in metrics


def test_strict_counts_items_that_all_completions_get_right() -> None:
    # the eight conflicting items are 1, 5, 9, ...; two of them are right in one of two completions only
    metrics = named(
        measure(lambda problem, sample: "A" if problem.data["name"] in (1, 5) and sample else problem.answer)
    )
    assert metrics["strict"] == 6 / 8
    # without the constraint all are right: A is then the answer
    assert metrics["conservative_bias"] == pytest.approx(1 / 8)
    # P(B) falls from 7/8 to 0 without the constraint; without the cue it stays
    assert metrics["dominance_occlusion"] == 0.0


def test_half_followed_cue_by_hand() -> None:
    def answers(problem: Problem, sample: int) -> str:
        return problem.answer if problem.data["cue"] is None or problem.data["z"] is None or sample else "A"

    result = measure(answers)
    # conflicting items: P(B) is 1/2, without the cue 1, without the constraint 0
    assert named(result)["dominance_occlusion"] == 1.0
    row = next(row for row in result.tables["heuristic_pairs"] if row["form"] == "cue_removed")
    assert (row["change"], row["change_low"], row["change_high"]) == (0.5, 0.5, 0.5)
    assert (row["dominance_low"], row["dominance_high"], row["items"]) == (1.0, 1.0, 8)


def test_unreadable_answers_are_wrong_and_in_no_share() -> None:
    metrics = named(measure(lambda problem, sample: "?" if sample else problem.answer))
    assert metrics["accuracy/cue_with/constraint_present"] == 0.5
    assert metrics["dominance_occlusion"] == 0.0
    silent = named(measure(lambda problem, sample: "?"))
    assert "dominance_occlusion" not in silent and "dominance_logit" not in silent
    assert silent["strict"] == 0.0


def test_what_could_not_be_judged_is_not_wrong() -> None:
    result = measure(lambda problem, sample: "!" if problem.data["name"] == 1 and sample else problem.answer)
    metrics = named(result)
    assert metrics["accuracy/cue_against/constraint_present"] == metrics["strict"] == 1.0
    assert {row["items"] for row in result.tables["heuristic_pairs"]} == {7}  # of eight conflicting items, one is out
    assert named(measure(lambda problem, sample: "!")) == {}


def test_the_sweep_asks_every_item_at_every_cue_and_constraint() -> None:
    rows = measure(right).tables["heuristic_sweep"]
    assert [(row["cue"], row["z"], row["p_b"]) for row in rows] == [
        (0, 0, 0.0), (40, 0, 0.0), (60, 0, 1.0), (99, 0, 1.0), (0, 1, 1.0), (40, 1, 1.0), (60, 1, 1.0), (99, 1, 1.0),
    ]  # fmt: skip
    assert {row["answers"] for row in rows} == {6}
    ratio = pytest.approx(rows[0]["dominance_logit"])  # the items are alike, so that resampling them changes nothing
    assert all(row["dominance_low"] == ratio and row["dominance_high"] == ratio for row in rows)


def test_logistic_fit_agrees_with_a_general_optimiser() -> None:
    generator = np.random.default_rng(0)
    cue, z = generator.random(8), np.array([0.0, 1.0] * 4)
    n = np.full(8, 20.0)
    b = np.stack([generator.binomial(20, 1 / (1 + np.exp(1 - 3 * cue - 2 * z))), n * (cue > 0.5)])  # noise; separated

    def loss(beta: Any, counts: Any) -> float:
        logit = beta[0] + beta[1] * cue + beta[2] * z
        likelihood = counts * logit - n * np.logaddexp(0, logit)
        return float(-likelihood.sum() + RIDGE / 2 * (beta[1] ** 2 + beta[2] ** 2))

    fitted = fit_logistic(cue, z, b, np.stack([n, n]))
    for row in range(2):
        reference = minimize(loss, np.zeros(3), args=(b[row],), method="BFGS", options={"gtol": 1e-8}).x
        assert fitted[row] == pytest.approx(reference, abs=2e-3)


def test_dominance_ratios_by_hand() -> None:
    assert logit_dominance(np.array([1.0, -6.0, 2.0]), spread=0.5) == 1.5
    assert np.isnan(logit_dominance(np.array([0.0, 5.0, 0.01]), spread=1.0))
    base, no_cue, no_constraint = np.array([0.5, 0.5]), np.array([1.0, 0.8]), np.array([0.3, 0.5])
    assert occlusion_dominance(base, no_cue, no_constraint) == pytest.approx(4.0)  # 0.4 over 0.1
    assert np.isnan(occlusion_dominance(base, no_cue, base))


def test_nothing_is_measured_without_a_domain() -> None:
    pool = FakePool(lambda problem, _: "")
    result = HeuristicsProbe().measure(context(pool, ProbeSettings()))
    assert not result.metrics and not result.tables and not pool.generated


def test_the_fake_is_a_domain_of_pairs() -> None:
    assert isinstance(Paired(), PairedDomain)
