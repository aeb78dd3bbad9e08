"""A packed sequence through a model is the padded rows through it, in logits and gradients, and shares prompts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
)

from ductile.models.compose import ComposedPolicy, padded_logits
from ductile.models.packing import attention, packed_logits, packs
from ductile.models.soft_prefix import add_prefix
from ductile.packed import Packed, pack
from ductile.ports import Composition, Member

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "qwen2 with grouped heads": Qwen2Config(**SIZES, num_key_value_heads=2),
    "gpt2": GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=0),
}


def made(config: Any) -> PreTrainedModel:
    """Weights scaled up, so that every place depends on those before it."""
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    return model


def packed_rows(lengths: list[tuple[int, int]], vocabulary: int = 40) -> Packed:
    """Rows of these lengths; the last has the first one's prompt, where both are as long."""
    rng = np.random.default_rng(0)
    rows = [tuple(rng.integers(3, vocabulary, size).astype(np.int32) for size in pair) for pair in lengths]
    rows[-1] = (rows[0][0], rows[-1][1])
    return pack(rows)  # type: ignore[arg-type]


ROWS = [(5, 4), (2, 12), (9, 1), (1, 6), (5, 7)]


def gradients(model: PreTrainedModel, logits: Tensor) -> list[Tensor]:
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad((logits * weights).sum(), list(model.parameters()))
    return list(found)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("lengths", [ROWS, ROWS[:1]], ids=["rows", "one row"])
def test_packed_logits_and_gradients_are_those_of_padded_rows(name: str, lengths: list[tuple[int, int]]) -> None:
    model, packed = made(CONFIGS[name]), packed_rows(lengths)
    own = model.config._attn_implementation
    found, expected = packed_logits(model, model, packed), padded_logits(model, packed)
    assert packs(model) and model.config._attn_implementation == own
    assert found.shape == (len(packed.targets), 40)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(gradients(model, found), gradients(model, expected), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5 * float(theirs.abs().max().clamp(min=1)), rtol=1e-5)


def test_other_attention_is_not_packed_but_padded() -> None:
    model, packed = made(MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=3)), packed_rows(ROWS)
    policy = ComposedPolicy(Composition((Member("policy", "", 1.0),), "policy"), [model])
    assert not packs(model)
    assert torch.equal(policy.completion_logits(packed), padded_logits(model, packed))
    with pytest.raises(NotImplementedError, match="sliding_window"):
        packed_logits(model, model, packed)


def test_soft_prefix_is_embedded_in_a_packed_prompt() -> None:
    model = made(CONFIGS["llama"])
    add_prefix(model, 2)
    rows = [
        (np.array([40, 41, 7], np.int32), np.array([5, 6], np.int32)),
        (np.array([41, 9], np.int32), np.array([3], np.int32)),
    ]
    packed = pack(rows)
    torch.testing.assert_close(packed_logits(model, model, packed), padded_logits(model, packed), atol=1e-5, rtol=1e-5)


def test_composed_logits_are_the_sum_over_members_and_only_the_trainable_one_learns() -> None:
    models = [made(CONFIGS["llama"]), made(CONFIGS["gpt2"])]
    members = (Member("base", "", 1.0), Member("expert", "", -0.5))
    policy, packed = ComposedPolicy(Composition(members, "expert"), models), packed_rows(ROWS)
    found = policy.completion_logits(packed)
    expected = padded_logits(models[0], packed) - 0.5 * padded_logits(models[1], packed)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    found.sum().backward()
    assert all(parameter.grad is None for parameter in models[0].parameters())
    assert all(parameter.grad is not None for parameter in models[1].parameters())


def test_bf16_attention_on_a_cpu_is_that_in_float32_rounded() -> None:
    packed = packed_rows(ROWS)
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(1, 2, len(packed.ids), 8, generator=generator).bfloat16() for _ in range(3)]
    found, _ = attention(torch.nn.Identity(), *tensors, None, packed=packed)
    exact, _ = attention(torch.nn.Identity(), *(tensor.float() for tensor in tensors), None, packed=packed)
    assert found.dtype == torch.bfloat16 and torch.equal(found, exact.bfloat16())
