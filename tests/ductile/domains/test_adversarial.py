"""Judges in this process: linear in the length of a completion, whatever it holds."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ductile.domains import make_domain
from ductile.domains.base import Domain
from ductile.domains.tagged import tagged_answer, text_before

DOMAINS = (
    {"name": "chain_sum", "lenient": True},
    {"name": "chain_sum"},
    {"name": "sort_digits", "lenient": True},
    {"name": "base_conversion", "lenient": True},
    {"name": "strings", "operation": "rotate", "lenient": True},
    {"name": "running_sum"},
    {"name": "heuristic"},
)
PIECES = (
    "<answer>", "</answer>", "<answer> ", " ", "\n", "#", "0", "0#", ";", "3+4=7;", "1|", "4,1;", "1;", "8+", ".",
    "<answer>\n</answer", "\ud800", "\x00", "é", "1.0;", "\u2028",
)  # fmt: skip
LENGTH = 200_000


def problem_of(domain: Domain):  # type: ignore[no-untyped-def]
    return domain.problems(list(domain.levels)[-1], "train", 1, 0)[0]


@pytest.mark.parametrize("values", DOMAINS, ids=str)
def test_long_completions_are_judged_in_linear_time(values: dict[str, object]) -> None:
    domain = make_domain(values, "domain")
    problem = problem_of(domain)
    for first in PIECES:
        for second in ("", problem.answer, "</answer>", "#" + problem.answer, "x"):
            text = first * (LENGTH // len(first)) + second
            begun = time.process_time()
            assert domain.judge(problem, text).reward in (0.0, 1.0)
            assert time.process_time() - begun < 1.0, (first, second)  # quadratic: minutes


@pytest.mark.parametrize("values", DOMAINS, ids=str)
@given(st.lists(st.sampled_from(PIECES), max_size=30))
def test_judge_never_raises(values: dict[str, object], pieces: list[str]) -> None:
    domain = make_domain(values, "domain")
    verdict = domain.judge(problem_of(domain), "".join(pieces))
    assert verdict.reward in (0.0, 1.0)


@given(st.lists(st.sampled_from([*PIECES, "7", "\x1c"]), max_size=20).map("".join))
def test_tagged_answers_are_those_of_the_regular_expression(text: str) -> None:
    found = re.findall(r"<answer>\s*(.*?)\s*</answer>", text, re.DOTALL)
    assert tagged_answer(text) == ((found[-1] or None) if found else None)
    assert text_before(text) == text.split("<answer>")[0].strip()
