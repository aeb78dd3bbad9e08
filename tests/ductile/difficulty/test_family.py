"""What every selection rule does: as many as asked, none twice, the same for the same arguments, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from ductile.config import DifficultySettings
from ductile.difficulty import ALLOCATIONS, SELECTORS
from ductile.difficulty.base import Arrays, Candidates, Selector
from ductile.difficulty.service import DifficultyTable
from ductile.metrics import check_declared
from tests.ductile.difficulty.made import candidates, copied, rng, seen

ROWS = 12  # of the table; fewer are candidates
rules = pytest.mark.parametrize("rule", sorted(SELECTORS))
outcomes = st.dictionaries(
    st.integers(0, ROWS - 1), st.tuples(st.integers(0, 4), st.just(4)), min_size=1, max_size=6
)  # fmt: skip
believed = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.floats(0, 1),
        st.integers(0, 50),
        st.one_of(st.just(float("nan")), st.floats(0, 1)),
    ),
    min_size=1,
    max_size=ROWS,
)


def made(rule: str, **values: Any) -> Selector:
    selector = SELECTORS[rule](DifficultySettings(selection=rule, **values))
    selector.grow(ROWS)
    selector.start_phase()
    return selector


def table(rows: list[tuple[float, float, int, float]], data: DataObject) -> Candidates:
    means, certain, age, static = (list(column) for column in zip(*rows, strict=True))
    uncertainty = [share * (mean * (1 - mean)) ** 0.5 for share, mean in zip(certain, means, strict=True)]
    numbers = data.draw(st.permutations(range(ROWS)))[: len(rows)]
    return candidates(means, uncertainty, age, static, data.draw(st.floats(0, 0.99)), numbers)


def alike(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k], equal_nan=True) for k in one)


@rules
@settings(max_examples=30)
@given(rows=believed, history=st.lists(outcomes, max_size=4), data=st.data())
def test_every_rule_gives_as_many_as_asked_without_repeats_and_changes_nothing(
    rule: str, rows: list[tuple[float, float, int, float, int]], history: list[Any], data: DataObject
) -> None:
    selector, choice = made(rule), table(rows, data)
    for each in history:
        selector.observe(seen(each))
    count, seed = data.draw(st.integers(0, len(rows))), data.draw(st.integers(0, 9))
    before = copied(selector)
    chosen = selector.select(choice, count, rng(seed)).tolist()
    assert len(chosen) == len(set(chosen)) == count and set(chosen) <= set(range(len(rows)))
    assert selector.select(choice, count, rng(seed)).tolist() == chosen
    assert alike(copied(selector), before)


@rules
@settings(max_examples=30)
@given(before=st.lists(outcomes, max_size=4), after=st.lists(outcomes, max_size=4), rows=believed, data=st.data())
def test_restored_rule_goes_on_exactly(rule: str, before: list[Any], after: list[Any], rows: Any, data: Any) -> None:
    selector, choice = made(rule), table(rows, data)
    for each in before:
        selector.select(choice, len(rows) // 2, rng())
        selector.observe(seen(each))
    again = SELECTORS[rule](DifficultySettings(selection=rule))
    again.restore(copied(selector))
    for seed, each in enumerate(after):
        drawn = [one.select(choice, len(rows) // 2, rng(seed)).tolist() for one in (selector, again)]
        told = [one.observe(seen(each)) for one in (selector, again)]
        assert drawn[0] == drawn[1] and told[0] == told[1]
        check_declared(told[0])
    for one in (selector, again):
        one.grow(3)
    assert alike(copied(selector), copied(again))


@rules
def test_phase_begins_anew(rule: str) -> None:
    selector, fresh = made(rule), made(rule)
    for step in range(5):
        selector.observe(seen({step: (4, 4), 11: (0, 4)}))
    selector.start_phase()
    assert alike(copied(selector), copied(fresh))


@rules
def test_snapshot_is_contiguous_arrays_of_few_bytes_a_problem(rule: str) -> None:
    selector = made(rule)
    selector.observe(seen({3: (4, 4)}))
    for array in selector.snapshot().values():
        assert array.flags.c_contiguous and (len(array) <= 2 or array.itemsize <= 4)


@pytest.mark.parametrize(
    "rule", ["easy", "hard", "uncertain", "target", "rising", "falling", "moving_target", "band", "ability"]
)
def test_order_of_the_candidates_decides_ties_alone(rule: str) -> None:
    values = (np.arange(12) * 5 % 12 + 0.3) / 13
    means, static, uncertainty = values, values[::-1], values / 4
    selector = made(rule, candidates=12, explore=0.0, band=(0.48, 0.52), quantiles=(0.45, 0.55))
    plain = candidates(means, uncertainty, static=static, progress=0.3)
    expected = {int(plain.rows[i]) for i in selector.select(plain, 3, rng())}
    for seed in range(20):
        mixed = rng(seed).permutation(12)
        shuffled = replace(
            candidates(means[mixed], uncertainty[mixed], static=static[mixed], progress=0.3), rows=plain.rows[mixed]
        )
        assert {int(shuffled.rows[i]) for i in selector.select(shuffled, 3, rng(seed))} == expected


@rules
def test_table_asks_a_phase_by_every_rule(rule: str) -> None:
    ids = [f"p{i}" for i in range(12)]
    table = DifficultyTable(DifficultySettings(selection=rule))
    table.start_phase(ids, [i / 12 for i in range(12)])
    for step in range(12):
        chosen = table.select(5, step, 0, without=["p3"], progress=step / 12)
        assert len(set(chosen)) == 5 and "p3" not in chosen
        check_declared(table.observe({id: (int(id[1:]) % 5, 4) for id in chosen}, step))
    assert len(table.select(30, 12, 0)) == 30


@pytest.mark.parametrize("allocation", sorted(ALLOCATIONS))
def test_table_shares_a_steps_completions_out_exactly(allocation: str) -> None:
    table = DifficultyTable(DifficultySettings(allocation=allocation))
    table.start_phase(["a", "b", "c"])
    table.observe({"a": (0, 8), "b": (4, 8)}, 0)
    assert sum(table.allocate(["c", "a", "b"], 24, 1)) == 24
