"""Weights that a policy lies on give what weights that are copied into it give (`load_state_dict` is the reference)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from ductile.models.compose import ComposedPolicy
from ductile.models.soft_prefix import add_prefix
from ductile.ports import Composition, Member

IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def llama(seed: int, tied: bool, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "initializer_range": 0.5}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=tied)).to(dtype).eval()


def policy_of(model: LlamaForCausalLM) -> ComposedPolicy:
    return ComposedPolicy(Composition((Member("policy", "", 1.0),), "policy"), [model])


def published(model: LlamaForCausalLM) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_policy_on_a_state_is_the_policy_that_it_was_copied_into(tied: bool, dtype: torch.dtype) -> None:
    ours, theirs = (policy_of(llama(0, tied, dtype)) for _ in range(2))
    for seed in (1, 2):  # and once more, on what was adopted before
        state = published(llama(seed, tied, dtype))
        ours.adopt_trainable(state)
        theirs.load_trainable(state)
        assert torch.equal(ours(IDS, MASK), theirs(IDS, MASK))
        names = [name for name, _ in theirs.trainable.named_parameters()]
        assert [name for name, _ in ours.trainable.named_parameters()] == names  # tied weights still are
        assert all(parameter.requires_grad for parameter in ours.trainable.parameters())
        for name, held in ours.trainable.state_dict().items():
            assert torch.equal(held, theirs.trainable.state_dict()[name])
            if not tied:
                assert held.data_ptr() == state[name].data_ptr()


def test_state_of_another_dtype_is_converted_as_a_copy_converts_it() -> None:
    ours, theirs = (policy_of(llama(0, True, torch.bfloat16)) for _ in range(2))
    state = published(llama(1, True))
    ours.adopt_trainable(state)
    theirs.load_trainable(state)
    assert ours.trainable.dtype == torch.bfloat16
    assert torch.equal(ours(IDS, MASK), theirs(IDS, MASK))


def test_soft_prefix_that_the_state_lacks_stays_and_one_that_it_has_is_taken() -> None:
    models = [llama(seed, True) for seed in (0, 1)]
    for model in models:
        add_prefix(model, 3)
    policy, table = policy_of(models[0]), models[0].get_input_embeddings()
    before, whole = table.prefix.detach().clone(), published(models[1])
    policy.adopt_trainable({name: tensor for name, tensor in whole.items() if not name.endswith("prefix")})
    assert torch.equal(table.prefix, before) and torch.equal(table.weight, models[1].get_input_embeddings().weight)
    policy.adopt_trainable(whole)
    assert torch.equal(table.prefix, models[1].get_input_embeddings().prefix)


def spoil(state: dict[str, Tensor], how: str) -> None:
    match how:
        case "lacking":
            del state["model.norm.weight"]
        case "more":
            state["other.weight"] = torch.zeros(2)
        case "shape":
            state["model.norm.weight"] = torch.ones(15)


@pytest.mark.parametrize("how", ["lacking", "more", "shape"])
def test_state_that_does_not_fit_is_refused_whole(how: str) -> None:
    policy = policy_of(llama(0, False))
    before, state = policy(IDS, MASK), published(llama(1, False))
    spoil(state, how)
    with pytest.raises(RuntimeError, match=r"weights that do not fit LlamaForCausalLM: (model\.norm|other)\.weight"):
        policy.adopt_trainable(state)
    assert torch.equal(policy(IDS, MASK), before)
