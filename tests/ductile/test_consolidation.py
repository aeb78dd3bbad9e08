"""The proximal step is the minimum that it claims to be, and the Fisher information the mean of squared derivatives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ductile.consolidation import Consolidation, fisher, proximal_step
from ductile.models.compose import ComposedPolicy
from ductile.ports import Composition, Member
from ductile.problem import Completion, Group, Problem
from ductile.rl.objective import Objective

TEMPERATURE = 0.7
STEP = 1e-3  # RMSNorm computes in float32 whatever the weights are: below it the rounding shows
HELD = Objective(0.2, 0.2, 0.0, "k3", None, 0.0, l2_init=0.5, ewc=3.0)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_proximal_step_by_hand() -> None:
    """One pull of strength 2 at lr 0.5: half of the way to the target; of strength 0: none of it."""
    moved = proximal_step(tensor(1.0, 1.0), [(tensor(2.0, 0.0), tensor(3.0, 3.0))], 0.5)
    assert moved.tolist() == [2.0, 1.0]


def test_proximal_step_is_the_minimum_of_distance_and_penalties() -> None:
    """Its derivative, (t - w) + lr * sum of s * (t - target), is 0."""
    random = torch.Generator().manual_seed(0)
    weights, one, other = (torch.randn(50, generator=random, dtype=torch.float64) for _ in range(3))
    strengths = [torch.rand(50, generator=random, dtype=torch.float64) * scale for scale in (1.0, 100.0)]
    found = proximal_step(weights, list(zip(strengths, (one, other), strict=True)), 0.1)
    slope = (found - weights) + 0.1 * (strengths[0] * (found - one) + strengths[1] * (found - other))
    assert slope.abs().max() < 1e-12


def test_however_strong_a_pull_ends_at_the_target_and_never_beyond() -> None:
    assert proximal_step(tensor(1.0), [(tensor(1e12), tensor(3.0))], 1.0).item() == pytest.approx(3.0, rel=1e-9)


def test_weights_at_their_target_keep_every_bit() -> None:
    weights = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    pulls = [(torch.full_like(weights, 0.3), weights.clone()), (torch.rand(1000) * 7, weights.clone())]
    assert torch.equal(proximal_step(weights, pulls, 0.0003), weights)


def test_second_phase_adds_its_information_and_moves_the_target() -> None:
    held = Consolidation(HELD, {"w": tensor(1.0)})
    assert held.pulled({"w": tensor(2.0)}, 0.1)["w"].item() == pytest.approx(2 + 0.1 * 0.5 * (1 - 2) / 1.05)
    held.add({"w": tensor(4.0)}, {"w": tensor(5.0)})
    held.add({"w": tensor(6.0)}, {"w": tensor(7.0)})
    strength = 3 * (4 + 6)  # of the target 7; the base, 1, pulls with 0.5
    expected = 2 + 0.1 * (0.5 * (1 - 2) + strength * (7 - 2)) / (1 + 0.1 * (0.5 + strength))
    assert held.pulled({"w": tensor(2.0)}, 0.1)["w"].item() == pytest.approx(expected, rel=1e-12)


def test_information_survives_a_checkpoint(tmp_path: Path) -> None:
    held, other = Consolidation(HELD, {"w": tensor(1.0)}), Consolidation(HELD, {"w": tensor(1.0)})
    held.add({"w": tensor(0.1)}, {"w": tensor(0.7)})
    for name, tensors in held.files().items():
        save_file(tensors, tmp_path / name)
    other.load(tmp_path)
    assert torch.equal(other.pulled({"w": tensor(2.0)}, 0.1)["w"], held.pulled({"w": tensor(2.0)}, 0.1)["w"])


def test_nothing_pulls_before_the_first_phase_has_ended() -> None:
    ewc = Consolidation(Objective(0.2, 0.2, 0.0, "k3", None, 0.0, ewc=1.0), {"w": tensor(1.0)})
    assert not ewc.acts
    ewc.add({"w": tensor(1.0)}, {"w": tensor(1.0)})
    assert ewc.acts
    assert Consolidation(HELD, {"w": tensor(1.0)}).acts


@pytest.fixture(scope="module")
def policy(tiny_folder: str) -> ComposedPolicy:
    return ComposedPolicy.load(Composition((Member("policy", tiny_folder, 1.0),), "policy"), "float32").double()


def answers(count: int) -> list[Group]:
    random = np.random.default_rng(2)
    groups = []
    for number in range(count):
        prompt, tokens = (random.integers(3, 90, size).astype(np.int32) for size in (3, 2 + number))
        completion = Completion("p", 0, tokens, np.zeros(len(tokens), np.float32), "", True, 0)
        groups.append(Group(Problem("p", "none", 1, "", ""), prompt, (completion,)))
    return groups


def log_probability(policy: ComposedPolicy, group: Group) -> float:
    prompt, tokens = group.prompt_tokens.tolist(), group.completions[0].tokens.tolist()
    with torch.no_grad():  # below `ComposedPolicy.forward`, which rounds to float32
        logits = policy.trainable(input_ids=torch.tensor([prompt + tokens])).logits[0] / TEMPERATURE
    logps = torch.log_softmax(logits, dim=-1)
    return sum(float(logps[len(prompt) + i - 1, token]) for i, token in enumerate(tokens))


def test_fisher_information_is_the_mean_of_squared_derivatives_of_each_completion(policy: ComposedPolicy) -> None:
    """Central differences, one completion at a time. A tied weight has one derivative under both of its names."""
    groups = answers(3)
    found = fisher(policy, groups, TEMPERATURE)
    assert found.keys() == policy.trainable.state_dict().keys()
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])
    state = policy.trainable.state_dict()
    token = int(groups[0].prompt_tokens[0])
    for name, place in [("model.norm.weight", (4,)), ("model.embed_tokens.weight", (token, 3))]:
        squares = []
        for group in groups:
            sides = []
            for sign in (1, -1):
                state[name][place] += sign * STEP
                sides.append(log_probability(policy, group))
                state[name][place] -= sign * STEP
            squares.append(((sides[0] - sides[1]) / (2 * STEP)) ** 2)
        assert float(found[name][place]) == pytest.approx(sum(squares) / 3, rel=1e-3), name
        assert float(found[name][place]) > 1e-8, name
