"""The update: what it learns from, what it stays close to, and that saving, branching and cutting change nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ductile.config import RunSettings
from ductile.learner import Diverged, PolicyLearner, _of_stale, branch_learner, distance, make_learner, rms_distance
from ductile.models.load import load_model
from ductile.ports import BranchRequest, PolicyRef, Sampling
from ductile.problem import Group, JudgedGroup, Problem, Verdict
from ductile.rl.batch import Batch
from ductile.sampling.worker import LocalPool
from ductile.settings import build
from ductile.variants import make_variant

LOW_DRIFT = {"name": "low_drift", "kl": 1.0, "kl_estimator": "k3", "anchor": "base"}
PHASE_START = LOW_DRIFT | {"anchor": "phase_start"}
TEMPERATURE = 0.7
Make = Callable[..., PolicyLearner]


def settings_of(variant: Mapping[str, Any], **learner: Any) -> RunSettings:
    return build(
        RunSettings,
        {
            "variant": variant,
            "learner": {"engine": "torch", "lr": 1e-2} | learner,
            "rollout": {"max_tokens": 6, "temperature": TEMPERATURE},
        },
    )


@pytest.fixture
def make(tiny_llama: Callable[[int], str]) -> Make:
    """(variant, **learner settings) -> learner of base 0 and expert 1."""

    def learner(variant: Mapping[str, Any] | None = None, **learner: Any) -> PolicyLearner:
        settings = settings_of(variant or {"name": "parameter_only"}, **learner)
        return make_learner(settings, make_variant(settings.variant), Path(tiny_llama(0)), Path(tiny_llama(1)))

    return learner


def branch_of(
    learner: PolicyLearner, snapshot: Path | None, mode: str = "rl", optimizer: str = "reset"
) -> PolicyLearner:
    settings, request = learner._settings, BranchRequest(snapshot and str(snapshot), mode, optimizer, 0)
    return branch_learner(settings, make_variant(settings.variant), learner.composition, request)


def ask(learner: PolicyLearner, stream: str, pool: LocalPool | None = None) -> list[Group]:
    """Four problems of prompts of different lengths, answered by the learner's own policy."""
    pool = pool or LocalPool("float32")
    problems = [Problem(prompt, "none", 1, prompt, "") for prompt in ("s1>1:", "s23>1:", "s4567>1:", "?")]
    policy = PolicyRef(learner.composition, pool.publish(learner.weights()), learner.version)
    return pool.generate(policy, problems, Sampling(0, stream, 4, 6, TEMPERATURE))


def batch_of(learner: PolicyLearner, stream: str, reward: Callable[[int], float] = lambda sample: sample % 2) -> Batch:
    """What the learner's variant learns from them, the reward given by the sample's number."""
    judged = [
        JudgedGroup(group, tuple(Verdict(float(reward(c.sample)), "direct") for c in group.completions))
        for group in ask(learner, stream)
    ]
    settings = learner._settings
    return make_variant(settings.variant).batch(judged, settings)


def silent(sample: int) -> float:
    return 0.0


def copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in weights.items()}


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def untimed(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name != "learner/seconds"}


def kl_to_base(learner: PolicyLearner) -> float:
    pool = LocalPool("float32")
    moved = PolicyRef(learner.composition, pool.publish(learner.weights()), 0)
    base = PolicyRef(learner.composition, None, 0)
    return pool.divergence(moved, base, ask(learner, "measure", pool), TEMPERATURE).token_reverse


def test_update_raises_the_likelihood_of_rewarded_completions_and_the_version(make: Make) -> None:
    learner = make()
    batch = batch_of(learner, "a")
    before = mean_logp(learner, batch, 1), mean_logp(learner, batch, -1)
    metrics = learner.update(batch)
    assert learner.version == 1
    assert mean_logp(learner, batch, 1) > before[0] + 0.01
    assert mean_logp(learner, batch, -1) < before[1] - 0.01
    assert metrics["learner/tokens"] == sum(len(row.completion) for row in batch.rows)
    assert metrics["learner/skipped"] == 0.0


def mean_logp(learner: PolicyLearner, batch: Batch, sign: int) -> float:
    """Of the rows whose advantage has this sign, by the policy's own forward pass on each alone."""
    total, count = 0.0, 0
    for row in batch.rows:
        if row.advantage * sign > 0:
            ids = torch.tensor([[*row.prompt.tolist(), *row.completion.tolist()]])
            with torch.no_grad():
                logits = learner._policy(ids, torch.ones_like(ids))[0, len(row.prompt) - 1 : -1] / TEMPERATURE
            logps = torch.log_softmax(logits, dim=-1).gather(-1, torch.tensor(row.completion).long()[:, None])
            total, count = total + float(logps.sum()), count + len(row.completion)
    return total / count


def test_skipped_step_touches_neither_weights_nor_optimizer_and_raises_the_version(make: Make) -> None:
    skipping, straight = make(), make()
    first, second = batch_of(straight, "a"), batch_of(straight, "b")
    for learner in (skipping, straight):
        learner.update(first)
    before = copied(skipping.weights())
    metrics = skipping.update(Batch(()))
    assert same(skipping.weights(), before)
    assert skipping.version == 2
    assert metrics["learner/skipped"] == 1.0 and metrics["learner/tokens"] == 0.0
    skipping.update(second)
    straight.update(second)
    assert same(skipping.weights(), straight.weights())  # so the momentum was left as it was
    assert (skipping.version, straight.version) == (3, 2)


def test_silent_groups_leave_the_parameter_only_learner_where_it_is(make: Make) -> None:
    learner = make()
    before = copied(learner.weights())
    metrics = learner.update(batch_of(learner, "a", silent))
    assert metrics["learner/skipped"] == 1.0 and same(learner.weights(), before)


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_silent_groups_pull_the_low_drift_learner_towards_the_anchor(
    make: Make, tmp_path: Path, estimator: str
) -> None:
    away = make()
    for stream in "abc":
        away.update(batch_of(away, stream))
    away.capture()(tmp_path)
    learner = branch_of(
        make(LOW_DRIFT | {"kl_estimator": estimator}, lr=3e-3), tmp_path
    )  # the moved weights with a fresh optimizer: no momentum of what moved them
    distances = [kl_to_base(learner)]
    for stream in "defghi":
        metrics = learner.update(batch_of(learner, stream, silent))
        assert metrics["learner/skipped"] == 0.0 and metrics["learner/policy_loss"] == 0.0
        distances.append(kl_to_base(learner))
    assert distances[0] > 0.05
    assert distances[-1] < 0.7 * distances[0]


def test_low_drift_learner_at_its_anchor_is_not_moved_by_silent_groups(make: Make) -> None:
    learner = make(LOW_DRIFT)
    metrics = learner.update(batch_of(learner, "a", silent))
    assert metrics["learner/kl_anchor"] == pytest.approx(0.0, abs=1e-9)
    assert metrics["learner/grad_norm"] < 1e-5


def anchor_distances(learner: PolicyLearner) -> list[float]:
    """`kl_anchor` of updates 2 to 4, a new phase having begun before updates 2 and 4."""
    learner.update(batch_of(learner, "a"))
    learner.start_phase("domain")
    found = [learner.update(batch_of(learner, "b"))["learner/kl_anchor"]]
    found.append(learner.update(batch_of(learner, "c"))["learner/kl_anchor"])
    learner.start_phase("domain")
    return [*found, learner.update(batch_of(learner, "d"))["learner/kl_anchor"]]


def test_anchor_at_the_start_of_the_phase_is_taken_there_and_stays_there(make: Make) -> None:
    at_start, later, at_next_start = anchor_distances(make(PHASE_START | {"kl": 1e-4}))
    assert at_start == pytest.approx(0.0, abs=1e-9)
    assert later > 1e-4
    assert at_next_start == pytest.approx(0.0, abs=1e-9)


def test_anchor_at_the_base_stays_the_untouched_base(make: Make) -> None:
    learner = make(LOW_DRIFT | {"kl": 1e-4})
    assert all(value > 1e-4 for value in anchor_distances(learner))
    anchor = learner._holds.anchor
    assert anchor is not None
    assert same(anchor.policy.trainable.state_dict(), make().weights())


def test_learner_gives_the_sampled_tokens_the_samplers_probabilities(make: Make) -> None:
    for learner in (make(), make({"name": "proxy", "alpha": 0.7})):
        for stream in "ab":
            metrics = learner.update(batch_of(learner, stream))
            assert metrics["learner/behaviour_gap"] < 1e-5
            assert metrics["learner/ratio_max"] == pytest.approx(1.0, abs=1e-4)
            assert metrics["learner/clip_share"] == 0.0


def test_second_pass_over_a_batch_leaves_the_behaviour_policy(make: Make) -> None:
    learner = make(epochs=3)
    metrics = learner.update(batch_of(learner, "a"))
    assert metrics["learner/behaviour_gap"] < 1e-5  # of the first pass
    assert metrics["learner/ratio_max"] > 1.05
    assert metrics["learner/clip_share"] > 0
    assert learner.version == 1


def test_branch_starts_from_the_weights_with_a_fresh_optimizer_and_leaves_the_run_alone(
    make: Make, tmp_path: Path
) -> None:
    run, straight = make(), make()
    first, second, third = (batch_of(straight, stream) for stream in "abc")
    for learner in (run, straight):
        learner.update(first)
    before = copied(run.weights())
    run.capture()(tmp_path)
    branch = branch_of(run, tmp_path)
    assert same(branch.weights(), before)
    branch.start_phase("domain")
    branch.update(second)
    assert not same(branch.weights(), before)
    assert same(run.weights(), before) and run.version == 1
    assert untimed(run.update(third)) == untimed(straight.update(third))
    assert same(run.weights(), straight.weights())

    straight.capture()(tmp_path)
    second_branch = branch_of(straight, tmp_path)
    change = distance(second_branch.weights(), straight.weights())
    metrics = second_branch.update(second)
    assert change == 0.0
    # Adam's first step from fresh moments moves each weight that has a gradient by lr, however small the gradient.
    moved = (second_branch.weights()["model.norm.weight"] - straight.weights()["model.norm.weight"]).abs()
    assert moved == pytest.approx(np.full(16, 1e-2), rel=1e-3)
    assert metrics["learner/update_norm"] > 0


@pytest.mark.parametrize("variant", [{"name": "parameter_only"}, PHASE_START, {"name": "proxy", "alpha": 0.7}])
def test_learner_that_was_saved_and_loaded_goes_on_as_if_it_never_stopped(
    make: Make, tmp_path: Path, variant: Mapping[str, Any]
) -> None:
    run = make(variant)
    run.update(batch_of(run, "a"))
    run.start_phase("domain")
    run.update(batch_of(run, "b"))
    run.capture()(tmp_path / "checkpoint")
    resumed = make(variant)
    resumed.load(tmp_path / "checkpoint")
    assert resumed.version == 2 and same(resumed.weights(), run.weights())
    batch = batch_of(run, "c")
    assert untimed(resumed.update(batch)) == untimed(run.update(batch))
    assert same(resumed.weights(), run.weights())


def test_branch_that_carries_the_optimizer_goes_on_as_the_run_would(make: Make, tmp_path: Path) -> None:
    run = make()
    run.update(batch_of(run, "a"))
    run.capture()(tmp_path)
    batch = batch_of(run, "b")
    carried, reset = branch_of(run, tmp_path, optimizer="carried"), branch_of(run, tmp_path)
    for learner in (run, carried, reset):
        learner.update(batch)
    assert same(carried.weights(), run.weights())
    assert not same(reset.weights(), run.weights())


def test_branch_of_no_snapshot_is_the_untouched_base(make: Make) -> None:
    assert same(branch_of(make(), None).weights(), make().weights())


def test_branch_on_worked_solutions_has_its_own_learning_rate_also_with_the_runs_optimizer(
    make: Make, tmp_path: Path
) -> None:
    run = make(lr=1e-2)
    run.capture()(tmp_path)  # an optimizer without any step: Adam's first moves each weight by the learning rate
    object.__setattr__(run._settings.probe.branch, "sft_lr", 1e-4)
    for optimizer in ("reset", "carried"):
        branch = branch_of(run, tmp_path, "sft", optimizer)
        before = copied(branch.weights())
        branch.update(batch_of(run, "a"))
        moved = (branch.weights()["model.norm.weight"] - before["model.norm.weight"]).abs()
        assert moved == pytest.approx(np.full(16, 1e-4), rel=1e-2), optimizer


@pytest.mark.parametrize("variant", [{"name": "parameter_only"}, PHASE_START])
def test_weights_at_the_start_of_the_phase_survive_a_checkpoint(
    make: Make, tmp_path: Path, variant: Mapping[str, Any]
) -> None:
    run = make(variant)
    first = copied(run.weights())
    assert same(run.phase_start_weights(), first)
    run.update(batch_of(run, "a"))
    assert same(run.phase_start_weights(), first)
    run.start_phase("domain")
    second = copied(run.weights())
    run.update(batch_of(run, "b"))
    run.capture()(tmp_path)
    resumed = make(variant)
    resumed.load(tmp_path)
    assert same(resumed.phase_start_weights(), second) and not same(second, run.weights())
    assert same(load_file(tmp_path / "weights.safetensors"), run.weights())
    assert same(load_file(tmp_path / "phase_start.safetensors"), second)


def test_distances_by_hand() -> None:
    a = {"x": torch.tensor([1.0, 2.0]), "y": torch.tensor([[3.0], [4.0]])}
    b = {"x": torch.tensor([2.0, 0.0]), "y": torch.tensor([[3.0], [2.0]])}
    assert distance(a, b) == 3.0  # sqrt(1 + 4 + 0 + 4)
    assert rms_distance(a, b) == 1.5  # 3 / sqrt(4)
    assert distance(a, a) == 0.0


def arrays(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """As float64, each weight once: the output layer is the embedding by another name."""
    assert torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
    return {name: tensor.double().numpy().copy() for name, tensor in weights.items() if name != "lm_head.weight"}


def squares(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    return math.fsum(float(((one[name] - other[name]) ** 2).sum()) for name in one)


def test_update_norm_is_of_this_step_and_weight_drift_from_the_base(make: Make) -> None:
    learner = make()
    base = arrays(learner.weights())
    metrics, weights = {}, [base]
    for stream in "ab":
        metrics = learner.update(batch_of(learner, stream))
        weights.append(arrays(learner.weights()))
    count = sum(tensor.size for tensor in base.values())
    assert metrics["learner/update_norm"] == pytest.approx(math.sqrt(squares(weights[2], weights[1])), rel=1e-9)
    assert metrics["learner/weight_drift_rms"] == pytest.approx(math.sqrt(squares(weights[2], base) / count), rel=1e-9)
    size = math.sqrt(math.fsum(float((array**2).sum()) for array in weights[1].values()))
    assert metrics["learner/update_to_weight"] == pytest.approx(metrics["learner/update_norm"] / size, rel=1e-9)
    assert squares(weights[2], weights[1]) != pytest.approx(squares(weights[2], base), rel=0.1)


def test_gradient_that_is_not_finite_stops_the_run_and_names_the_learning_rate(make: Make) -> None:
    learner = make()
    batch = batch_of(learner, "a")
    spoilt = Batch((replace(batch.rows[0], advantage=float("nan")), *batch.rows[1:]))
    with pytest.raises(Diverged, match=r"update 1: the gradient is not finite.*learner\.lr \(0\.01\)"):
        learner.update(spoilt)


@pytest.mark.parametrize("variant", [{"name": "parameter_only"}, LOW_DRIFT])
def test_update_does_not_depend_on_how_the_batch_is_cut(make: Make, variant: Mapping[str, Any]) -> None:
    learners = [make(variant, micro_tokens=tokens) for tokens in (1, 40, 100_000)]
    for stream in "ab":
        batch = batch_of(learners[0], stream)
        metrics = [learner.update(batch) for learner in learners]
        for other in metrics[1:]:
            for name in metrics[0].keys() - {"learner/seconds"}:
                assert other[name] == pytest.approx(metrics[0][name], rel=1e-4, abs=1e-5), name
    for learner in learners[1:]:
        for name, tensor in learners[0].weights().items():
            assert torch.allclose(learner.weights()[name], tensor, rtol=0, atol=1e-5), name


def test_variants_learning_rate_takes_the_place_of_the_learners(make: Make) -> None:
    slow = make({"name": "parameter_only", "lr": 1e-4})
    before = copied(slow.weights())
    slow.update(batch_of(slow, "a"))
    moved = (slow.weights()["model.norm.weight"] - before["model.norm.weight"]).abs()
    assert moved == pytest.approx(np.full(16, 1e-4), rel=1e-2)


def test_proxy_learns_the_expert_and_publishes_it_alone(make: Make, tiny_llama: Callable[[int], str]) -> None:
    learner = make({"name": "proxy", "alpha": 0.7})
    expert = LocalPool("float32")._policy(PolicyRef(learner.composition, None, 0)).trainable.state_dict()
    assert same(learner.weights(), expert)
    fixed = {role: copied(model.state_dict()) for role, model in learner._policy.members.items() if role != "expert"}
    learner.update(batch_of(learner, "a"))
    assert not same(learner.weights(), expert)
    for role, weights in fixed.items():
        assert same(learner._policy.members[role].state_dict(), weights), role


EXPERT_ITERATION = {"name": "expert_iteration"}


def test_expert_iteration_raises_the_likelihood_of_what_was_right(make: Make) -> None:
    learner = make(EXPERT_ITERATION)
    batch = batch_of(learner, "a")
    assert {row.advantage for row in batch.rows} == {1.0}
    before = mean_logp(learner, batch, 1)
    metrics = learner.update(batch)
    assert mean_logp(learner, batch, 1) > before + 0.01
    assert not {"learner/clip_share", "learner/ratio_max", "learner/behaviour_gap"} & metrics.keys()


def test_step_without_a_success_leaves_expert_iteration_where_it_is(make: Make) -> None:
    learner = make(EXPERT_ITERATION)
    before = copied(learner.weights())
    assert learner.update(batch_of(learner, "a", silent))["learner/skipped"] == 1.0
    assert same(learner.weights(), before)


def test_restart_makes_the_next_phase_that_of_a_new_learner(make: Make) -> None:
    learner, new = make(EXPERT_ITERATION | {"restart": True}), make(EXPERT_ITERATION)
    first, second = batch_of(new, "a"), batch_of(new, "b")
    learner.update(first)
    ports: Any = SimpleNamespace(learner=learner)
    make_variant(learner._settings.variant).switch(learner._settings, None, "switch/a", ports)  # type: ignore[arg-type]
    assert same(learner.weights(), new.weights())
    learner.update(second)
    new.update(second)
    assert same(learner.weights(), new.weights())


def test_base_weights_are_the_folder_s_also_on_a_branch_from_elsewhere(
    make: Make, tiny_llama: Callable[[int], str], tmp_path: Path
) -> None:
    learner = make()
    learner.update(batch_of(learner, "a"))
    learner.capture()(tmp_path)
    branch, saved = branch_of(learner, tmp_path), load_model(tiny_llama(0), "float32").state_dict()
    assert same(branch.base_weights(), saved) and same(learner.base_weights(), saved)
    assert not same(branch.weights(), saved)


def test_every_pass_over_a_stale_batch_is_bound_to_the_policy_that_the_update_began_with(make: Make) -> None:
    """By hand: the second of two passes has the first one's log-probabilities in its ratio, and its weights."""
    settings = settings_of({"name": "parameter_only"}, lr=3e-2, epochs=2)
    learner = make({"name": "parameter_only"}, lr=3e-2, epochs=2)
    batch = batch_of(learner, "old")
    learner.update(batch)  # the policy moves: the batch is stale now
    stale = replace(settings, rollout=replace(settings.rollout, staleness=1))
    learner._objective = _of_stale(learner._objective, stale)
    seen: list[Tensor | None] = []
    backward = learner._backward

    def watched(micro: Any, last: bool) -> Any:
        kept, sums = backward(micro, last)
        seen.append(kept.proximal_logps)
        return kept, sums

    learner._backward = watched  # type: ignore[method-assign]
    metrics = learner.update(batch)
    first, second = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    for one, other in zip(first, second, strict=True):
        assert one is not None and one is other
    assert metrics["learner/ratio_max"] > 1.0 and 0 < metrics["learner/importance_ess"] < 1
