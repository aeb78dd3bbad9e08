"""Policies of a few hundred weights: random models of several architectures, alone and composed."""

from __future__ import annotations

import copy

import numpy as np
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)

from ductile.inspected import Rows
from ductile.inspection import LoadedPolicy
from ductile.models.compose import ComposedPolicy
from ductile.ports import Composition, Member

VOCABULARY = 11
SHARED = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}


def llama(seed: int = 0, layers: int = 2) -> LlamaForCausalLM:
    """SwiGLU, tied embeddings: 2 layers of width 8 with 12 units each."""
    config = LlamaConfig(
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=32,
        tie_word_embeddings=True,
        **SHARED,
    )
    return _random(LlamaForCausalLM, config, seed)


def gpt2(seed: int = 0) -> GPT2LMHeadModel:
    """GELU, a dropout of 0.1 that must not act: 2 layers of width 8 with 32 units each."""
    return _random(GPT2LMHeadModel, GPT2Config(n_embd=8, n_layer=2, n_head=2, n_positions=32, **SHARED), seed)


def opt(seed: int = 0) -> OPTForCausalLM:
    """ReLU: 2 layers of width 8 with 12 units each."""
    config = OPTConfig(
        hidden_size=8,
        ffn_dim=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        word_embed_proj_dim=8,
        **SHARED,
    )
    return _random(OPTForCausalLM, config, seed)


def neox(seed: int = 0) -> GPTNeoXForCausalLM:
    """GELU: 2 layers of width 8 with 12 units each."""
    config = GPTNeoXConfig(
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        **SHARED,
    )
    return _random(GPTNeoXForCausalLM, config, seed)


def single(model: PreTrainedModel) -> LoadedPolicy:
    """The model as a policy of its own."""
    return LoadedPolicy(ComposedPolicy(Composition((Member("policy", "", 1.0),), "policy"), [model]))


def proxy(base: PreTrainedModel, expert: PreTrainedModel, alpha: float = 1.5) -> LoadedPolicy:
    """base + alpha * (expert - another expert)."""
    other = copy.deepcopy(expert)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.9)
    members = (Member("base", "", 1.0), Member("expert", "", alpha), Member("anti_expert", "", -alpha))
    return LoadedPolicy(ComposedPolicy(Composition(members, "expert"), [base, expert, other]))


def random_rows(count: int, seed: int = 0) -> Rows:
    """Prompts and completions of 1 to 5 tokens."""
    rng = np.random.default_rng(seed)

    def tokens() -> np.ndarray:
        return rng.integers(0, VOCABULARY, rng.integers(1, 6)).astype(np.int32)

    return [(tokens(), tokens()) for _ in range(count)]


def _random(kind, config, seed: int):  # type: ignore[no-untyped-def]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():  # as initialised it would depend on next to nothing
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model
