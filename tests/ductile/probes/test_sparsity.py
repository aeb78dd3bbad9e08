"""Items, their pass rates and their states belong together, and a planted relation is found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from ductile.config import ProbeSettings, SkillSettings, SparsitySettings
from ductile.inspected import HiddenStates, Rows
from ductile.metrics import check_declared
from ductile.ports import PolicyRef, Sampling
from ductile.probes.sparsity import Items, SparsityProbe, prompt_states, relate, sample_items, shift
from ductile.problem import Group, Problem
from tests.ductile.probes.fakes import POLICY, FakePool, context
from tests.ductile.probes.tiny import gpt2, llama, proxy, random_rows, single

SETTINGS = ProbeSettings(
    shift={"s": SkillSettings({"name": "s"}, (5, 2))}, sparsity=SparsitySettings(problems=6, samples=4), samples=1
)


class NumberedPool(FakePool):
    """The prompt of item i of level l is the one token 10 l + i."""

    def generate(self, policy: PolicyRef, problems: Any, sampling: Sampling) -> list[Group]:
        return [
            replace(group, prompt_tokens=np.array([number(group.problem)], np.int32))
            for group in super().generate(policy, problems, sampling)
        ]


class Sharp:
    """Token t has the hidden state (1, t / 100, t / 100, ...) at the last layer: the larger t, the less sparse."""

    def hidden_states(self, rows: Rows) -> Iterator[HiddenStates]:
        for prompt, completion in rows:
            assert len(prompt) == 1 and len(completion) == 0
            last = torch.full((1, 1, 20), float(prompt[0]) / 100)
            last[..., 0] = 1
            yield HiddenStates(torch.stack([torch.zeros(1, 1, 20), last]), torch.ones(1, 1) > 0, torch.ones(1, 0) > 0)


def number(problem: Problem) -> int:
    _, level, item = problem.id.split("/")
    return 10 * int(level) + int(item)


def rising(problem: Problem, sample: int) -> str:
    """Of level 2 items 0 to 5 pass 0, 0, 1, 2, 3, 4 of 4 times; of level 5 never but for item 5's first."""
    _, level, item = map(str, problem.id.split("/"))
    passes = max(0, int(item) - 1) if level == "2" else int(item == "5")
    return "1 steps" if sample < passes else "0 steps"


def measured(answers: Any = rising, settings: ProbeSettings = SETTINGS) -> tuple[Any, NumberedPool]:
    pool = NumberedPool(answers, loaded=lambda ref: {POLICY: Sharp()}[ref])
    return SparsityProbe().measure(context(pool, settings)), pool


def test_items_are_in_the_order_of_rising_levels_each_with_its_own_state() -> None:
    pool = NumberedPool(rising, loaded=lambda ref: Sharp())
    items = sample_items(context(pool, SETTINGS), "s", SETTINGS.shift["s"])
    assert items.rates.tolist() == [0, 0, 0.25, 0.5, 0.75, 1, 0, 0, 0, 0, 0, 0.25]
    assert items.levels == {2: slice(0, 6), 5: slice(6, 12)}
    assert np.allclose(items.states[:, 1, 1], [t / 100 for t in (*range(20, 26), *range(50, 56))])
    [(_, _, sampling)] = pool.generated
    assert (sampling.samples, sampling.stream) == (4, "probe/sparsity")


def test_planted_relation_is_found() -> None:
    """Energy falls with the token's number: with the pass rate within a level, against it over levels."""
    result, _ = measured()
    check_declared(result.metrics)
    tokens = [*range(20, 26), *range(50, 56)]
    rates = [0, 0, 0.25, 0.5, 0.75, 1, 0, 0, 0, 0, 0, 0.25]
    over_all = spearmanr(tokens, rates).statistic
    within = np.mean([spearmanr(tokens[:6], rates[:6]).statistic, spearmanr(tokens[6:], rates[6:]).statistic])
    for name, sign in (("energy_top10_squared", -1), ("hoyer", -1), ("l1", 1)):
        assert result.metrics[f"sparsity/s/spearman/{name}"] == pytest.approx(sign * over_all)
        assert result.metrics[f"sparsity/s/spearman_within/{name}"] == pytest.approx(sign * within)
    inside = [22, 23, 55]  # .25, .5 and .25 lie in the band
    pairs = [(a > b) for a in inside for b in tokens if b not in inside]
    assert result.metrics["sparsity/s/auc/l1"] == pytest.approx(np.mean(pairs))
    row = next(r for r in result.tables["sparsity"] if r["measure"] == "l1" and r["layer"] == 1)
    assert row["spearman_low"] < row["spearman"] < row["spearman_high"]
    assert len(result.metrics) == 9


def test_layer_of_zeros_is_left_out_where_it_has_no_sparsity() -> None:
    result, _ = measured()
    assert {r["measure"] for r in result.tables["sparsity"] if r["layer"] == 0} == {"l1", "l0_above_1sd"}


def test_same_numbers_every_time() -> None:
    assert measured()[0] == measured()[0]


def test_z_is_in_deviations_of_the_lowest_level() -> None:
    items = Items(np.zeros(5), {1: slice(0, 3), 4: slice(3, 5)}, np.zeros((5, 1, 1), np.float32))
    low, high = shift(np.array([1.0, 2, 3, 5, 6]), items)
    assert (low["z"], high["z"], high["mean"], high["items"]) == (0, 3.5, 5.5, 2)
    assert shift(np.ones(5), items)[1]["z"] is None


def test_items_that_all_pass_have_states_but_no_relation() -> None:
    result, _ = measured(lambda problem, sample: "1 steps")
    assert result.metrics == {}
    assert {row["spearman"] for row in result.tables["sparsity"]} == {None}
    assert {row["pass_rate"] for row in result.tables["sparsity_levels"]} == {1.0}


def test_items_that_could_not_be_judged_are_left_out() -> None:
    def answers(problem: Problem, sample: int) -> str:
        return "? other" if problem.id == "s/2/3" or sample == 0 else "1 steps"

    pool = NumberedPool(answers, loaded=lambda ref: Sharp())
    items = sample_items(context(pool, SETTINGS), "s", SETTINGS.shift["s"])
    assert items.rates.tolist() == [1.0] * 11
    assert items.levels == {2: slice(0, 5), 5: slice(5, 11)}
    assert measured(lambda problem, sample: "? other")[0].tables == {}


def test_without_skills_nothing_is_sampled() -> None:
    result, pool = measured(settings=ProbeSettings())
    assert (result.metrics, result.tables, pool.generated) == ({}, {}, [])


@pytest.mark.parametrize("make", [llama, gpt2])
def test_states_are_of_the_prompts_last_token_at_every_layer(make: Any) -> None:
    model, rows = make(), [(prompt, np.zeros(0, np.int32)) for prompt, _ in random_rows(40)]
    states = prompt_states(single(model), rows)
    assert states.shape == (40, 3, 8)
    for state, (prompt, _) in zip(states, rows, strict=True):
        expected = model(input_ids=torch.tensor([prompt.tolist()]), output_hidden_states=True).hidden_states
        assert np.allclose(state, [layer[0, -1].detach().numpy() for layer in expected], atol=1e-5)


def test_states_are_the_trainable_members() -> None:
    expert, rows = llama(3), [(prompt, np.zeros(0, np.int32)) for prompt, _ in random_rows(3)]
    assert np.array_equal(prompt_states(proxy(gpt2(), expert), rows), prompt_states(single(expert), rows))


def test_band_is_inclusive() -> None:
    items = Items(np.array([0.2, 0.7, 0.1, 0.8]), {1: slice(0, 4)}, np.zeros((4, 1, 1), np.float32))
    assert relate(np.array([3.0, 4, 1, 2]), items, (0.2, 0.7), 0)["auc"] == 1
