"""The nouns: rewards of a judged group, and groups that do not fit their verdicts."""

from __future__ import annotations

import numpy as np
import pytest

from ductile.problem import NO_WORK, Completion, Group, JudgedGroup, Problem, Verdict

PROBLEM = Problem("p", "d", 1, "1+1?", "2")


def group(count: int) -> Group:
    nothing = np.zeros(0, np.int32)
    return Group(
        PROBLEM, nothing, tuple(Completion("p", i, nothing, np.zeros(0, np.float32), "", True, 0) for i in range(count))
    )


def test_completion_that_could_not_be_judged_has_no_reward() -> None:
    judged = JudgedGroup(group(3), (Verdict(1.0, "steps"), Verdict(None, "other"), Verdict(0.0, "x", NO_WORK)))
    assert judged.rewards.dtype == np.float64
    np.testing.assert_array_equal(judged.rewards, [1.0, np.nan, 0.0])


def test_verdicts_must_be_as_many_as_completions() -> None:
    with pytest.raises(ValueError, match="p: 1 verdicts for 2 completions"):
        JudgedGroup(group(2), (Verdict(1.0, "steps"),))


def test_problems_of_equal_content_do_not_share_their_data() -> None:
    other = Problem("p", "d", 1, "1+1?", "2")
    assert other == PROBLEM and other.data is not PROBLEM.data
