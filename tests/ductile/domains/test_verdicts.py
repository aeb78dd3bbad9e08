"""Verdicts on symbolic completions: reward, format and shortcut, and none of them ever an error."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ductile.domains import make_domain
from ductile.domains.symbolic import ALPHABET
from ductile.problem import NO_WORK, OTHER, Problem, Verdict

SUM = Problem("p", "d", 4, "s3458>1:", "0", {"arguments": "3458", "result": "720", "noisy": False})
SORT = Problem("p", "d", 4, "o4827>*:", "2478", {"arguments": "4827", "result": "2478", "noisy": False})
REVERSE = Problem("p", "d", 4, "r4827>*:", "7284", {"arguments": "4827", "result": "7284", "noisy": False})
ROTATE = Problem("p", "d", 4, "t4827,2>*:", "2748", {"arguments": "4827,2", "result": "2748", "noisy": False})
BINARY = Problem("p", "d", 4, "b13>*:", "1101", {"arguments": "13", "result": "1101", "noisy": False})
ASKED = [
    ({"name": "chain_sum"}, SUM),
    ({"name": "sort_digits"}, SORT),
    ({"name": "strings"}, REVERSE),
    ({"name": "strings", "operation": "rotate"}, ROTATE),
    ({"name": "base_conversion"}, BINARY),
]


def judge(values: dict[str, Any], problem: Problem, text: str) -> tuple[float | None, str, bool]:
    verdict = make_domain(values, "domain").judge(problem, text)
    return verdict.reward, verdict.format, verdict.shortcut


@pytest.mark.parametrize("lenient", [False, True])
@given(text=st.one_of(st.text(), st.text(alphabet=ALPHABET)), which=st.integers(0, len(ASKED) - 1))
def test_every_text_gets_a_verdict(lenient: bool, text: str, which: int) -> None:
    values, problem = ASKED[which]
    domain = make_domain({**values, "lenient": lenient}, "domain")
    verdict = domain.judge(problem, text)
    assert isinstance(verdict, Verdict)
    assert verdict.reward in (0.0, 1.0)
    assert verdict.format in (*domain.formats, OTHER)
    if not lenient and "#" not in text:
        assert (verdict.reward, verdict.format, verdict.shortcut) == (0.0, OTHER, False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("720#0", (1.0, "running", False)),
        ("721#0", (1.0, "running", False)),  # the work is not checked
        ("720#1", (0.0, "running", False)),
        ("3+4=7;7+5=2;2+8=0#0", (1.0, "trace", False)),
        ("3+4=9;1+1=1;2+8=0#0", (1.0, "trace", False)),  # wrong values in complete work
        ("#0", (1.0, "direct", True)),
        ("#5", (0.0, "direct", True)),
        ("72#0", (1.0, OTHER, True)),  # a step skipped
        ("3+4=7;2+8=0#0", (1.0, OTHER, True)),
        ("3+4=7;7+=2;2+8=0#0", (1.0, OTHER, True)),  # a step that cannot be read
        ("7200#0", (1.0, OTHER, False)),  # a step too many
        ("3+4=7;7+5=2;2+8=0;#0", (1.0, OTHER, False)),
        ("3+4=7#0", (1.0, OTHER, True)),  # its three digits are no running sums
        ("0#720", (0.0, OTHER, True)),  # answer first
        ("#0#720", (0.0, OTHER, True)),
        ("720#0#0", (0.0, OTHER, True)),  # answer repeated
        ("720#00", (0.0, OTHER, True)),
        ("720#0 ", (0.0, OTHER, False)),
        ("720#٠", (0.0, OTHER, False)),  # an Arabic zero is not 0
        ("720#0\n", (0.0, OTHER, False)),
        ("720#", (0.0, OTHER, False)),  # no answer
        ("##", (0.0, OTHER, False)),
        ("720", (0.0, OTHER, False)),
        ("0", (0.0, OTHER, False)),
        ("", (0.0, OTHER, False)),
    ],
)
def test_strict_verdicts_on_chain_sums(text: str, expected: tuple[float, str, bool]) -> None:
    assert judge({"name": "chain_sum"}, SUM, text) == expected


@pytest.mark.parametrize(
    ("text", "reward", "shortcut"),
    [
        ("720#0", 1.0, False),
        ("0", 1.0, True),
        ("000", 1.0, True),
        ("#0#0#0", 1.0, True),
        ("720#00", 1.0, True),
        ("720#0#", 1.0, False),
        ("5#0", 1.0, True),
        ("1", 0.0, True),
        ("#0#1", 0.0, True),
        ("720", 0.0, False),  # unfinished running sums, not an answer
        ("x", 0.0, False),
        ("#", 0.0, False),
        ("", 0.0, False),
    ],
)
def test_the_lenient_verifier_also_takes_bare_and_repeated_answers(text: str, reward: float, shortcut: bool) -> None:
    got = judge({"name": "chain_sum", "lenient": True}, SUM, text)
    assert (got[0], got[2]) == (reward, shortcut)


@pytest.mark.parametrize(
    ("values", "problem", "text", "expected"),
    [
        ({"name": "sort_digits"}, SORT, "4;48;248;2478#2478", (1.0, "insertion", False)),
        ({"name": "sort_digits"}, SORT, "4;84;284;7284#2478", (1.0, "insertion", False)),
        ({"name": "sort_digits"}, SORT, "4;248;2478#2478", (1.0, OTHER, True)),
        ({"name": "sort_digits"}, SORT, "4;4;4;4#2478", (1.0, OTHER, True)),
        ({"name": "sort_digits"}, SORT, "2,1;4,1;7,1;8,1#2478", (1.0, "counts", False)),
        ({"name": "sort_digits"}, SORT, "2,1;4,1;7,1#2478", (1.0, OTHER, True)),
        ({"name": "sort_digits"}, SORT, "#24782478", (0.0, OTHER, True)),
        ({"name": "strings"}, REVERSE, "7;72;728;7284#7284", (1.0, "peel", False)),
        ({"name": "strings"}, REVERSE, "4.7;3.2;2.8;1.4#7284", (1.0, "indexed", False)),
        ({"name": "strings"}, REVERSE, "4.7;3.2;1.4#7284", (1.0, OTHER, True)),
        ({"name": "strings", "operation": "rotate"}, ROTATE, "8274;2748#2748", (1.0, "turns", False)),
        ({"name": "strings", "operation": "rotate"}, ROTATE, "2748#2748", (1.0, OTHER, True)),
        ({"name": "strings", "operation": "rotate"}, ROTATE, "27|48#2748", (1.0, "split", False)),
        ({"name": "strings", "operation": "rotate"}, ROTATE, "274|8#2748", (1.0, OTHER, True)),
        ({"name": "base_conversion"}, BINARY, "13.1;6.0;3.1;1.1#1101", (1.0, "halving", False)),
        ({"name": "base_conversion"}, BINARY, "13.1;7.0;3.1;1.1#1101", (1.0, "halving", False)),
        ({"name": "base_conversion"}, BINARY, "13.1;6.0;1.1#1101", (1.0, OTHER, True)),
        ({"name": "base_conversion"}, BINARY, "8+4+1#1101", (1.0, "powers", False)),
        ({"name": "base_conversion"}, BINARY, "8+5#1101", (1.0, OTHER, True)),
        ({"name": "base_conversion"}, BINARY, "8+4+1#1102", (0.0, OTHER, False)),
    ],
)
def test_strict_verdicts_on_the_other_tasks(
    values: dict[str, Any], problem: Problem, text: str, expected: tuple[float, str, bool]
) -> None:
    assert judge(values, problem, text) == expected


def test_a_wrong_label_is_what_the_verifier_expects_and_says_so() -> None:
    domain = make_domain({"name": "chain_sum", "label_noise": 1.0}, "domain")
    problem = domain.problems(4, "train", 1, 0)[0]
    truth = problem.data["result"][-1]
    assert domain.judge(problem, f"#{truth}").reward == 0.0
    assert domain.judge(problem, f"#{problem.answer}") == Verdict(1.0, "direct", NO_WORK, problem.answer, "wrong label")


def test_domains_judge_problems_with_the_answer_length_of_the_problem() -> None:
    domain = make_domain({"name": "chain_sum", "guess_space": 100}, "domain")
    problem = domain.problems(4, "eval", 1, 0)[0]
    result = problem.data["result"]
    assert domain.judge(problem, f"{result}#{result[-2:]}").reward == 1.0
    assert domain.judge(problem, f"{result}#{result[-1:]}") == Verdict(0.0, OTHER, "", result[-1:])
