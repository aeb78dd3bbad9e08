"""reasoning-gym's data sets: names, levels, the same problems in every process, and verdicts by their own scorers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ductile.domains import check_levels, gym, gym_library, make_domain
from ductile.domains.timed import LibraryError, NotAnswered
from ductile.problem import Problem
from ductile.settings import SettingsError


def make(dataset: str, **options: Any) -> Any:
    return make_domain({"name": "gym", "dataset": dataset, **options}, "phase.gym.domain")


def mistake(dataset: str) -> str:
    with pytest.raises(SettingsError) as caught:
        make(dataset)
    return str(caught.value)


@pytest.mark.parametrize("dataset", ["leg_counting", "chain_sum", "simple_equations", "acre", "rearc", "knight_swap"])
def test_the_answers_of_a_data_set_pass_and_other_answers_do_not(dataset: str) -> None:
    domain = make(dataset)
    for asked in domain.problems(0, "train", 2, 0):
        assert json.loads(json.dumps(dict(asked.data))) == asked.data
        verdict = domain.judge(asked, f"Some work.\nAnswer: {asked.answer}")
        assert (verdict.reward, verdict.format, verdict.shortcut) == (1.0, "worked", False)
        verdict = domain.judge(asked, "Answer: no idea")
        assert (verdict.reward, verdict.format, verdict.shortcut) == (0.0, "direct", True)


def test_an_answer_of_several_lines_is_read_to_its_end() -> None:
    domain = make("mini_sudoku")
    (asked,) = domain.problems(0, "eval", 1, 0)
    assert asked.answer.count("\n") == 3
    assert domain.judge(asked, f"So:\nAnswer:\n{asked.answer}\n").reward == 1.0


def test_partial_scores_pass_from_the_score_that_is_set() -> None:
    strict, partial = make("rearc"), make("rearc", pass_score=0.05)
    (asked,) = strict.problems(0, "train", 1, 0)
    wrong = "Answer: " + asked.answer.replace(asked.answer[0], "9" if asked.answer[0] != "9" else "8", 1)
    assert strict.judge(asked, wrong).reward == 0.0
    assert partial.judge(asked, wrong).reward == 1.0


@pytest.mark.parametrize("text", ["", "Answer:", "no answer", "answer: 4"])
def test_without_a_stated_answer_the_reward_is_0_and_nothing_is_a_shortcut(text: str) -> None:
    domain = make("leg_counting")
    (asked,) = domain.problems(0, "train", 1, 0)
    verdict = domain.judge(asked, text)
    assert (verdict.reward, verdict.format, verdict.shortcut) == (0.0, "other", False)


@settings(max_examples=50, deadline=None)
@given(text=st.one_of(st.text(), st.text().map("Answer: {}".format)))
def test_every_text_gets_a_verdict(text: str) -> None:
    domain = make("leg_counting", timeout_s=5.0)
    (asked,) = domain.problems(0, "train", 1, 0)
    assert domain.judge(asked, text).reward in (0.0, 1.0, None)


def test_another_version_of_a_problem_is_not_judged() -> None:
    domain = make("leg_counting")
    (asked,) = domain.problems(0, "train", 1, 0)
    other = Problem(asked.id, asked.domain, 0, asked.prompt, asked.answer, {**asked.data, "fingerprint": "0" * 16})
    verdict = domain.judge(other, f"Answer: {asked.answer}")
    assert verdict.reward is None
    assert "makes another problem" in verdict.note


def test_splits_do_not_overlap_and_problems_differ() -> None:
    domain = make("gcd")
    train = [p.prompt for seed in (0, 1) for p in domain.problems(0, "train", 30, seed)]
    held_out = [p.prompt for seed in (0, 1) for p in domain.problems(0, "eval", 30, seed)]
    assert not set(train) & set(held_out)
    assert len(set(train[:30])) == len(set(held_out[:30])) == 30
    assert domain.problems(0, "train", 10, 0) == domain.problems(0, "train", 30, 0)[:10]
    assert domain.problems(0, "train", 10, 0) != domain.problems(0, "train", 10, 1)


def test_another_process_makes_the_same_problems_where_the_generator_reads_the_order_of_a_set() -> None:
    program = (
        "import dataclasses, json\n"
        "from ductile.domains import make_domain\n"
        "problems = make_domain({'name': 'gym', 'dataset': 'ransom_note'}, 'x').problems(1, 'eval', 4, 2)\n"
        "print(json.dumps([dataclasses.asdict(p) for p in problems]))\n"
    )
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        there = [Problem(**{**fields, "history": (), "prefix": ()}) for fields in json.loads(done.stdout)]
        assert there == make("ransom_note").problems(1, "eval", 4, 2)


def test_a_higher_level_raises_what_the_curriculum_raises() -> None:
    domain = make("chain_sum")

    def terms(level: int) -> int:
        return max(
            p.prompt.split("+").__len__() + p.prompt.count(" - ") for p in domain.problems(level, "train", 10, 0)
        )

    assert terms(0) < terms(3) < terms(6)


@pytest.mark.parametrize(
    ("dataset", "levels"),
    [
        ("acre", [0]),  # no curriculum
        ("knight_swap", [0]),  # a curriculum whose settings the data set refuses: its defaults
        ("caesar_cipher", [0, 1]),  # refuses the rest
        ("modulo_grid", [0, 2, 3, 4, 5]),  # refuses one in the middle
    ],
)
def test_the_levels_are_those_that_the_data_set_accepts(dataset: str, levels: list[int]) -> None:
    domain = make(dataset)
    assert list(domain.levels) == levels
    assert len(domain.problems(levels[-1], "train", 1, 0)) == 1
    check_levels(domain, levels, "levels")


def test_a_missing_level_is_refused_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match=r"levels\[1\]: 1 is not a level of gym\(.*allowed: 0, 2, 3, 4, 5$"):
        check_levels(make("modulo_grid"), (0, 1), "levels")


def test_unknown_data_sets_are_named_with_the_nearest() -> None:
    assert mistake("leg_count").startswith(
        "phase.gym.domain.dataset: unknown data set 'leg_count'; allowed: ab, acre, "
    )
    assert mistake("leg_count").endswith("(did you mean leg_counting?)")
    assert "unknown data set 'composite'" in mistake("composite")
    assert "unknown data set ''" in mistake("")


class Broken:
    """A scorer whose data set fails at every other index, or takes too long."""

    def __init__(self, slow: bool) -> None:
        self.slow = slow

    def call(self, library: str, function: str, arguments: dict[str, Any], limit_s: float) -> Any:
        if self.slow:
            raise NotAnswered(f"no result within {limit_s:g} s")
        if arguments["index"] % 2:
            raise LibraryError("IndexError: no such word")
        text = f"{arguments['seed']}/{arguments['index']}"
        return {"question": text, "answer": "1", "fingerprint": text}


def test_problems_that_a_data_set_fails_to_make_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gym, "SCORER", Broken(slow=False))
    problems = gym.Gym(gym.GymOptions("words"), (0,)).problems(0, "train", 40, 0)
    assert len(problems) == 40
    assert all(problem.data["index"] % 2 == 0 for problem in problems)


def test_problems_that_take_too_long_to_make_stop_the_draw_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gym, "SCORER", Broken(slow=True))
    with pytest.raises(RuntimeError, match=r"gym\(dataset=\"words\".*level 0 could be made: no result within 120 s"):
        gym.Gym(gym.GymOptions("words"), (0,)).problems(0, "train", 1, 0)
    with pytest.raises(SettingsError, match=r"dataset: reasoning-gym could not be asked about 'words': no result"):
        make("words")


def test_the_library_gives_every_data_set_but_the_composite_one() -> None:
    names = gym_library.names()
    assert {"leg_counting", "rearc", "sudoku"} <= set(names)
    assert "composite" not in names
    assert gym.ITEMS_PER_SEED == gym_library.SIZE


def test_the_library_scores_an_item_that_it_makes_again() -> None:
    item = gym_library.item("leg_counting", 1, 5, 3)
    source = ("leg_counting", 1, 5, 3, item["fingerprint"])
    assert gym_library.levels("knight_swap") == [0]
    assert gym_library.levels("acre") == [0]
    assert gym_library.score(*source, item["answer"]) == 1.0
    assert gym_library.score(*source, item["answer"] + "1") < 1.0
    assert gym_library.item("boxnet", 0, 0, 0)["answer"] == ""  # many answers are right
    with pytest.raises(ValueError, match="another problem"):
        gym_library.score("leg_counting", 1, 5, 4, item["fingerprint"], item["answer"])
