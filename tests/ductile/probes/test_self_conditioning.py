"""Turns, horizons and injected mistakes by hand, on a counter: every turn adds one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from ductile.config import ProbeSettings, SelfConditioningSettings
from ductile.metrics import check_declared
from ductile.probes.self_conditioning import (
    SelfConditioningProbe,
    TurnDomain,
    accuracies,
    horizon,
    ideal_horizon,
    slope,
)
from ductile.problem import Problem, Split
from tests.ductile.probes.fakes import FakePool, context


@dataclass(frozen=True)
class Thing:
    id: str


@dataclass(frozen=True)
class Counter:
    """Every turn adds one; the wrong value is 50 more than the truth. An answer is the number as text."""

    key: str = "counter"
    formats: tuple[str, ...] = ("direct",)

    def problems(self, level: int, split: Split, count: int, seed: int) -> list[Problem]:
        raise AssertionError("the probe asks turns")

    def instances(self, turns: int, split: Split, count: int, seed: int) -> list[Thing]:
        assert split == "eval"
        return [Thing(f"{turns}-{number}") for number in range(count)]

    def turn(self, instance: Thing, turn: int, answered: Sequence[str], window: int | None = None) -> Problem:
        kept = answered if window is None else answered[-window:]
        history = tuple(("?", text) for text in kept)
        return Problem(f"{instance.id}/{turn}", self.key, turn, f"{turn}", "!", history=history)

    def increment(self, instance: Thing, turn: int) -> int:
        return 1

    def after(self, instance: Thing, turn: int, previous: int) -> int:
        return previous + 1

    def truth(self, instance: Thing, turn: int) -> int:
        return turn + 1

    def wrong(self, instance: Thing, turn: int, seed: int) -> int:
        return turn + 51

    def write(self, instance: Thing, turn: int, previous: int, stated: int) -> str:
        return str(stated)

    def parse(self, text: str) -> int | None:
        return int(text) if text.isdecimal() else None


@dataclass
class Resolver:
    asked: list[Mapping[str, Any]] = field(default_factory=list)

    def __call__(self, values: Mapping[str, Any], path: str) -> Counter:
        self.asked.append(values)
        return Counter()


SETTINGS = SelfConditioningSettings(
    {"name": "counter", "lenient": True},
    turns=4,
    instances=3,
    rates=(0.0, 1.0),
    injected_turn=4,
    bootstrap=50,
    window=1,
)


def measure(
    answers: Callable[[Problem], str], settings: SelfConditioningSettings = SETTINGS
) -> tuple[Any, FakePool, Resolver]:
    pool, resolver = FakePool(lambda problem, _: answers(problem)), Resolver()
    given = context(pool, ProbeSettings(self_conditioning=settings, samples=5))
    result = SelfConditioningProbe().measure(replace(given, resolve=resolver))
    check_declared(result.metrics)
    return result, pool, resolver


def scratch(result: Any) -> dict[str, float]:
    return {
        name.removeprefix("self_conditioning/scratch/"): value
        for name, value in result.metrics.items()
        if "/scratch/" in name
    }


def rows(result: Any, condition: str, column: str) -> list[float]:
    return [
        row[column]
        for row in result.tables["self_conditioning"]
        if (row["mode"], row["history"]) == ("scratch", condition)
    ]


def counts(problem: Problem) -> str:
    """One more than the last answer that can be read."""
    stated = [text for _, text in problem.history if text.isdecimal()]
    return str(int(stated[-1]) + 1 if stated else 1)


def slips(problem: Problem) -> str:
    """As `counts`, but for one more at the second turn of one instance."""
    return str(int(counts(problem)) + 1) if problem.id == "4-0/1" else counts(problem)


def stumbles(problem: Problem) -> str:
    """Goes wrong at the second turn, and from then on whenever it sees a mistake."""
    right = int(problem.prompt) + 1
    seen = any(int(text) != number + 1 for number, (_, text) in enumerate(problem.history))
    return "99" if problem.prompt == "1" or (seen and len(problem.history) > 1) else str(right)


def test_a_policy_without_mistakes() -> None:
    metrics = scratch(measure(counts)[0])
    assert metrics == {
        "index_accuracy": 1.0,
        "prefix_accuracy": 1.0,
        "step_accuracy": 1.0,
        "horizon": 4.0,
        "slope": 0.0,
        "window_gain": 0.0,
        "cleaned_gain": 0.0,
    }


def test_a_slip_costs_one_step_and_every_later_sum() -> None:
    result = measure(slips)[0]
    assert rows(result, "own", "step_accuracy") == pytest.approx([1, 2 / 3, 1, 1])
    assert rows(result, "own", "index_accuracy") == pytest.approx([1, 2 / 3, 2 / 3, 2 / 3])
    assert rows(result, "own", "prefix_accuracy") == pytest.approx([1, 2 / 3, 2 / 3, 2 / 3])
    assert rows(result, "cleaned", "index_accuracy") == pytest.approx([1, 2 / 3, 1, 1])


def test_mistakes_that_breed_mistakes_are_cured_by_cleaning() -> None:
    result = measure(stumbles)[0]
    assert rows(result, "own", "step_accuracy") == [1, 0, 0, 0]
    assert rows(result, "cleaned", "step_accuracy") == [1, 0, 1, 1]
    metrics = scratch(result)
    assert metrics["cleaned_gain"] == 1.0
    assert metrics["horizon"] == 1.0
    assert metrics["slope"] == -1.0


def test_the_window_shows_the_last_turns_alone() -> None:
    _, pool, _ = measure(counts)
    assert len(pool.generated) == 5  # four turns and the injected one, each in one call
    seen: list[tuple[str, int]] = []
    measure(lambda problem: seen.append((problem.id, len(problem.history))) or counts(problem))
    lengths = [length for id_, length in seen if id_ == "4-0/3"]
    # own, window, cleaned for each of two modes, and two rates of injection for each
    assert sorted(lengths) == [1, 1] + [3] * 8


def test_an_unreadable_answer_is_wrong_and_the_value_before_it_stands() -> None:
    result = measure(lambda problem: "eh" if problem.prompt == "1" else counts(problem))[0]
    # 1, eh, 2, 3: the third is one more than the 1 that stands for the unreadable answer
    assert rows(result, "own", "step_accuracy") == [1, 0, 1, 1]
    assert rows(result, "own", "index_accuracy") == [1, 0, 0, 0]


def test_step_accuracy_after_injection_is_relative_to_the_value_shown() -> None:
    result = measure(counts)[0]
    table = [row for row in result.tables["injection"] if row["mode"] == "scratch"]
    assert [(row["error_rate"], row["step_accuracy"]) for row in table] == [(0.0, 1.0), (1.0, 1.0)]
    truth = measure(lambda problem: str(int(problem.prompt) + 1))[0]  # the true sum, whatever was said
    assert scratch(truth)["slope"] == -1.0


def test_injected_mistakes_have_exactly_the_rate_and_grow_with_it() -> None:
    histories: dict[int, list[tuple[str, ...]]] = {}
    settings = replace(SETTINGS, instances=400, rates=(0.0, 0.25, 0.5, 1.0), turns=1, bootstrap=2)

    def keep(problem: Problem) -> str:
        if problem.prompt == "3":
            histories.setdefault(len(histories), []).append(tuple(text for _, text in problem.history))
        return counts(problem)

    measure(keep, settings)
    wrong = np.array([[int(text) > 50 for text in history] for part in histories.values() for history in part])
    by_rate = wrong[:1600].reshape(400, 4, 3)  # scratch first; then by instance, rate, earlier turn
    shares = by_rate.mean(axis=(0, 2))
    assert shares[0] == 0 and shares[3] == 1
    assert abs(shares[1] - 0.25) < 0.063 and abs(shares[2] - 0.5) < 0.073  # five standard deviations of 1200
    assert (by_rate[:, 1] <= by_rate[:, 2]).all()


def test_both_modes_ask_for_work_or_not_and_sample_once_with_keys_of_their_own() -> None:
    _, pool, resolver = measure(counts)
    assert resolver.asked == [{"name": "counter", "scratch": True}, {"name": "counter", "scratch": False}]
    assert {(sampling.samples, sampling.stream) for _, _, sampling in pool.generated} == {
        (1, "probe/self_conditioning")
    }


def test_horizon_interval_and_ideal_stand_in_the_table() -> None:
    row = next(row for row in measure(slips)[0].tables["horizon"] if row["history"] == "own")
    assert (row["horizon"], row["censored"]) == (4, True)
    assert row["low"] <= 4 <= row["high"] == 4
    assert row["ideal"] == 8  # step accuracy 11/12: ln 0.5 / ln(11/12) = 7.97


def test_nothing_is_measured_without_a_domain() -> None:
    pool = FakePool(lambda problem, _: "")
    result = SelfConditioningProbe().measure(context(pool, ProbeSettings()))
    assert not result.metrics and not result.tables and not pool.generated


def test_a_failure_is_absorbing() -> None:
    index = np.array([[True, False, True], [True, True, True]])
    assert accuracies(index, index).prefix.tolist() == [[True, False, False], [True, True, True]]


@pytest.mark.parametrize(("level", "turns"), [(0.5, 2), (0.4, 3), (1.0, 1), (0.05, 4)])
def test_horizon_by_hand(level: float, turns: int) -> None:
    assert horizon(np.array([1.0, 0.5, 0.4, 0.1]), level) == turns
    assert horizon(np.array([0.3, 0.1]), 0.5) == 0


@pytest.mark.parametrize(("step", "turns"), [(0.9, 7), (0.99, 69), (0.5, 1), (0.0, 0), (1.0, None)])
def test_ideal_horizon_by_hand(step: float, turns: int | None) -> None:
    assert ideal_horizon(step, 0.5) == turns  # ln 0.5 / ln 0.9 = 6.58, / ln 0.99 = 68.97


def test_slope_agrees_with_polyfit() -> None:
    rates, right = [0.0, 0.25, 0.5, 1.0], np.array([0.9, 0.8, 0.5, 0.4])
    assert slope(rates, right) == pytest.approx(np.polyfit(rates, right, 1)[0])


def test_the_counter_is_a_domain_of_turns() -> None:
    assert isinstance(Counter(), TurnDomain)
