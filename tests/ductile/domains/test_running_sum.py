"""Running sums over several turns, by hand: what is asked, said, right, and where a wrong history leads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from ductile.domains import WorkedDomain, make_domain
from ductile.domains.running_sum import WORDS, Instance, RunningSum
from ductile.models.tokenizer import CHARACTERS
from ductile.problem import DIRECT, NO_WORK, OTHER, REPEATED, SKIPPED
from ductile.settings import SettingsError

BY_HAND = Instance("i", 3, {"a": 3, "b": 7, "c": 1}, (("a", "b"), ("b", "c"), ("c", "c")))


def domain(**options: Any) -> RunningSum:
    made = make_domain({"name": "running_sum", "keys": 2, "entries": 3, **options}, "domain")
    assert isinstance(made, RunningSum) and isinstance(made, WorkedDomain)
    return made


def test_running_sums_by_hand_modulo_ten_and_exact() -> None:
    # 3+7 = 10, +7+1 = 18, +1+1 = 20
    assert [domain().truth(BY_HAND, turn) for turn in (-1, 0, 1, 2)] == [0, 0, 8, 0]
    assert [domain(modulus=0).truth(BY_HAND, turn) for turn in (-1, 0, 1, 2)] == [0, 10, 18, 20]
    assert domain().increment(BY_HAND, 1) == 8
    assert (domain().after(BY_HAND, 1, 5), domain(modulus=0).after(BY_HAND, 1, 5)) == (3, 13)


def test_turns_joined_as_plain_text() -> None:
    asked = domain().turn(BY_HAND, 1, ["3+7#4"])
    assert asked.transcript == "ka3b7c1|ab:3+7#4/bc:"
    assert asked.history == (("ka3b7c1|ab:", "3+7#4"),)
    assert asked.answer == "8"  # the truth does not move with the history
    assert domain(scratch=False).turn(BY_HAND, 0, []).transcript == "ka3b7c1|ab="


def test_a_window_keeps_the_last_turns_and_the_dictionary() -> None:
    assert domain().turn(BY_HAND, 2, ["x#1", "y#2"], window=1).transcript == "ka3b7c1|bc:y#2/cc:"
    assert domain().turn(BY_HAND, 2, ["x#1", "y#2"], window=2) == domain().turn(BY_HAND, 2, ["x#1", "y#2"])
    prose = domain(style="prose").turn(BY_HAND, 2, ["x", "y"], window=1)
    assert "a = 3\n" in prose.transcript and "Earlier turns are left out." in prose.transcript
    assert "left out" not in domain(style="prose").turn(BY_HAND, 2, ["x", "y"]).transcript


def test_history_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="1 answers for the 2 turns"):
        domain().turn(BY_HAND, 2, ["#1"])


def test_written_answers_go_from_the_value_before_to_what_is_stated() -> None:
    assert domain().write(BY_HAND, 1, 0, 8) == "0+b7=7;7+c1=8#8"
    assert domain().write(BY_HAND, 1, 4, 9) == "4+b7=1;1+c1=9#9"
    assert domain(scratch=False).write(BY_HAND, 1, 4, 9) == "#9"
    assert (
        domain(style="prose", modulus=0).write(BY_HAND, 0, 0, 10)
        == "0 + 3 (a) = 3\n3 + 7 (b) = 10\n<answer>10</answer>"
    )


@pytest.mark.parametrize("options", [{}, {"modulus": 2}, {"modulus": 0}, {"modulus": 0, "style": "prose"}])
def test_injected_values_are_never_the_truth_and_always_the_same(options: Mapping[str, Any]) -> None:
    made = domain(**options)
    for instance in made.instances(6, "eval", 60, 0):
        for turn in range(6):
            wrong = made.wrong(instance, turn, seed=1)
            assert wrong != made.truth(instance, turn)
            assert wrong == made.wrong(instance, turn, seed=1)
            assert 0 < abs(wrong - made.truth(instance, turn)) <= 10


def test_injected_values_fill_the_other_residues() -> None:
    made = domain()
    offsets = [
        (made.wrong(instance, 0, 0) - made.truth(instance, 0)) % 10 for instance in made.instances(1, "eval", 900, 0)
    ]
    assert set(offsets) == set(range(1, 10))
    assert all(50 < offsets.count(offset) < 150 for offset in set(offsets))  # 100 each, five standard deviations


@pytest.mark.parametrize(
    ("text", "value"),
    [("0+a3=3#3", 3), ("#-12", -12), ("#3#4", 4), ("#", None), ("3", None), ("#3a", None), ("", None), ("#٣", None)],
)
def test_stated_sums_of_compact_completions(text: str, value: int | None) -> None:
    assert domain().parse(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("so <answer> -7 </answer>.", -7),
        ("<answer>1</answer><answer>2</answer>", 2),
        ("7", None),
        ("<answer></answer>", None),
    ],
)
def test_stated_sums_of_prose(text: str, value: int | None) -> None:
    assert domain(style="prose").parse(text) == value


@pytest.mark.parametrize(
    ("scratch", "text", "expected"),
    [
        (True, "0+b7=7;7+c1=8#8", (1.0, "work", "")),
        (True, "0+b7=7;7+c1=8#9", (0.0, "work", "")),
        (True, "5+b1=7;0+c0=8#8", (1.0, "work", "")),  # the values in the work are not checked
        (True, "#8", (1.0, DIRECT, NO_WORK)),
        (False, "#8", (1.0, DIRECT, "")),
        (True, "7+c1=8#8", (1.0, OTHER, SKIPPED)),
        (True, "0+c7=7;7+b1=8#8", (1.0, OTHER, SKIPPED)),  # other keys than those asked
        (False, "#8#8", (0.0, OTHER, REPEATED)),
        (True, "8", (0.0, OTHER, "")),
        (True, "", (0.0, OTHER, "")),
    ],
)
def test_verdicts_by_hand(scratch: bool, text: str, expected: tuple[float, str, str]) -> None:
    made = domain(scratch=scratch)
    verdict = made.judge(made.turn(BY_HAND, 1, ["#0"]), text)
    assert (verdict.reward, verdict.format, verdict.shortcut_kind) == expected


def test_a_number_of_equal_digits_is_one_answer() -> None:
    made = domain(modulus=0, scratch=False)
    instance = Instance("i", 1, {"a": 4, "b": 7}, (("a", "b"),))
    verdict = made.judge(made.turn(instance, 0, []), "#11")
    assert (verdict.reward, verdict.format, verdict.shortcut_kind, verdict.answer) == (1.0, DIRECT, "", "11")


OPTIONS: list[dict[str, Any]] = [
    {},
    {"scratch": False},
    {"keys": 1, "modulus": 0, "low": -99, "high": 99},
    {"style": "prose", "modulus": 0, "low": -99, "high": 99, "entries": 100},
    {"style": "prose", "scratch": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_solutions_are_right_and_in_their_format(options: dict[str, Any]) -> None:
    made = domain(**options)
    for level in (1, 2, 5):
        problems = made.problems(level, "train", 30, 3)
        assert len({problem.id for problem in problems}) == len({problem.transcript for problem in problems}) == 30
        for problem in problems:
            assert len(problem.history) == level - 1
            for format in made.formats:
                verdict = made.judge(problem, made.solution(problem, format))
                assert (verdict.reward, verdict.format, verdict.answer) == (1.0, format, problem.answer)
    with pytest.raises(ValueError, match="allowed: direct, work"):
        made.solution(problem, "trace")


def test_the_answer_is_the_sum_of_all_turns_read_from_the_text() -> None:
    for problem in domain(scratch=False).problems(4, "eval", 50, 0):
        dictionary, _, turns = problem.transcript.removeprefix("k").partition("|")
        value = {dictionary[place]: int(dictionary[place + 1]) for place in range(0, len(dictionary), 2)}
        keys = "".join(turn.partition("=")[0] for turn in turns.split("/"))
        assert len(keys) == 8
        assert int(problem.answer) == sum(value[key] for key in keys) % 10


def test_eight_turns_of_two_keys_stay_short_and_in_the_character_vocabulary() -> None:
    made = domain(entries=6)
    for problem in made.problems(8, "train", 50, 0):
        text = problem.transcript + made.solution(problem, "work")
        assert len(text) < 200
        assert set(text) <= set(CHARACTERS)


def test_splits_share_no_dictionary_whatever_turns_keys_and_work() -> None:
    def dictionaries(split: Any, level: int, **options: Any) -> set[str]:
        drawn = domain(**options).problems(level, split, 2000, 0)
        return {problem.transcript.partition("|")[0] for problem in drawn}

    train, held_out = dictionaries("train", 3), dictionaries("eval", 2, keys=1, scratch=False)
    assert len(train) > 700 and len(held_out) > 150  # of 1000 dictionaries, four fifths and one
    assert not train & held_out


def test_a_smaller_count_gives_the_beginning_and_an_exhausted_split_fewer() -> None:
    assert domain().problems(3, "eval", 20, 1) == domain().problems(3, "eval", 90, 1)[:20]
    assert domain().problems(3, "eval", 20, 1) != domain().problems(3, "eval", 20, 2)
    few = {split: domain(keys=1, entries=2).problems(2, split, 10_000, 0) for split in ("train", "eval")}
    assert sum(map(len, few.values())) == 100 * 2**2  # pairs of values, two keys at each of two turns


def test_scratch_and_direct_ask_the_same_instances() -> None:
    pair = [domain(scratch=scratch).instances(4, "eval", 10, 0) for scratch in (True, False)]
    assert [(i.values, i.turns) for i in pair[0]] == [(i.values, i.turns) for i in pair[1]]


def test_prose_words_are_a_hundred_of_five_letters() -> None:
    assert len(set(WORDS)) == 100
    assert {len(word) for word in WORDS} == {5}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"low": 9, "high": 0}, "domain.low: 9 must be below high (0) (did you swap them?)"),
        ({"entries": 27}, "domain.entries: 27 is out of range; allowed: at most 26 in this style"),
        ({"modulus": 1}, "domain.modulus: 1 leaves one sum only; allowed: 0 for exact integers, or at least 2"),
        ({"style": "poem"}, "domain.style: unknown value 'poem'; allowed: compact, prose (did you mean prose?)"),
    ],
)
def test_one_line_names_the_mistake(options: dict[str, Any], line: str) -> None:
    with pytest.raises(SettingsError) as caught:
        domain(**options)
    assert caught.value.problems == (line,)
