"""Decoding is the plain forward pass, whoever computes it: prompts shared or padded, rows that leave, any member."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ductile.models.compose import ComposedPolicy
from ductile.models.decoder import Decoder, LlamaDecoder, ModelDecoder, PolicyDecoder, decoder_of
from ductile.models.soft_prefix import add_prefix
from ductile.ports import Composition, Member

VOCABULARY, WIDTH, STEPS = 37, 8, 5
PROMPTS = [[5, 6], [7, 8, 9, 10, 11, 12, 13, 14], [15, 16, 17]]
OF_ROW = torch.tensor([0, 0, 1, 2, 2])
"""Number of each row's prompt."""
MORE = torch.arange(STEPS * len(OF_ROW)).view(len(OF_ROW), STEPS) % VOCABULARY
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
LLAMA_3: dict[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama, tied": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "llama, biases": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)),
    "llama 3": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=LLAMA_3)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None)),
    "qwen 2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen 3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16)),
}
UNKNOWN: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt-2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2)),
    "mistral with a window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4)),
    "llama of dynamic angles": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, rope_parameters={"rope_type": "dynamic", "rope_theta": 500.0, "factor": 2.0})
    ),
}


def made(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make().eval()
        for name, parameter in model.named_parameters():  # as initialised they are 0 or 1
            if "norm" in name or "bias" in name:
                parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def decoded(decoder: Decoder, kept: list[int], prompts: list[list[int]] = PROMPTS) -> list[Tensor]:
    """Logits after each token, of all rows at first, and of the kept ones from the third token on."""
    ids = torch.tensor([[0] * (WIDTH - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (WIDTH - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    rows = torch.arange(len(OF_ROW))
    with torch.inference_mode():
        logits = [decoder.prefill(ids, mask, OF_ROW)]
        for step in range(STEPS):
            if step == 2:
                rows = torch.tensor(kept)
                decoder.keep(rows)
            logits.append(decoder.step(MORE[rows, step]))
    return logits


def forward(logits_of: Callable[[Tensor], Tensor], kept: list[int]) -> list[Tensor]:
    """The same of a plain forward pass over each sequence alone."""
    every = []
    for step in range(STEPS + 1):
        rows = range(len(OF_ROW)) if step < 3 else kept
        sequences = [torch.tensor([PROMPTS[OF_ROW[row]] + MORE[row, :step].tolist()]) for row in rows]
        with torch.inference_mode():
            every.append(torch.stack([logits_of(ids)[0, -1] for ids in sequences]))
    return every


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-5) -> None:
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one.log_softmax(-1), other.float().log_softmax(-1), rtol=0, atol=tolerance)


@pytest.mark.parametrize("kept", [[0, 1, 2, 3, 4], [0, 4, 2], [3]])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_fast_decoder_is_the_forward_pass(make: Callable[[], PreTrainedModel], kept: list[int]) -> None:
    model = made(make)
    assert isinstance(decoder_of(model, WIDTH + STEPS, []), LlamaDecoder)
    expected = forward(lambda ids: model(input_ids=ids, use_cache=False).logits, kept)
    assert_close(decoded(LlamaDecoder(model, WIDTH + STEPS, []), kept), expected)
    assert_close(decoded(ModelDecoder(model, WIDTH + STEPS), kept), expected)


@pytest.mark.parametrize("make", UNKNOWN.values(), ids=UNKNOWN)
def test_other_models_are_called_as_they_are(make: Callable[[], PreTrainedModel]) -> None:
    model = made(make)
    decoder = decoder_of(model, WIDTH + STEPS, [])
    assert isinstance(decoder, ModelDecoder)
    expected = forward(lambda ids: model(input_ids=ids, use_cache=False).logits, [0, 4, 2])
    assert_close(decoded(decoder, [0, 4, 2]), expected)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_fast_decoder_is_as_exact_in_bfloat16_as_the_model(make: Callable[[], PreTrainedModel]) -> None:
    exact = made(make).bfloat16().double()
    model = copy.deepcopy(exact).bfloat16()
    every = forward(lambda ids: exact(input_ids=ids, use_cache=False).logits, [0, 4, 2])

    def error(decoder: Decoder) -> float:
        found = decoded(decoder, [0, 4, 2])
        return max(float((one - other).abs().max()) for one, other in zip(found, every, strict=True))

    assert error(LlamaDecoder(model, WIDTH + STEPS, [])) < 1.5 * error(ModelDecoder(model, WIDTH + STEPS))


def test_soft_prefix_is_embedded_by_its_own_rows() -> None:
    model = made(MODELS["llama, tied"])
    add_prefix(model, 2)
    prompts = [[VOCABULARY, VOCABULARY + 1, *prompt[:5]] for prompt in PROMPTS]
    fast, slow = LlamaDecoder(model, WIDTH + STEPS, []), ModelDecoder(model, WIDTH + STEPS)
    assert_close(decoded(fast, [0, 4], prompts), decoded(slow, [0, 4], prompts))


def test_new_weights_reach_the_next_decoder() -> None:
    model, other = made(MODELS["qwen 2"]), made(MODELS["qwen 2"])
    for parameter in other.parameters():
        parameter.data *= 1.1
    before = decoded(LlamaDecoder(model, WIDTH + STEPS, []), [0])
    model.load_state_dict(other.state_dict())
    after, expected = (decoded(LlamaDecoder(each, WIDTH + STEPS, []), [0]) for each in (model, other))
    assert torch.equal(after[-1], expected[-1]) and not torch.equal(before[-1], after[-1])


def test_memory_of_a_decoder_goes_to_the_next_whatever_stands_in_it() -> None:
    model, spare = made(MODELS["qwen 2"]), list[Tensor]()
    expected = decoded(LlamaDecoder(model, WIDTH + STEPS, []), [0, 4, 2])
    places = set()
    for _ in range(3):
        decoder = LlamaDecoder(model, WIDTH + STEPS, spare)
        found = decoded(decoder, [0, 4, 2])
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
        decoder.close()
        [left] = spare
        places.add(left.data_ptr())
        with torch.inference_mode():
            left.fill_(torch.nan)
    assert len(places) == 1


def test_memory_that_does_not_fit_is_let_go() -> None:
    model = made(MODELS["qwen 2"])
    for unfit in (torch.empty(8), torch.empty(10_000, dtype=torch.float64)):
        spare = [unfit]
        decoder = LlamaDecoder(model, WIDTH + STEPS, spare)
        decoded(decoder, [0])
        assert not spare
        decoder.close()
        assert spare[0].numel() >= 2 * 2 * len(OF_ROW) * 2 * (WIDTH + STEPS) * 8 and spare[0].dtype == torch.float32


def test_no_more_memory_is_left_than_was_in_use_at_once() -> None:
    members = (Member("base", "", 1.0), Member("expert", "", 0.6), Member("anti_expert", "", -0.6))
    models = [made(MODELS[name]) for name in ("qwen 3", "llama, tied", "mistral")]
    policy, spare, sizes = ComposedPolicy(Composition(members, "expert"), models), list[Tensor](), []
    for length in (WIDTH + STEPS, 2 * (WIDTH + STEPS), WIDTH + STEPS, 3 * (WIDTH + STEPS)):
        decoder = PolicyDecoder(policy, length, spare)
        decoded(decoder, [0, 4, 2])
        assert not spare
        decoder.close()
        sizes.append(sum(left.numel() for left in spare))
    one = 2 * 2 * len(OF_ROW) * 2 * (WIDTH + STEPS) * (16 + 8 + 8)
    assert sizes == [one, 2 * one, 2 * one, 3 * one]


def test_composition_decodes_the_weighted_sum_of_its_members_logits() -> None:
    """Of three architectures, one of them not the fast decoder's."""
    models = [made(make) for make in (MODELS["llama, tied"], MODELS["qwen 2"], UNKNOWN["gpt-2"])]
    members = (Member("base", "", 1.0), Member("expert", "", 0.6), Member("anti_expert", "", -0.6))
    policy = ComposedPolicy(Composition(members, "expert"), models)
    expected = forward(lambda ids: policy(ids, torch.ones_like(ids)), [0, 4, 2])
    assert_close(decoded(PolicyDecoder(policy, WIDTH + STEPS, []), [0, 4, 2]), expected)
