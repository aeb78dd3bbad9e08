"""The cue against the constraint, by hand: what is asked and right, how often they agree, and an item's other forms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ductile.domains import WorkedDomain, make_domain
from ductile.domains.heuristic import Heuristic, Item
from ductile.models.tokenizer import CHARACTERS
from ductile.problem import DIRECT, NO_WORK, OTHER, REPEATED, SKIPPED, Problem

NEAR = Item("qwe", 1, "eval", 23, 1, 481)
"""The cue says A, the constraint that holds says B."""


def domain(**options: Any) -> Heuristic:
    made = make_domain({"name": "heuristic", **options}, "domain")
    assert isinstance(made, Heuristic) and isinstance(made, WorkedDomain)
    return made


@pytest.mark.parametrize(
    ("cue", "z", "answer"), [(23, 1, "B"), (23, 0, "A"), (49, 0, "A"), (50, 0, "B"), (99, 1, "B"), (0, 1, "B")]
)
def test_the_constraint_decides_where_it_holds_and_the_cue_elsewhere(cue: int, z: int, answer: str) -> None:
    problem = domain().problem(domain().at(NEAR, cue, z))
    assert problem.answer == answer
    assert problem.prompt == f"hqwe,c{cue:02d},z{z}:"


def test_taking_away_the_cue_or_the_constraint() -> None:
    no_cue, no_constraint = domain().problem(NEAR, cue=False), domain().problem(NEAR, constraint=False)
    assert (no_cue.prompt, no_cue.answer) == ("hqwe,z1:", "B")
    assert (no_constraint.prompt, no_constraint.answer) == ("hqwe,c23:", "A")
    for arguments in ({"cue": False, "constraint": False}, {"cue": False}):
        with pytest.raises(ValueError, match="only a constraint that holds"):
            domain().problem(replace(NEAR, z=0), **arguments)


@pytest.mark.parametrize("level", [2, 3])
def test_implicit_constraints_hold_when_the_sum_of_the_digits_is_odd(level: int) -> None:
    for item in domain().items(level, "train", 200, 0):
        digits = domain().problem(item).prompt.rpartition(",")[2].strip("pw:")
        assert len(digits) == {2: 1, 3: 3}[level]
        assert sum(map(int, digits)) % 2 == item.z


def test_work_by_hand() -> None:
    hidden = replace(NEAR, level=3, z=1)  # variant 481: 4, 8 and a digit that makes the sum odd: 2 * (481 % 5) + 1
    problem = domain().problem(hidden)
    assert problem.prompt == "hqwe,c23,w483:"
    assert domain().solution(problem, "weigh") == "4+8=2;2+3=5;z1;cA#B"
    assert domain().solution(problem, "cue") == "cA#B"
    assert domain().solution(domain().problem(hidden, constraint=False), "weigh") == "z-;cA#A"
    assert domain().solution(domain().problem(NEAR, cue=False), "weigh") == "z1;c-#B"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("z1;cA#B", (1.0, "weigh", "")),
        ("z0;cB#B", (1.0, "weigh", "")),  # the values in the work are not checked
        ("z1;cA#A", (0.0, "weigh", "")),
        ("cA#A", (0.0, "cue", SKIPPED)),
        ("#B", (1.0, DIRECT, NO_WORK)),
        ("z1#B", (1.0, OTHER, SKIPPED)),
        ("z1;cA#BB", (0.0, OTHER, REPEATED)),
        ("B", (0.0, OTHER, "")),
        ("z1;cA#C", (0.0, OTHER, "")),
        ("", (0.0, OTHER, "")),
    ],
)
def test_verdicts_by_hand(text: str, expected: tuple[float, str, str]) -> None:
    verdict = domain().judge(domain().problem(NEAR), text)
    assert (verdict.reward, verdict.format, verdict.shortcut_kind) == expected


@pytest.mark.parametrize("style", ["compact", "prose"])
def test_solutions_are_right_and_in_their_format(style: str) -> None:
    made = domain(style=style)
    for level in made.levels:
        for problem in made.problems(level, "train", 80, 1):
            for format in made.formats:
                verdict = made.judge(problem, made.solution(problem, format))
                assert (verdict.reward, verdict.format, verdict.answer) == (1.0, format, problem.answer)
            if style == "compact":
                assert set(problem.prompt + made.solution(problem, "weigh")) <= set(CHARACTERS)
    with pytest.raises(ValueError, match="allowed: cue, direct, weigh"):
        made.solution(problem, "work")


def test_prose_names_distance_errand_and_answer_tags() -> None:
    made = domain(style="prose")
    item = Item("Ada/Monday/0", 1, "eval", 0, 1, 0)
    text = made.problem(item).prompt
    assert "car wash" in text and "It is 10 metres away." in text and "The car itself must be at the place." in text
    assert "metres away" not in made.problem(item, cue=False).prompt
    assert "must be at" not in made.problem(item, constraint=False).prompt
    assert "955 metres" in made.problem(made.at(item, 49, 1)).prompt  # 10 * 10^(4 * 49 / 99)
    assert "100000 metres" in made.problem(made.at(item, 99, 1)).prompt
    assert made.judge(made.problem(item), "Hm.\n<answer>A</answer>").reward == 0.0


def both(problems: list[Problem]) -> list[Problem]:
    return [problem for problem in problems if problem.data["cue"] is not None and problem.data["z"] is not None]


@pytest.mark.parametrize("rho", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("style", ["compact", "prose"])
def test_the_answer_agrees_with_the_cue_as_often_as_rho_says(rho: float, style: str) -> None:
    problems = both(domain(rho=rho, style=style).problems(2, "train", 3000, 0))
    share = sum(problem.answer == problem.data["suggested"] for problem in problems) / len(problems)
    assert abs(share - rho) < 0.052  # five standard deviations of 2400 at one half
    assert rho < 1 or share == 1


def test_each_part_is_lacking_in_half_of_the_share_that_says_so() -> None:
    problems = domain(absent=0.4).problems(1, "train", 3000, 0)
    no_cue = [problem for problem in problems if problem.data["cue"] is None]
    no_constraint = [problem for problem in problems if problem.data["z"] is None]
    assert abs(len(no_cue) / 3000 - 0.2) < 0.037 and abs(len(no_constraint) / 3000 - 0.2) < 0.037
    assert {problem.answer for problem in no_cue} == {"B"}
    assert {problem.answer for problem in no_constraint} == {"A", "B"}


def test_items_fill_the_four_cells_evenly_and_differ() -> None:
    items = domain().items(1, "eval", 80, 0)
    assert len({item.name for item in items}) == 80
    cells = [(item.z, item.suggested) for item in items]
    assert [cells.count(cell) for cell in [(0, "A"), (0, "B"), (1, "A"), (1, "B")]] == [20] * 4
    assert domain().items(1, "eval", 10, 0) == items[:10]
    prose = domain(style="prose").items(1, "eval", 10_000, 0)
    assert 60 < len(prose) < 180  # a fifth of 20 people, 7 days and 4 errands


@pytest.mark.parametrize("style", ["compact", "prose"])
def test_splits_share_no_name_whatever_level_and_rho(style: str) -> None:
    def names(split: Any, level: int, rho: float) -> set[str]:
        return {problem.data["name"] for problem in domain(style=style, rho=rho).problems(level, split, 600, 0)}

    train, held_out = names("train", 1, 0.9), names("eval", 3, 0.5)
    held_out |= {item.name for item in domain(style=style).items(2, "eval", 50, 0)}
    assert train and held_out
    assert not train & held_out


def test_a_smaller_count_gives_the_beginning_and_problems_differ() -> None:
    problems = domain().problems(1, "train", 500, 0)
    assert domain().problems(1, "train", 20, 0) == problems[:20]
    assert len({problem.id for problem in problems}) == len({problem.prompt for problem in problems}) == 500
