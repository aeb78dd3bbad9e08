"""The rollout buffer: what is kept, for how long, and that a snapshot is exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ductile.difficulty.buffer import RolloutBuffer
from ductile.problem import Completion, Group, JudgedGroup, Problem, Verdict


def judged(
    id: str, prompt: list[int], *answers: tuple[list[int], float | None], version: int = 0, **asked: object
) -> JudgedGroup:
    """Each answer's tokens have the log-probabilities -1/10 of their ids."""
    completions = tuple(
        Completion(id, i, np.array(tokens, np.int32), -np.array(tokens, np.float32) / 10, "text", True, version)
        for i, (tokens, _) in enumerate(answers)
    )
    problem = Problem(id, "none", 1, "", "", **asked)  # type: ignore[arg-type]
    verdicts = tuple(Verdict(reward, "direct") for _, reward in answers)
    return JudgedGroup(Group(problem, np.array(prompt, np.int32), completions), verdicts)


def content(buffer: RolloutBuffer, *ids: str) -> list[tuple[str, list[int], list[list[int]], list[float], list[int]]]:
    return [
        (
            each.group.problem.id,
            each.group.prompt_tokens.tolist(),
            [completion.tokens.tolist() for completion in each.group.completions],
            each.rewards.tolist(),
            [completion.policy_version for completion in each.group.completions],
        )
        for each in buffer.groups(ids)
    ]


def test_completions_come_back_with_what_they_were_sampled_at() -> None:
    buffer = RolloutBuffer(4)
    buffer.add([judged("a", [1, 2], ([3, 4], 1.0), ([5], 0.0), version=7)])
    assert content(buffer, "a") == [("a", [1, 2], [[3, 4], [5]], [1.0, 0.0], [7, 7])]
    assert buffer.groups(["a"])[0].behaviour == pytest.approx([-0.7, -0.5])


def test_oldest_leave_first_and_each_problem_has_room_of_its_own() -> None:
    buffer = RolloutBuffer(3)
    buffer.add([judged("a", [1], ([1], 0.0), ([2], 0.0)), judged("b", [9], ([8], 1.0))])
    buffer.add([judged("a", [1], ([3], 1.0), ([4], 1.0), version=1)])
    assert content(buffer, "a", "b") == [
        ("a", [1], [[2], [3], [4]], [0.0, 1.0, 1.0], [0, 1, 1]),
        ("b", [9], [[8]], [1.0], [0]),
    ]


def test_unjudged_completions_are_not_kept_and_partial_credit_is_a_success_above_a_half() -> None:
    buffer = RolloutBuffer(8)
    buffer.add([judged("a", [1], ([1], None), ([2], 0.75), ([3], 0.25)), judged("b", [1], ([1], None))])
    assert content(buffer, "a") == [("a", [1], [[2], [3]], [1.0, 0.0], [0, 0])]
    assert buffer.groups(["b"]) == []


def test_hinted_answers_are_not_kept_but_those_in_a_context_are_with_its_prompt() -> None:
    buffer = RolloutBuffer(8)
    buffer.add(
        [
            judged("a", [1, 2], ([3], 1.0), hint="the answer begins"),
            judged("a", [7, 1], ([4], 1.0), context="c1", instruction="think"),
            judged("a", [99, 1], ([5], 0.0), prefix=(99,)),
            judged("a", [1], ([6], 0.0)),
            judged("a", [1], ([7], 0.0)),
        ]
    )
    assert content(buffer, "a") == [
        ("a", [7, 1], [[4]], [1.0], [0]),
        ("a", [99, 1], [[5]], [0.0], [0]),
        ("a", [1], [[6], [7]], [0.0, 0.0], [0, 0]),
    ]


def test_problems_of_which_nothing_is_kept_are_passed_over() -> None:
    assert RolloutBuffer(2).groups(["nobody"]) == []


def test_snapshot_goes_through_a_file_and_on_exactly(tmp_path: Path) -> None:
    buffer, again = RolloutBuffer(3), RolloutBuffer(3)
    buffer.add([judged("é", [1, 2], ([3, 4, 5], 1.0), ([6], 0.0)), judged("b", [8], ([9], 1.0), version=2)])
    buffer.add([judged("é", [7], ([1], 1.0), ([2, 2], 0.0), version=3)])
    save_file(dict(buffer.snapshot()), tmp_path / "buffer.safetensors")
    again.restore(load_file(tmp_path / "buffer.safetensors"))
    for each in (buffer, again):
        each.add([judged("é", [7], ([5], 0.0), version=4)])
    assert content(again, "b", "é") == content(buffer, "b", "é")
    assert [k.behaviour.tolist() for k in again.groups(["é"])] == [k.behaviour.tolist() for k in buffer.groups(["é"])]
    first, second = buffer.snapshot(), again.snapshot()
    assert first.keys() == second.keys()
    assert len(first["prompts"]) == 3  # of 4 completions: two answer [7], and what was kept of [1, 2] and [8]
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array, err_msg=name)
        assert second[name].dtype == array.dtype


def test_snapshot_of_nothing_restores() -> None:
    buffer = RolloutBuffer(3)
    buffer.restore(RolloutBuffer(3).snapshot())
    assert all(len(array) == 0 for name, array in buffer.snapshot().items() if name != "ids")
