"""The policy's next-token entropy at the completions' positions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ductile.config import ProbeSettings
from ductile.ports import Sampling
from ductile.probes.entropy import token_entropy
from ductile.problem import Group, Problem
from tests.ductile.probes.fakes import POLICY, FakePool, context
from tests.ductile.probes.tiny import VOCABULARY, gpt2, llama, single

PROBLEMS = [Problem(f"p/{i}", "d", 1, "?", "!") for i in range(3)]
SAMPLING = Sampling(0, "s", 2, 9)


def test_entropy_is_the_mean_over_tokens_of_the_policys() -> None:
    pool = FakePool(
        lambda problem, sample: f"{sample} steps",
        lengths={"0 steps": 1, "1 steps": 4},
        loaded=lambda ref: {POLICY: single(llama())}[ref],
    )
    groups = pool.generate(POLICY, PROBLEMS, SAMPLING)
    logits = llama().double()(input_ids=torch.zeros((1, 5), dtype=torch.int64)).logits[0]
    p = torch.softmax(logits / 0.7, -1)  # the fake context's temperature
    entropies = (-(p * p.log()).sum(-1)).tolist()
    expected = np.mean([entropies[0], *entropies[:4]])
    assert token_entropy(context(pool, ProbeSettings()), groups) == pytest.approx(expected, rel=1e-5)


def test_policy_that_knows_nothing_has_the_entropy_of_the_vocabulary() -> None:
    model = gpt2()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    pool = FakePool(lambda problem, sample: "1 steps", loaded=lambda ref: single(model))
    groups = pool.generate(POLICY, PROBLEMS, SAMPLING)
    assert token_entropy(context(pool, ProbeSettings()), groups) == pytest.approx(np.log(VOCABULARY))


def test_no_tokens_have_no_entropy() -> None:
    pool = FakePool(lambda problem, sample: "1 steps")
    [group] = pool.generate(POLICY, PROBLEMS[:1], SAMPLING)
    empty: list[Group] = [replace(group, completions=())]
    with pytest.raises(ValueError, match="no completion tokens"):
        token_entropy(context(pool, ProbeSettings()), empty)
