"""A learner, its branch and its metrics are the same on every engine and on two ranks as on one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.ductile.engines.processes import written_by

pytestmark = pytest.mark.engines

KINDS = ("torch", "zero0", "zero3")
RANKS = ("alone", "rank-0", "rank-1")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, tiny_folder: str) -> dict[str, Any]:
    """What `learners.py` wrote, by file."""
    return written_by("learners.py", tiny_folder, folder=tmp_path_factory.mktemp("learners"))


@pytest.mark.parametrize("process", RANKS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_engine_and_rank_ends_with_the_weights_of_plain_pytorch_alone(
    answers: dict[str, Any], kind: str, process: str
) -> None:
    found, expected = answers[process]["fp32"][kind], answers["alone"]["fp32"]["torch"]
    assert not np.allclose(expected["weights"], expected["branch"], atol=1e-2)
    assert found["branch_start"] == found["before_branch"]
    assert not np.allclose(expected["before_branch"], expected["carried"], atol=1e-3)
    for name in ("weights", "before_branch", "branch", "carried"):
        assert np.array(found[name]) == pytest.approx(np.array(expected[name]), abs=1e-5), name


@pytest.mark.parametrize("process", RANKS)
@pytest.mark.parametrize("kind", KINDS)
def test_metrics_are_those_of_the_whole_batch(answers: dict[str, Any], kind: str, process: str) -> None:
    found, expected = answers[process]["fp32"][kind]["metrics"], answers["alone"]["fp32"]["torch"]["metrics"]
    assert expected[0]["learner/kl_anchor"] == pytest.approx(0.0, abs=1e-6) and expected[2]["learner/kl_anchor"] > 1e-4
    for step in range(5):
        assert found[step] == pytest.approx(expected[step], rel=1e-4, abs=1e-5), step


@pytest.mark.parametrize("kind", KINDS)
def test_learner_that_two_ranks_saved_is_taken_up_by_one(answers: dict[str, Any], kind: str) -> None:
    found, expected = answers["restored"]["two"][kind], answers["restored"]["alone"][kind]
    assert found["version"] == expected["version"] == 1
    assert found["start"] == answers["rank-0"]["fp32"][kind]["before_branch"]
    assert np.array(found["after"]) == pytest.approx(np.array(expected["after"]), abs=1e-5)


@pytest.mark.parametrize("process", RANKS)
@pytest.mark.parametrize("kind", ["torch", "zero0", "zero1", "zero2", "zero3"])
def test_learner_that_becomes_another_composition_is_that_of_plain_pytorch(
    answers: dict[str, Any], kind: str, process: str
) -> None:
    found, expected = answers[process]["recomposed"][kind], answers["alone"]["recomposed"]["torch"]
    assert found["roles"] == ["base", "expert_1", "expert", "anti_expert"]
    assert found["same"]
    assert not np.allclose(expected["before"], expected["fresh"], atol=1e-3)
    for name in ("before", "fresh", "weights"):
        assert np.array(found[name]) == pytest.approx(np.array(expected[name]), abs=1e-5), name


@pytest.mark.parametrize("process", RANKS)
@pytest.mark.parametrize("kind", ["zero0", "zero2"])
def test_first_step_in_bf16_moves_a_weight_by_the_learning_rate(
    answers: dict[str, Any], kind: str, process: str
) -> None:
    """Adam's first step is the learning rate whatever the gradient; 1 / 64 leaves a bfloat16 a bfloat16."""
    assert answers[process]["bf16"][kind] == pytest.approx([1 / 64] * 16, rel=1e-3)


@pytest.mark.parametrize("process", RANKS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hold", ["reward", "prior_data"])
def test_what_holds_the_policy_is_the_same_on_every_engine_and_rank(
    answers: dict[str, Any], hold: str, kind: str, process: str
) -> None:
    """KL in the reward to an average, with an adapted coefficient, L2 init and EWC; and KL on remembered answers."""
    found, expected = answers[process]["held"][hold][kind], answers["alone"]["held"][hold]["torch"]
    assert np.array(found["penalties"]) == pytest.approx(np.array(expected["penalties"]), rel=1e-4, abs=1e-5)
    assert np.array(found["weights"]) == pytest.approx(np.array(expected["weights"]), abs=1e-5)
    for step in range(4):
        assert found["metrics"][step] == pytest.approx(expected["metrics"][step], rel=1e-4, abs=1e-5), step
    assert expected["metrics"][3]["learner/kl_anchor"] > 1e-4
    assert len(expected["penalties"]) == (24 if hold == "reward" else 0)
