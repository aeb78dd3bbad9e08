"""Distillation: its loss against float64 by hand, and what it trains."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ductile.config import LearnerSettings
from ductile.distillation import distil, forward_kl
from ductile.models.compose import ComposedPolicy
from ductile.models.load import load_model
from ductile.ports import Composition, Member


def test_loss_is_the_mean_forward_kl_of_the_tokens() -> None:
    random = np.random.default_rng(0)
    p, q = (random.dirichlet(np.ones(5), 4) for _ in range(2))
    expected = np.mean([np.sum(p[i] * np.log(p[i] / q[i])) for i in range(4)])
    assert float(forward_kl(torch.tensor(p).log(), torch.tensor(q).log())) == pytest.approx(expected, rel=1e-12)


def test_student_comes_near_the_composition_and_the_teacher_stays(tiny_llama: Callable[[int], str]) -> None:
    roles = (("base", 0, 1.0), ("expert", 1, 0.5), ("anti_expert", 2, -0.5))
    members = tuple(Member(role, tiny_llama(seed), coefficient) for role, seed, coefficient in roles)
    teacher = ComposedPolicy.load(Composition(members, "expert"), "float32")
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    random = np.random.default_rng(1)
    pairs = [(random.integers(3, 90, 4).astype(np.int32), random.integers(3, 90, 5).astype(np.int32)) for _ in range(4)]
    rows = [pair for pair in pairs for _ in range(60)]
    losses = distil(teacher, load_model(tiny_llama(0), "float32"), rows, 60, LearnerSettings(lr=1e-2), 1.0)
    assert len(losses) == 60
    assert losses[-1] < 0.2 * losses[0]
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[name]), name
