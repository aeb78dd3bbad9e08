"""Drawing problems: the same everywhere, different from each other, and never in both splits."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from ductile.domains import make_domain
from ductile.problem import Problem, Split

NAMES = [
    {"name": "chain_sum"},
    {"name": "sort_digits"},
    {"name": "strings"},
    {"name": "strings", "operation": "rotate"},
    {"name": "base_conversion"},
]


def draw(values: dict[str, Any], level: int, split: Split, count: int = 400, seed: int = 0) -> list[Problem]:
    return make_domain(values, "domain").problems(level, split, count, seed)


def contents(problems: list[Problem]) -> set[str]:
    return {problem.prompt[0] + problem.data["arguments"] for problem in problems}


@pytest.mark.parametrize("values", NAMES, ids=str)
def test_training_and_evaluation_never_overlap_whatever_the_seed_and_the_variant(values: dict[str, Any]) -> None:
    variant = {**values, "guess_space": 4 if values["name"] == "base_conversion" else 100, "label_noise": 0.3}
    for level in (4, 6):
        train = contents(draw(values, level, "train", seed=1)) | contents(draw(values, level, "train", seed=2))
        held_out = contents(draw(values, level, "eval", seed=1)) | contents(draw(variant, level, "eval", seed=3))
        assert train
        assert held_out
        assert not train & held_out


def test_small_spaces_are_asked_completely_and_split_without_a_rest() -> None:
    train = contents(draw({"name": "chain_sum"}, 2, "train", 1000))
    held_out = contents(draw({"name": "chain_sum"}, 2, "eval", 1000))
    assert train | held_out == {f"s{number:02d}" for number in range(100)}
    assert len(train) + len(held_out) == 100


def test_about_one_content_in_five_is_for_evaluation() -> None:
    held_out = len(draw({"name": "chain_sum"}, 4, "eval", 10_000))
    assert held_out + len(draw({"name": "chain_sum"}, 4, "train", 10_000)) == 10_000
    assert 1800 < held_out < 2200  # five standard deviations around 2000


@pytest.mark.parametrize("values", NAMES, ids=str)
def test_problems_and_ids_are_different_and_as_many_as_asked(values: dict[str, Any]) -> None:
    problems = draw(values, 8, "train", 90)
    assert len({problem.id for problem in problems}) == len({problem.prompt for problem in problems}) == 90
    assert {problem.domain for problem in problems} == {make_domain(values, "domain").key}
    assert {problem.level for problem in problems} == {8}


def test_a_smaller_count_gives_the_beginning_and_another_seed_another_order() -> None:
    assert draw({"name": "strings"}, 5, "train", 30) == draw({"name": "strings"}, 5, "train", 3000)[:30]
    assert draw({"name": "strings"}, 5, "train", 30) != draw({"name": "strings"}, 5, "train", 30, seed=1)
    assert draw({"name": "strings"}, 5, "train", 0) == []


def test_another_process_draws_the_same_problems() -> None:
    asked = [({"name": "chain_sum", "label_noise": 0.3}, 3), ({"name": "strings", "operation": "rotate"}, 7)]
    program = (
        "import dataclasses, json, sys\n"
        "from ductile.domains import make_domain\n"
        "drawn = [make_domain(v, 'x').problems(level, 'eval', 20, 5) for v, level in json.loads(sys.argv[1])]\n"
        "print(json.dumps([[dataclasses.asdict(p) for p in ps] for ps in drawn]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(asked)],
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )
    here = [draw(values, level, "eval", 20, seed=5) for values, level in asked]
    assert [
        [Problem(**{**fields, "history": (), "prefix": ()}) for fields in problems]
        for problems in json.loads(done.stdout)
    ] == here


def test_an_id_names_domain_options_level_split_and_prompt() -> None:
    problem = draw({"name": "chain_sum", "modulus": 7, "guess_space": 7, "lenient": True}, 3, "eval", 1)[0]
    assert problem.id == f"chain_sum[guess_space=7,lenient=True,modulus=7]/L3/eval/{problem.prompt}"


def test_the_key_names_every_option_and_no_order() -> None:
    one = make_domain({"name": "chain_sum", "modulus": 5, "guess_space": 5}, "domain")
    two = make_domain({"guess_space": 5, "modulus": 5, "name": "chain_sum", "lenient": False}, "domain")
    assert one.key == two.key == "chain_sum(guess_space=5, label_noise=0.0, lenient=false, modulus=5)"


@pytest.mark.parametrize("noise", [0.0, 0.25, 1.0])
def test_label_noise_spoils_its_share_of_the_answers(noise: float) -> None:
    problems = draw({"name": "chain_sum", "guess_space": 1000, "label_noise": noise}, 6, "train", 4000)
    wrong = [problem.answer != problem.data["result"][-3:] for problem in problems]
    assert wrong == [problem.data["noisy"] for problem in problems]
    assert abs(sum(wrong) / 4000 - noise) < 0.035  # five standard deviations at 0.25
    assert all(len(problem.answer) == 3 and problem.answer.isdecimal() for problem in problems)


def test_label_noise_belongs_to_the_problem_not_to_the_draw() -> None:
    values = {"name": "base_conversion", "label_noise": 0.5}
    first = {problem.prompt: problem.answer for problem in draw(values, 9, "train", 100, seed=0)}
    again = {problem.prompt: problem.answer for problem in draw(values, 9, "train", 200, seed=1)}
    shared = first.keys() & again.keys()
    assert len(shared) > 20
    assert all(first[prompt] == again[prompt] for prompt in shared)


def test_noisy_answers_of_binary_numbers_stay_binary() -> None:
    problems = draw({"name": "base_conversion", "label_noise": 1.0}, 6, "train", 100)
    assert all(set(problem.answer) <= {"0", "1"} and len(problem.answer) == 6 for problem in problems)
    assert all(f"{int(problem.prompt[1:-3]):b}" != problem.answer for problem in problems)


def test_a_level_that_the_domain_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="41 is not a level of strings"):
        draw({"name": "strings"}, 41, "train")
