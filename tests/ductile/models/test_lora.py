"""Adapters and what they add: merged weights are the adapted model, and only adapters learn."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from ductile.models.load import load_model
from ductile.models.lora import A, B, adapters, bare, fresh, inject, inner_name, merged, under, with_adapters

RANK, ALPHA = 2, 6.0
IDS = torch.tensor([[5, 9, 30, 31, 7], [8, 8, 40, 3, 60]])


@pytest.fixture
def adapted(tiny_llama: Callable[[int], str]) -> PreTrainedModel:
    """A model whose adapters are far from nothing."""
    model = load_model(tiny_llama(0), "float32")
    inject(model, RANK, ALPHA)
    random = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith((A, B)):
                parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.3)
    return model


def test_merged_weights_give_the_logits_of_the_model_with_adapters(
    adapted: PreTrainedModel, tiny_llama: Callable[[int], str]
) -> None:
    plain = load_model(tiny_llama(0), "float32")
    before = plain(IDS).logits
    plain.load_state_dict(merged(adapted.state_dict(), ALPHA / RANK))
    after = plain(IDS).logits
    assert (after - before).abs().max() > 0.1
    assert torch.allclose(after, adapted(IDS).logits, atol=1e-5)


def test_merged_weight_by_hand(adapted: PreTrainedModel) -> None:
    state, layer = adapted.state_dict(), "model.layers.0.mlp.up_proj"
    low, high = state[layer + A].double(), state[layer + B].double()
    expected = state[f"{layer}.base_layer.weight"].double() + 3.0 * high @ low
    assert torch.allclose(merged(state, 3.0)[f"{layer}.weight"].double(), expected, atol=1e-6)


def test_every_linear_layer_but_the_output_has_an_adapter_and_nothing_else_learns(adapted: PreTrainedModel) -> None:
    names = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    layers = [f"self_attn.{x}_proj" for x in "qkvo"] + [f"mlp.{x}_proj" for x in ("gate", "up", "down")]
    assert names == {f"model.layers.0.{layer}{part}" for layer in layers for part in (A, B)}
    adapted(IDS).logits.square().sum().backward()
    with_gradient = {name for name, p in adapted.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert with_gradient == names


def test_fresh_adapters_add_nothing_and_are_spread_as_a_linear_layer_is(adapted: PreTrainedModel) -> None:
    state = adapted.state_dict()
    new = fresh(state, "key")
    restored = merged(with_adapters(bare(state), new, state), ALPHA / RANK)
    assert all(torch.equal(restored[name], tensor) for name, tensor in bare(state).items())
    low = new["model.layers.0.self_attn.q_proj" + A]  # of 16 inputs
    assert low.abs().max() <= 0.25 and low.abs().max() > 0.2
    other = fresh(state, "other key")
    assert not torch.equal(low, other["model.layers.0.self_attn.q_proj" + A])
    assert not torch.equal(low[:, :16], new["model.layers.0.self_attn.k_proj" + A][:, :16])
    again = fresh(state, "key")
    assert all(torch.equal(again[name], tensor) for name, tensor in new.items())


def test_weights_under_adapters_are_those_that_merge_to_what_was_asked(adapted: PreTrainedModel) -> None:
    state = adapted.state_dict()
    asked = {name: tensor + 1 for name, tensor in bare(state).items()}
    found = merged(with_adapters(under(asked, state, 3.0), state, state), 3.0)
    assert found.keys() == asked.keys()
    assert all(torch.allclose(found[name], tensor, atol=1e-6) for name, tensor in asked.items())


def test_names_of_the_plain_model(adapted: PreTrainedModel, tiny_llama: Callable[[int], str]) -> None:
    state, plain = adapted.state_dict(), load_model(tiny_llama(0), "float32").state_dict()
    assert bare(state).keys() == plain.keys()
    assert inner_name("model.layers.0.mlp.up_proj.weight", state) == "model.layers.0.mlp.up_proj.base_layer.weight"
    assert inner_name("model.norm.weight", state) == "model.norm.weight"
    assert len(adapters(state)) == 14
