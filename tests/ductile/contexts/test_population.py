"""A population of contexts: its Pareto front over problems by hand, what is drawn from it, and its JSON."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np

from ductile.contexts.candidate import candidate_of, context_of, named
from ductile.contexts.context import SEED, Context
from ductile.contexts.population import Member, Population, restored

TRACE, DIRECT, SHOWN = (
    named(Context("", text, examples))
    for text, examples in (("[trace]", ()), ("[direct]", ()), ("", (("s34>1:", "3+4=7#7\n"),)))
)


def scored(*scores: tuple[Context, str]) -> Population:
    """Members with a score for each problem: a digit each."""
    return Population(
        [
            Member(context, {f"p{number}": float(digit) for number, digit in enumerate(digits)})
            for context, digits in scores
        ]
    )


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def test_front_has_the_best_of_each_problem_and_counts_the_problems() -> None:
    population = scored((SEED, "0100"), (TRACE, "1110"), (DIRECT, "0001"))
    # p0: trace; p1: seed and trace, but the seed is matched by trace wherever it is on the front; p2: trace; p3: direct
    assert population.front() == {1: 3, 2: 1}


def test_context_that_is_best_nowhere_is_not_on_the_front_however_high_its_mean() -> None:
    population = Population(
        [
            Member(SEED, {"a": 1.0, "b": 0.0}),
            Member(TRACE, {"a": 0.0, "b": 1.0}),
            Member(DIRECT, {"a": 0.75, "b": 0.75}),
        ]
    )
    assert population.front() == {0: 1, 1: 1}
    assert population.best().context == DIRECT


def test_new_population_is_the_seed_alone() -> None:
    assert Population().front() == {0: 1}
    assert Population().draw(1, rng()) == [SEED]


def test_contexts_are_drawn_without_repeats_as_often_as_they_are_on_the_front() -> None:
    population = scored((SEED, "10000"), (TRACE, "01110"), (DIRECT, "00001"))
    first = Counter(population.draw(1, rng(seed))[0].instruction for seed in range(500))
    assert 250 <= first["[trace]"] <= 350 and 70 <= first[""] <= 130 and 70 <= first["[direct]"] <= 130
    for seed in range(20):
        assert {context.name for context in population.draw(3, rng(seed))} == {SEED.name, TRACE.name, DIRECT.name}


def test_context_drawn_again_has_another_name_and_counts_for_the_same_member() -> None:
    population = Population()
    drawn = population.draw(3, rng())
    assert [context.name for context in drawn] == ["", "/1", "/2"]
    for context in drawn:
        population.observe(context.name, [1.0, 0.0])
    assert (population.members[0].asked, population.members[0].passed) == (6, 3.0)


def test_mean_counts_the_round_and_the_steps_after_it_by_completions() -> None:
    population = scored((SEED, "11"), (TRACE, "00"))
    population.observe(TRACE.name, [1.0] * 8)
    assert population.members[1].mean == 8 / 10
    assert population.best().context == SEED  # 1.0
    population.observe(SEED.name, [0.0] * 2)
    assert population.best().context == TRACE


def test_population_of_json_is_the_same_population() -> None:
    population = scored((SEED, "0100"), (SHOWN, "1110"), (DIRECT, "0001"))
    population.observe(SHOWN.name, [1.0, 0.0])
    again = restored(json.loads(json.dumps(population.snapshot())))
    assert again == population and again.front() == population.front()
    assert again.draw(3, rng(4)) == population.draw(3, rng(4))


def test_candidate_is_json_of_a_context_and_nothing_is_the_seed() -> None:
    assert json.loads(candidate_of(SHOWN)["context"]) == {"instruction": "", "examples": [["s34>1:", "3+4=7#7\n"]]}
    assert context_of(candidate_of(SHOWN)) == SHOWN
    assert context_of({"context": "{}"}) == SEED
    assert len({SEED.name, TRACE.name, DIRECT.name, SHOWN.name}) == 4
