"""The judge finds the domain that asked, gives each completion its verdict, and makes each domain once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ductile.judge import LocalJudge
from ductile.problem import Completion, Group, Problem, Verdict
from ductile.settings import SettingsError


def group(problem: Problem, *texts: str) -> Group:
    nothing = np.zeros(0, np.int32)
    completions = [
        Completion(problem.id, i, nothing, np.zeros(0, np.float32), text, True, 0) for i, text in enumerate(texts)
    ]
    return Group(problem, nothing, tuple(completions))


def test_each_group_is_judged_by_the_domain_that_asked() -> None:
    judge = LocalJudge()
    sums, words = judge.domain({"name": "chain_sum"}), judge.domain({"name": "strings", "operation": "reverse"})
    groups = [
        group(problem, domain.solution(problem, "direct"), "no answer")  # type: ignore[attr-defined]
        for domain in (words, sums)
        for problem in domain.problems(domain.levels[2], "train", 2, seed=0)
    ]
    judged = judge.judge(groups)
    assert [each.group for each in judged] == groups
    assert [each.rewards.tolist() for each in judged] == [[1.0, 0.0]] * 4


def test_hint_is_judged_with_the_completion_in_reward_format_and_shortcut() -> None:
    judge = LocalJudge()
    domain = judge.domain({"name": "strings", "operation": "reverse"})
    problem = domain.problems(3, "train", 1, seed=0)[0]
    steps = domain.solution(problem, "peel").partition("#")[0].split(";")  # type: ignore[attr-defined]
    asked = replace(problem, hint=f"{steps[0]};{steps[1]};")
    rest = f"{steps[2]}#{problem.answer}"
    given, without, skipped = judge.judge(
        [group(asked, rest), group(problem, rest), group(asked, f"#{problem.answer}")]
    )
    assert (given.verdicts[0].reward, given.verdicts[0].format, given.verdicts[0].shortcut) == (1.0, "peel", False)
    assert (without.verdicts[0].format, without.verdicts[0].shortcut_kind) == ("other", "skipped")
    assert skipped.verdicts[0].shortcut_kind == "skipped"  # some work is there, but the hint does not make it whole


def test_domain_of_the_same_options_is_made_once() -> None:
    judge = LocalJudge()
    assert judge.domain({"name": "chain_sum"}) is judge.domain({"name": "chain_sum", "modulus": 10})


def test_wrong_domain_is_named_by_its_setting() -> None:
    with pytest.raises(SettingsError, match=r"phase\.hard\.domain\.name: unknown domain 'chain'"):
        LocalJudge().domain({"name": "chain"}, "phase.hard.domain")


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), -float("inf")])
def test_reward_that_is_no_number_was_not_judged(reward: float, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = LocalJudge()
    domain = judge.domain({"name": "chain_sum"})
    [problem] = domain.problems(4, "train", 1, seed=0)
    monkeypatch.setattr(type(domain), "judge", lambda self, problem, text: Verdict(reward, "direct", answer="7"))
    [judged] = judge.judge([group(problem, "7", "8")])
    assert [(verdict.reward, verdict.answer) for verdict in judged.verdicts] == [(None, "7")] * 2
    assert all(str(reward) in verdict.note for verdict in judged.verdicts)
