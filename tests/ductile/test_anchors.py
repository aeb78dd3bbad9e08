"""What holds a learner's policy: anchors, the KL in loss and reward, its coefficient, memory and consolidation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ductile.anchors import sequence_kl
from ductile.config import RunSettings
from ductile.learner import PolicyLearner, branch_learner, make_learner
from ductile.models.compose import ComposedPolicy
from ductile.ports import BranchRequest, PolicyRef, Sampling
from ductile.problem import Group, JudgedGroup, Problem, Verdict
from ductile.rl.batch import Batch
from ductile.sampling.worker import LocalPool
from ductile.settings import build
from ductile.variants import make_variant

TEMPERATURE, LR = 0.7, 1e-2
KL = {"name": "low_drift", "kl": 0.5, "kl_estimator": "k3", "anchor": "base"}
HOLDS: dict[str, dict[str, Any]] = {
    "phase_start": KL | {"anchor": "phase_start"},
    "ema": KL | {"anchor": "ema", "ema_decay": 0.8, "kl_estimator": "k3+"},
    "prior_data": {"name": "low_drift", "kl": 0.5, "anchor": "prior_data"},
    "reward": KL | {"kl_place": "reward", "kl_estimator": "k1"},
    "adaptive": KL | {"kl_target": 0.01, "kl_horizon": 64.0},
    "adaptive_reward": KL | {"kl_place": "reward", "kl_target": 0.01, "kl_horizon": 64.0},
    "l2_init": {"name": "low_drift", "l2_init": 5.0},
    "ewc": {"name": "low_drift", "ewc": 0.5},
    "all": KL | {"anchor": "ema", "kl_target": 0.01, "l2_init": 5.0, "ewc": 0.5},
}
Make = Callable[..., PolicyLearner]


@pytest.fixture
def make(tiny_folder: str) -> Make:
    """(variant, **learner settings) -> learner."""

    def learner(variant: Mapping[str, Any], **learner: Any) -> PolicyLearner:
        settings = build(
            RunSettings,
            {
                "variant": variant,
                "learner": {"engine": "torch", "lr": LR} | learner,
                "rollout": {"max_tokens": 6, "temperature": TEMPERATURE},
                "objective": {"advantage": "no_std"},
            },
        )
        return make_learner(settings, make_variant(settings.variant), Path(tiny_folder), Path(tiny_folder))

    return learner


def judged_of(
    learner: PolicyLearner, stream: str, reward: Callable[[int], float] = lambda s: s % 2
) -> list[JudgedGroup]:
    """Three problems of prompts of different lengths, answered by the learner's policy."""
    pool = LocalPool("float32")
    problems = [Problem(prompt, "none", 1, prompt, "") for prompt in ("s1>1:", "s4567>1:", "?")]
    policy = PolicyRef(learner.composition, pool.publish(learner.weights()), learner.version)
    groups = pool.generate(policy, problems, Sampling(0, stream, 4, 6, TEMPERATURE))
    return [JudgedGroup(g, tuple(Verdict(float(reward(c.sample)), "direct") for c in g.completions)) for g in groups]


def groups_of(learner: PolicyLearner, stream: str) -> list[Group]:
    return [each.group for each in judged_of(learner, stream)]


def batch_of(learner: PolicyLearner, stream: str) -> Batch:
    judged = judged_of(learner, stream)
    return make_variant(learner._settings.variant).batch(judged, learner._settings, learner.penalties(judged))


def flat(weights: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in weights.values()])


def pull(learner: PolicyLearner) -> None:
    """What follows an optimizer step, without one."""
    learner._after_step()


def untimed(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name != "learner/seconds"}


def token_table(weights: Mapping[str, Tensor], folder: str, group: Group) -> list[NDArray[np.float64]]:
    """Of each completion, [token, vocabulary] float64 log-probabilities, one completion at a time without padding."""
    from ductile.models.load import load_model

    model = load_model(folder, "float32")
    model.load_state_dict(weights)
    tables = []
    for completion in group.completions:
        ids = torch.tensor([[*group.prompt_tokens.tolist(), *completion.tokens.tolist()]])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, len(group.prompt_tokens) - 1 : -1]
        tables.append(torch.log_softmax(logits.double() / TEMPERATURE, dim=-1).numpy())
    return tables


def advance(learner: PolicyLearner) -> None:
    """A phase of two updates, its end, and an update of the next."""
    learner.start_phase("one")
    learner.remember(groups_of(learner, "prior/one"))
    learner.update(batch_of(learner, "a"))
    learner.update(batch_of(learner, "b"))
    learner.consolidate(groups_of(learner, "fisher"))
    learner.start_phase("two")
    learner.remember(groups_of(learner, "prior/two"))
    learner.update(batch_of(learner, "c"))


@pytest.mark.parametrize("hold", HOLDS)
def test_learner_that_was_saved_and_loaded_is_held_as_if_it_never_stopped(
    make: Make, tmp_path: Path, hold: str
) -> None:
    run = make(HOLDS[hold])
    advance(run)
    run.capture()(tmp_path)
    resumed = make(HOLDS[hold])
    resumed.load(tmp_path)
    for stream in "de":
        batch = batch_of(run, stream)
        again = batch_of(resumed, stream)
        assert [row.advantage for row in again.rows] == [row.advantage for row in batch.rows]
        assert untimed(resumed.update(again)) == untimed(run.update(batch))
        assert torch.equal(flat(resumed.weights()), flat(run.weights()))


@pytest.mark.parametrize("hold", HOLDS)
def test_every_hold_changes_where_the_policy_goes(make: Make, hold: str) -> None:
    held, free = make(HOLDS[hold]), make({"name": "parameter_only"})
    advance(held)
    advance(free)
    assert not torch.allclose(flat(held.weights()), flat(free.weights()), rtol=0, atol=1e-4)


def test_reward_penalty_is_the_coefficient_times_the_kl_of_each_completion_to_the_anchor(
    make: Make, tiny_folder: str
) -> None:
    learner = make(KL | {"kl_place": "reward", "kl_estimator": "k3"}, micro_tokens=40)
    base = {name: tensor.clone() for name, tensor in learner.weights().items()}
    assert all(np.abs(part).max() < 1e-5 for part in learner.penalties(judged_of(learner, "start")) or [])
    learner.update(batch_of(learner, "a"))
    judged = judged_of(learner, "b")
    total, tokens = 0.0, 0
    found = learner.penalties(judged)
    assert found is not None
    for group, penalties in zip(judged, found, strict=True):
        tables = token_table(base, tiny_folder, group.group)
        for completion, table, penalty in zip(group.group.completions, tables, penalties, strict=True):
            of_tokens = table[np.arange(len(completion.tokens)), completion.tokens] - completion.logps
            kl = math.fsum(math.exp(d) - d - 1 for d in of_tokens)
            assert penalty == pytest.approx(0.5 * kl, rel=1e-4, abs=1e-6)
            total, tokens = total + kl, tokens + len(completion.tokens)
    assert total > 0.1
    batch = make_variant(learner._settings.variant).batch(judged, learner._settings, found)
    assert learner.update(batch)["learner/kl_anchor"] == pytest.approx(total / tokens, rel=1e-4)


def test_penalties_of_two_ranks_add_up_to_those_of_one(
    make: Make, monkeypatch: pytest.MonkeyPatch, tiny_folder: str
) -> None:
    learner = make(KL | {"kl_place": "reward"})
    policy = ComposedPolicy.load(learner.composition, "float32")
    learner.update(batch_of(learner, "a"))
    judged = judged_of(learner, "b")
    whole = sequence_kl(policy, judged, "k1", TEMPERATURE, 40)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor: None)
    parts = [sequence_kl(policy, judged, "k1", TEMPERATURE, 40, rank, 2) for rank in (0, 1)]
    for one, first, second in zip(whole, *parts, strict=True):
        assert first + second == pytest.approx(one, abs=1e-5)
    shares = [np.count_nonzero(np.concatenate(part)) for part in parts]
    assert sum(shares) == 12 and min(shares) >= 4  # each completion once, and half of the tokens each


def test_kl_in_the_reward_is_asked_of_low_drift_alone_and_there_only_where_it_is_placed(make: Make) -> None:
    for variant in ({"name": "parameter_only"}, KL, HOLDS["prior_data"], HOLDS["ewc"]):
        learner = make(variant)
        assert learner.penalties(judged_of(learner, "a")) is None


def test_average_follows_the_weights_after_every_optimizer_step_and_branches_begin_with_it(
    make: Make, tmp_path: Path
) -> None:
    learner = make(HOLDS["ema"])
    expected = flat(learner.weights()).double()
    for stream in "abc":
        learner.update(batch_of(learner, stream))
        expected = 0.8 * expected + 0.2 * flat(learner.weights()).double()
    anchor = learner._holds.anchor
    assert anchor is not None
    assert torch.allclose(flat(anchor.policy.trainable.state_dict()).double(), expected, rtol=0, atol=1e-6)
    learner.capture()(tmp_path)
    settings, request = learner._settings, BranchRequest(str(tmp_path), "rl", "reset", 0)
    branch = branch_learner(settings, make_variant(settings.variant), learner.composition, request)
    assert branch._holds.anchor is not None
    assert torch.equal(
        flat(branch._holds.anchor.policy.trainable.state_dict()), flat(anchor.policy.trainable.state_dict())
    )


def test_average_takes_every_pass_over_the_batch(make: Make) -> None:
    """Two passes: what two steps of 0.2 leave of the base is 0.64, whatever the weights between them were."""
    one, two = make(HOLDS["ema"], epochs=1), make(HOLDS["ema"], epochs=2)
    base = flat(two.weights()).double()
    batch = batch_of(two, "a")
    one.update(batch)
    two.update(batch)
    between, after = flat(one.weights()).double(), flat(two.weights()).double()
    assert two._holds.anchor is not None
    average = flat(two._holds.anchor.policy.trainable.state_dict()).double()
    assert torch.allclose(average, 0.64 * base + 0.16 * between + 0.2 * after, rtol=0, atol=1e-6)


def test_memory_is_held_by_the_exact_kl_from_the_policy_of_the_phase_s_start(make: Make, tiny_folder: str) -> None:
    learner = make(HOLDS["prior_data"], micro_tokens=30)
    learner.update(batch_of(learner, "a"))
    learner.start_phase("two")
    start = {name: tensor.clone() for name, tensor in learner.weights().items()}
    remembered = groups_of(learner, "prior/two")
    learner.remember(remembered)
    assert learner.update(batch_of(learner, "b"))["learner/kl_anchor"] == pytest.approx(0.0, abs=1e-6)
    total, tokens = 0.0, 0
    for group in remembered:
        before, now = (token_table(weights, tiny_folder, group) for weights in (start, learner.weights()))
        total += math.fsum(float((np.exp(p) * (p - q)).sum()) for p, q in zip(before, now, strict=True))
        tokens += sum(len(completion.tokens) for completion in group.completions)
    metrics = learner.update(batch_of(learner, "c"))  # 12 rows, and all 12 that are remembered
    assert total / tokens > 1e-3
    assert metrics["learner/kl_anchor"] == pytest.approx(total / tokens, rel=1e-4)
    assert metrics["learner/loss"] == pytest.approx(metrics["learner/policy_loss"] + 0.5 * total / tokens, rel=1e-4)


def test_nothing_is_held_on_prior_data_where_nothing_is_remembered(make: Make) -> None:
    held, free = make(HOLDS["prior_data"]), make({"name": "parameter_only"})
    batch = batch_of(free, "a")
    assert "learner/kl_anchor" not in held.update(batch)
    free.update(batch)
    assert torch.equal(flat(held.weights()), flat(free.weights()))


@pytest.mark.parametrize("hold", ["adaptive", "adaptive_reward"])
def test_coefficient_is_adapted_after_each_update_by_hand(make: Make, hold: str) -> None:
    """12 completions a step and a horizon of 64."""
    learner, coefficient = make(HOLDS[hold]), 0.5
    for stream in "abcd":
        metrics = learner.update(batch_of(learner, stream))
        assert metrics["learner/kl_coefficient"] == pytest.approx(coefficient, rel=1e-12)
        error = metrics["learner/kl_anchor"] / 0.01 - 1
        coefficient *= 1 + max(-0.2, min(0.2, error)) * 12 / 64
    assert coefficient > 0.5  # it was far enough away for long enough
    judged = judged_of(learner, "e")
    if hold == "adaptive_reward":
        found, [kl, *_] = (
            learner.penalties(judged),
            sequence_kl(learner._holds.anchor.policy, judged, "k3", TEMPERATURE, 99),
        )  # type: ignore[union-attr]
        assert found is not None
        assert found[0] == pytest.approx(coefficient * kl, rel=1e-4)


def test_weights_without_gradient_go_back_to_the_base_by_the_share_that_l2_init_says(make: Make) -> None:
    """Rows of advantage 0 move nothing but what the entropy bonus, off here, or a KL of 0 would: Adam's step is 0."""
    learner = make(HOLDS["l2_init"] | {"kl": 1e-9, "kl_estimator": "k3", "anchor": "phase_start"})
    base = flat(learner.weights()).double()
    learner.update(batch_of(learner, "a"))
    fresh = make(HOLDS["l2_init"])
    moved = flat(learner.weights()).double()
    fresh._engine.set_weights(learner.weights())
    pull(fresh)
    share = LR * 5.0 / (1 + LR * 5.0)
    assert torch.allclose(flat(fresh.weights()).double(), moved + share * (base - moved), rtol=0, atol=1e-6)
    assert (moved - base).abs().max() > 5e-3


def test_branch_is_pulled_to_the_base_and_not_to_its_own_start(make: Make, tmp_path: Path) -> None:
    run = make(HOLDS["l2_init"])
    base = flat(run.weights())
    for stream in "abc":
        run.update(batch_of(run, stream))
    run.capture()(tmp_path)
    settings, request = run._settings, BranchRequest(str(tmp_path), "rl", "reset", 0)
    branch = branch_learner(settings, make_variant(settings.variant), run.composition, request)
    start = flat(branch.weights())
    pull(branch)
    assert (flat(branch.weights()) - base).norm() < 0.97 * (start - base).norm()


def test_branch_keeps_the_fisher_information_of_the_run(make: Make, tmp_path: Path) -> None:
    run = make(HOLDS["ewc"])
    run.update(batch_of(run, "a"))
    run.consolidate(groups_of(run, "fisher"))
    target = flat(run.weights())
    run.update(batch_of(run, "b"))
    run.capture()(tmp_path)
    settings, request = run._settings, BranchRequest(str(tmp_path), "rl", "reset", 0)
    branch = branch_learner(settings, make_variant(settings.variant), run.composition, request)
    start = flat(branch.weights())
    pull(branch)
    pull(run)
    assert torch.equal(flat(branch.weights()), flat(run.weights()))
    assert (flat(branch.weights()) - target).norm() < (start - target).norm()


def test_supervised_branch_is_held_by_nothing(make: Make, tmp_path: Path) -> None:
    run = make(HOLDS["all"])
    advance(run)
    run.capture()(tmp_path)
    settings, request = run._settings, BranchRequest(str(tmp_path), "sft", "reset", 0)
    branch = branch_learner(settings, make_variant(settings.variant), run.composition, request)
    before = flat(branch.weights())
    pull(branch)
    assert torch.equal(flat(branch.weights()), before)
    assert "learner/kl_anchor" not in branch.update(batch_of(run, "d"))
