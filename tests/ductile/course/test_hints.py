"""A hint is the beginning of a worked solution, in whole steps, and never gives the answer away."""

from __future__ import annotations

from typing import Any

import pytest

from ductile.config import DataSettings
from ductile.course.hints import first_share, hint_share, hinted, work
from ductile.domains import make_domain
from ductile.domains.base import WorkedDomain

WORKED: dict[str, dict[str, Any]] = {
    "sum": {"name": "chain_sum"},
    "all sums": {"name": "chain_sum", "guess_space": 0},
    "sort": {"name": "sort_digits"},
    "reverse": {"name": "strings", "operation": "reverse"},
    "rotate": {"name": "strings", "operation": "rotate"},
    "base": {"name": "base_conversion"},
    "running": {"name": "running_sum", "keys": 3},
    "running prose": {"name": "running_sum", "keys": 3, "style": "prose"},
    "errand": {"name": "heuristic"},
    "errand prose": {"name": "heuristic", "style": "prose"},
}


@pytest.mark.parametrize(
    ("work", "share", "hint"),
    [
        ("4;48;248;2478", 0.0, ""),
        ("4;48;248;2478", 0.24, ""),
        ("4;48;248;2478", 0.25, "4;"),
        ("4;48;248;2478", 0.74, "4;48;"),
        ("4;48;248;2478", 1.0, "4;48;248;"),  # the last step is the answer
        ("27|48", 1.0, "27|"),
        ("1 + 1 = 2\n2 + 2 = 4\n", 0.5, "1 + 1 = 2\n"),
        ("1 + 1 = 2\n2 + 2 = 4\n", 1.0, "1 + 1 = 2\n"),
        ("72063", 0.6, "720"),  # nothing separates its steps; 3 of 5, though 0.6 * 5 is not exactly 3
        ("72063", 1.0, "7206"),
        ("7", 1.0, ""),
        ("", 1.0, ""),
    ],
)
def test_share_of_the_work_in_whole_steps(work: str, share: float, hint: str) -> None:
    assert first_share(work, share) == hint


@pytest.mark.parametrize("name", WORKED)
def test_work_is_the_first_worked_solution_without_its_answer(name: str) -> None:
    domain = make_domain(WORKED[name], "domain")
    assert isinstance(domain, WorkedDomain)
    for problem in domain.problems(domain.levels[1], "train", 20, 0):
        assert work(domain, problem) + domain.solution(problem, "direct") == domain.solution(problem, domain.formats[0])


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", WORKED)
def test_hint_leads_to_the_answer_and_never_holds_its_mark(name: str, share: float) -> None:
    domain = make_domain(WORKED[name], "domain")
    assert isinstance(domain, WorkedDomain)
    for problem in domain.problems(domain.levels[-1] if "errand" in name else 4, "train", 20, 0):
        asked = hinted(problem, domain, share)
        assert "#" not in asked.hint and "nswer" not in asked.hint
        solution = domain.solution(problem, domain.formats[0])
        assert solution.startswith(asked.hint) and domain.judge(asked, solution).reward == 1.0
        assert domain.judge(asked, asked.hint).reward == 0.0  # the hint alone answers nothing
        assert asked.transcript == problem.transcript + asked.hint
        assert (asked.hint == "") == (share == 0.0)


def test_domain_without_work_gives_no_hints() -> None:
    class Bare:
        key = "bare"

    with pytest.raises(ValueError, match="bare has no worked solutions"):
        hinted(None, Bare(), 0.5)  # type: ignore[arg-type]


def test_hints_fall_linearly_over_their_steps_or_the_phase() -> None:
    data = DataSettings(hint=0.5, hint_end=0.25, hint_steps=4)
    assert [hint_share(data, step, 99) for step in (0, 1, 2, 4, 50)] == [0.5, 0.4375, 0.375, 0.25, 0.25]
    whole = DataSettings(hint=0.5)
    assert [hint_share(whole, step, 10) for step in (0, 5)] == [0.5, 0.25]
    assert hint_share(DataSettings(), 0, 10) == 0.0
