"""What the three estimators on hidden states share: they learn what the states tell and no more, and keep it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ductile.config import AttentionSettings, DifficultySettings
from ductile.difficulty import ESTIMATORS
from ductile.difficulty.base import Estimator, Evidence, Visits
from ductile.difficulty.hidden import HiddenStateTable, Scale
from ductile.difficulty.newest import NewestVisits, last_of_each_row, pooled
from ductile.difficulty.service import DifficultyTable, Gathered
from ductile.metrics import check_declared
from tests.ductile.difficulty.worlds import World

ON_STATES = ["attention", "value", "features"]
ROWS = np.arange(4)


def made_of(name: str) -> Estimator:
    return ESTIMATORS[name](DifficultySettings())


@pytest.mark.parametrize("name", ON_STATES)
def test_problems_never_asked_are_told_apart_where_states_tell_though_the_policy_improves(name: str) -> None:
    errors, spread, doubt = [], [], []
    for seed in range(4):
        world, estimator = World.make(telling=True, seed=seed), made_of(name)
        world.live(estimator, 60)
        belief, truth = estimator.predict(world.unvisited, 60), world.rates[world.unvisited]
        assert np.corrcoef(belief.mean, truth)[0, 1] > 0.8
        errors.append(((belief.mean - truth) ** 2).mean())
        spread.append(truth.var())
        doubt.append(belief.uncertainty.mean())
    assert np.mean(errors) < 0.3 * np.mean(spread)
    assert 0.4 < np.mean(doubt) / np.mean(errors) ** 0.5 < 2


@pytest.mark.parametrize("name", ON_STATES)
def test_where_states_tell_nothing_estimates_stay_near_the_mean_and_say_so(name: str) -> None:
    errors, truths, spread, doubt = [], [], [], []
    for seed in range(6):
        world, estimator = World.make(telling=False, seed=seed), made_of(name)
        world.live(estimator, 60)
        belief, truth = estimator.predict(world.unvisited, 60), world.rates[world.unvisited]
        errors.append(((belief.mean - truth) ** 2).mean())
        truths.append(truth.var())
        spread.append(belief.mean.std())
        doubt.append(belief.uncertainty.mean())
    assert np.mean(spread) < 0.5 * np.sqrt(np.mean(truths))
    assert np.mean(errors) < 1.5 * np.mean(truths)  # 1: of the mean itself, were it known
    assert 0.8 < np.mean(doubt) / np.mean(errors) ** 0.5 < 1.25


@pytest.mark.parametrize("name", ON_STATES)
def test_before_any_evidence_every_belief_is_the_priors(name: str) -> None:
    estimator = ESTIMATORS[name](DifficultySettings(prior=(2.0, 1.0)))
    estimator.grow(4, 3)
    belief = estimator.predict(ROWS, 5)
    assert belief.mean == pytest.approx([2 / 3] * 4)
    assert belief.uncertainty == pytest.approx([(2 / 9 / 4) ** 0.5] * 4)
    assert belief.age.tolist() == [2] * 4


@pytest.mark.parametrize(("name", "successes"), [*product(ON_STATES, (0, 8))])
def test_outcomes_all_alike_are_no_certainty(name: str, successes: int) -> None:
    estimator, rng = made_of(name), np.random.default_rng(0)
    estimator.grow(20, 0)
    states = rng.normal(size=(16, 3)).astype(np.float32)
    estimator.refresh(shown(np.arange(16), states), 0)
    for step in range(40):
        estimator.observe(Visits(np.arange(12), np.full(12, float(successes)), np.full(12, 8.0)), step)
    estimator.refresh(shown(np.arange(16), states), 40)
    belief = estimator.predict(np.arange(20), 40)
    assert (np.abs(belief.mean - successes / 8) < 0.2).all()
    assert (belief.mean != successes / 8).all()
    assert (belief.uncertainty > 0.001).all()
    assert (belief.uncertainty <= np.sqrt(belief.mean * (1 - belief.mean)) * (1 + 1e-12)).all()


@pytest.mark.parametrize("name", [*ON_STATES, "importance"])
def test_snapshot_goes_through_a_file_and_on_exactly(name: str, tmp_path: Path) -> None:
    first, again = made_of(name), made_of(name)

    def go_on(estimator: Estimator, seed: int, before: int, step: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        estimator.grow(5, step)
        rows = rng.permutation(before + 5)[: before // 2 + 3]
        ratio_rows = rng.integers(0, before + 5, 30)
        evidence = replace(
            shown(rows, rng.normal(size=(len(rows), 4)).astype(np.float32)),
            ratio_rows=ratio_rows,
            log_ratios=rng.normal(size=30),
            rewards=rng.integers(0, 2, 30).astype(float),
        )
        for each in range(step, step + 3):
            asked = rng.permutation(before + 5)[:6]
            estimator.observe(Visits(asked, rng.integers(0, 5, 6).astype(float), np.full(6, 4.0)), each)
            if each == step:
                estimator.refresh(evidence, each)
        estimator.refresh(evidence, step + 3)
        belief = estimator.predict(np.arange(before + 5), step + 4)
        return np.stack([belief.mean, belief.uncertainty, belief.age])

    first.grow(10, 0)
    go_on(first, 0, 10, 0)
    save_file(dict(first.snapshot()), tmp_path / "snapshot.safetensors")
    again.restore(load_file(tmp_path / "snapshot.safetensors"))
    np.testing.assert_array_equal(*(stated(each, np.arange(15)) for each in (first, again)))
    np.testing.assert_array_equal(*(go_on(each, 1, 15, 9) for each in (first, again)))
    assert first.snapshot().keys() == again.snapshot().keys()


@pytest.mark.parametrize("name", [*ON_STATES, "importance"])
def test_looking_changes_nothing_and_an_empty_snapshot_restores(name: str) -> None:
    estimator = made_of(name)
    estimator.restore(made_of(name).snapshot())
    world = World.make(telling=True, problems=20)
    world.live(estimator, 3, asked=4)
    before = {key: array.copy() for key, array in estimator.snapshot().items()}
    estimator.predict(np.arange(20), 50)
    for key, array in estimator.snapshot().items():
        np.testing.assert_array_equal(array, before[key], err_msg=key)


def test_table_takes_what_is_gathered_and_every_metric_is_declared() -> None:
    settings = DifficultySettings(shadows=("importance", "attention", "value", "features"))
    table, rng = DifficultyTable(settings), np.random.default_rng(0)
    ids = [f"p{i}" for i in range(12)]
    table.start_phase(ids)
    gathered = Gathered(
        feature_ids=ids,
        features=rng.normal(size=(12, 3)).astype(np.float32),
        ratio_ids=["p3", "p3", "p5"],
        log_ratios=[0.5, -0.5, 0.1],
        rewards=[1.0, 0.0, 1.0],
    )
    table.observe({id: (i % 5, 4) for i, id in enumerate(ids)}, 0)
    seen = table.refresh(gathered, 1)
    check_declared(seen)
    for name in settings.shadows:
        assert any(key.startswith(f"difficulty/{name}/") for key in seen)
    assert table.predict(["p5"], 1)["importance"].mean[0] == pytest.approx(2 / 3)  # one success on the prior (1, 1)
    check_declared(table.refresh(Gathered(), 2))


def test_attention_asks_for_a_reference_only_where_one_is_rolled_out() -> None:
    own, fresh = (
        ESTIMATORS["attention"](DifficultySettings(attention=AttentionSettings(reference=count))) for count in (0, 32)
    )
    assert own.needs == {"features"}
    assert fresh.needs == {"features", "reference"}


def test_states_are_kept_for_the_rows_that_have_them_and_the_newest_counts() -> None:
    table = HiddenStateTable()
    table.grow(1_000_000)
    table.put(np.array([7, 999_999]), np.array([[1, 2], [3, 4]], np.float32))
    table.put(np.array([500, 7]), np.array([[5, 6], [7, 8]], np.float32))
    assert table.known(np.array([7, 8, 500, 999_999])).tolist() == [True, False, True, True]
    assert table.of(np.array([999_999, 7, 500])).tolist() == [[3, 4], [7, 8], [5, 6]]
    assert table.snapshot()["states"].shape == (3, 2)
    assert table.compute(np.array([7, 500]), lambda states: states.sum(axis=1)).tolist() == [15, 11]


def test_states_on_their_scale_have_squared_norm_one_on_average_whatever_they_share() -> None:
    states = (np.random.default_rng(0).normal(size=(500, 7)) * 3.0 + 50.0).astype(np.float32)
    states[:, 2] = 4.0  # says nothing
    scaled = Scale.of(states)(states.astype(np.float64))
    assert (scaled**2).sum(axis=1).mean() == pytest.approx(6 / 7, rel=1e-6)
    assert scaled.mean(axis=0) == pytest.approx(np.zeros(7), abs=1e-6)


def test_newest_visits_forget_the_oldest() -> None:
    newest = NewestVisits(3)
    newest.add(Visits(np.array([1, 2]), np.array([1.0, 2.0]), np.array([4.0, 4.0])))
    newest.add(Visits(np.array([2, 3]), np.array([0.0, 3.0]), np.array([4.0, 4.0])))
    assert newest.visits.rows.tolist() == [2, 2, 3]
    last, together = last_of_each_row(newest.visits), pooled(newest.visits)
    assert (last.rows.tolist(), last.successes.tolist(), last.counts.tolist()) == ([2, 3], [0, 3], [4, 4])
    assert (together.rows.tolist(), together.successes.tolist(), together.counts.tolist()) == ([2, 3], [2, 3], [8, 4])


def shown(rows: np.ndarray, states: np.ndarray) -> Evidence:
    return Evidence(rows, states, np.ones(len(rows), bool), np.zeros(0, np.int64), np.zeros(0), np.zeros(0), None)


def stated(estimator: Estimator, rows: np.ndarray) -> np.ndarray:
    belief = estimator.predict(rows, 20)
    return np.stack([belief.mean, belief.uncertainty, belief.age])
