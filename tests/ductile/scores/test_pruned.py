"""A cell of the crossing on a tiny model: what is trained on, what is held out, and that it repeats exactly."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ductile.config import ArchitectureSettings, CrossingSettings, FitSettings
from ductile.domains import make_domain
from ductile.plan import draw
from ductile.scores.base import Asked, Floats
from ductile.scores.pruned import Cell, Study, cells, crossing_mistakes
from ductile.settings import SettingsError, build

SETTINGS = CrossingSettings(
    levels=(2, 3),
    sizes=(8, 16),
    fractions=(0.5,),
    rules=("easy", "hard"),
    seeds=2,
    problems=10,
    model=ArchitectureSettings(1, 16, 2, 32, 32),
    fit=FitSettings(steps=3, batch=4, warmup=1),
    inits=1,
    early=2,
    evals=2,
)


class Lengths:
    """Scores a problem by the length of its prompt, and counts its calls."""

    needs: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, asked: Asked) -> Floats:
        self.calls += 1
        return np.array([float(len(prompt)) for prompt in asked.prompts()])


def quiet(_: str) -> None:
    pass


def test_grid_has_all_of_the_data_once_for_each_size() -> None:
    found = list(cells(SETTINGS))
    assert len(found) == len(set(found)) == 2 * 2 * 3
    assert Counter(cell.rule for cell in found) == {"all": 4, "easy": 4, "hard": 4}
    assert len({cell.key for cell in found}) == len(found)


def test_shares_that_are_close_are_trainings_of_their_own() -> None:
    assert Cell(8, 0.3333333, "easy", 0).key != Cell(8, 0.33333334, "easy", 0).key


@pytest.mark.parametrize(("score", "unread"), [("forgetting", "early"), ("el2n", "evals")])
def test_setting_that_a_score_does_not_read_is_not_held_against_it(score: str, unread: str) -> None:
    found = build(CrossingSettings, {"score": score, "fit": {"steps": 50}, unread: 500})
    assert getattr(found, unread) == 500


def test_rules_train_on_their_part_of_the_levels() -> None:
    study = Study(SETTINGS, Lengths(), 0)
    easy, hard, whole = (
        study.run(Cell(16, f, rule, 0), quiet) for f, rule in ((0.5, "easy"), (0.5, "hard"), (1, "all"))
    )
    assert easy["kept_by_level"] == {"2": 8} and hard["kept_by_level"] == {"3": 8}
    assert whole["kept_by_level"] == {"2": 8, "3": 8} and whole["kept"] == 16
    assert whole["score_by_level"]["3"] == whole["score_by_level"]["2"] + 1
    assert set(whole["passed_by_level"]) == {"2", "3"}
    assert np.mean(list(whole["passed_by_level"].values())) == pytest.approx(whole["passed"])  # five problems each


def test_data_of_a_size_are_scored_once_and_begin_with_those_of_a_smaller_one() -> None:
    score = Lengths()
    study = Study(SETTINGS, score, 0)
    small, large = (study.data(size, quiet)[0] for size in (8, 16))
    study.data(8, quiet)
    assert score.calls == 2
    assert {problem.id for problem in small} < {problem.id for problem in large}


def test_cell_repeats_exactly_whatever_was_run_before_it() -> None:
    cell = Cell(8, 0.5, "hard", 1)
    used = Study(SETTINGS, Lengths(), 1)
    used.run(Cell(16, 0.5, "easy", 1), quiet)
    assert used.run(cell, quiet) == Study(SETTINGS, Lengths(), 1).run(cell, quiet)


def test_held_out_problems_are_never_trained_on() -> None:
    domain: Any = make_domain(SETTINGS.domain, "domain")
    study = Study(SETTINGS, Lengths(), 0)
    trained = {problem.id for problem in study.data(16, quiet)[0]}
    assert all("/train/" in id for id in trained)
    assert not trained & {problem.id for problem in draw(domain, SETTINGS.levels, "eval", 500, 0)}


def test_default_settings_have_no_mistakes() -> None:
    assert list(crossing_mistakes(CrossingSettings())) == []


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"domain": {"name": "sort_digit"}}, "domain.name: unknown domain 'sort_digit'"),
        ({"levels": (1,)}, "levels[0]: 1 is not a level"),
        ({"format": "insert"}, "format: unknown format 'insert'; allowed: counts, direct, insertion"),
        ({"domain": {"name": "heuristic"}, "levels": (1,), "format": "steps"}, "format: unknown format 'steps'"),
        ({"sizes": (8, 1000)}, "sizes: 1000: sort_digits"),
        ({"problems": 1000}, "problems: 1000: sort_digits"),
        ({"model": ArchitectureSettings(1, 16, 2, 32, 16), "levels": (7,)}, "model.positions: 16 is too short"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changed: dict[str, Any], line: str) -> None:
    assert [mistake for mistake in crossing_mistakes(replace(SETTINGS, **changed)) if mistake.startswith(line)]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"rules": ["easy", "random"]}, "rules: ['easy', 'random'] lacks hard"),
        ({"sizes": [200, 100]}, "sizes: [200, 100] must rise"),
        ({"sizes": []}, "sizes: the list is empty"),
        ({"early": 500}, "early: 500 is after the training's end (fit.steps 200); allowed: at most 200"),
        ({"score": "forgetting", "evals": 500}, "evals: 500 is more than the training has steps (fit.steps 200)"),
        (
            {"fit": {"steps": 50, "warmup": 51}},
            "fit.warmup: 51 is more than the training has steps; allowed: at most 50",
        ),
        ({"fractions": [1.0]}, "fractions: 1.0 prunes nothing"),
        ({"fractions": [0.99]}, "offset: 0.05 leaves less than 0.99"),
        ({"seeds": 0}, "seeds: 0 is out of range"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values: dict[str, Any], line: str) -> None:
    with pytest.raises(SettingsError) as caught:
        build(CrossingSettings, values)
    assert [problem for problem in caught.value.problems if problem.startswith(line)]
