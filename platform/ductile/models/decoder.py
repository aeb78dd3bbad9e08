"""Decoding: the next token's logits of many sequences at once, from a key-value cache.

`ModelDecoder` calls the transformers model once a token, whatever its architecture: the reference. `LlamaDecoder`
computes the same for the Llama family with plain operations on the model's own weights: its cache is as long as the
sequences will be and is never copied, attention reads its live part alone, rows behind move into the places of rows
that leave, and matrix products take oneDNN's kernels where PyTorch would take slower ones. A row's bits do not depend
on the other rows, from `sampler.LEAST_ROWS` of them on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, StaticCache

from ductile.models.compose import ComposedPolicy, position_ids
from ductile.models.linear import linear_for, linears_for

FAMILY = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""Classes of transformers that `LlamaDecoder` knows: they differ in biases, and in norms of each head."""

FIXED_ROPE = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary embeddings whose angles do not depend on how long a sequence has become."""


class Decoder(Protocol):
    """Sequences that are being decoded, all of them at the same position."""

    def prefill(self, ids: Tensor, mask: Tensor, prompts: Tensor) -> Tensor:
        """Read each prompt once, and go on with a row for each entry of `prompts`, the number of its prompt.

        ids, mask: [prompt, position] int64, padded on the left, padding is 0 in `mask`; prompts: [row] int64.
        Returns the logits after the prompts, [row, vocabulary] float32.
        """
        ...

    def step(self, ids: Tensor) -> Tensor:
        """Logits after one more token of each row. ids: [row] int64; returns [row, vocabulary] float32."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone, in this order. rows: [kept] int64."""
        ...

    def close(self) -> None:
        """Leave the memory to the next decoder."""
        ...


class PolicyDecoder:
    """A composition that is decoding: the sum of its members' logits."""

    def __init__(self, policy: ComposedPolicy, length: int, spare: list[Tensor]) -> None:
        """length: most tokens of a sequence, padding included. spare: see `decoder_of`."""
        self._vocabulary = policy.vocabulary
        self._members = [
            (member.coefficient, decoder_of(policy.members[member.role], length, spare))  # type: ignore[arg-type]
            for member in policy.composition.members
        ]

    def prefill(self, ids: Tensor, mask: Tensor, prompts: Tensor) -> Tensor:
        """See `Decoder`."""
        return self._sum(lambda decoder: decoder.prefill(ids, mask, prompts))

    def step(self, ids: Tensor) -> Tensor:
        """See `Decoder`."""
        return self._sum(lambda decoder: decoder.step(ids))

    def keep(self, rows: Tensor) -> None:
        """See `Decoder`."""
        for _, decoder in self._members:
            decoder.keep(rows)

    def close(self) -> None:
        """See `Decoder`."""
        for _, decoder in self._members:
            decoder.close()

    def _sum(self, logits: Callable[[Decoder], Tensor]) -> Tensor:
        (coefficient, first), *others = self._members
        total = coefficient * logits(first)[:, : self._vocabulary]
        for coefficient, decoder in others:
            total.add_(logits(decoder)[:, : self._vocabulary], alpha=coefficient)
        return total


def decoder_of(model: PreTrainedModel, length: int, spare: list[Tensor]) -> Decoder:
    """The fastest decoder that knows the model.

    spare: memory that decoders of this thread have left on a CPU, for the next ones, whatever their models.
    """
    return LlamaDecoder(model, length, spare) if _is_llama(model) else ModelDecoder(model, length)


class ModelDecoder:
    """Any causal language model of transformers, with its static cache."""

    def __init__(self, model: PreTrainedModel, length: int) -> None:
        self._model, self._weight = model, model.get_output_embeddings().weight
        self._cache = StaticCache(config=model.config, max_cache_len=length)

    def prefill(self, ids: Tensor, mask: Tensor, prompts: Tensor) -> Tensor:
        """See `Decoder`."""
        positions = position_ids(mask)
        logits = self._forward(ids, mask, positions)
        self._mask, self._positions = mask, positions[:, -1:]
        self.keep(prompts)
        return logits[prompts]

    def step(self, ids: Tensor) -> Tensor:
        """See `Decoder`."""
        self._mask, self._positions = functional.pad(self._mask, (0, 1), value=1), self._positions + 1
        return self._forward(ids.unsqueeze(-1), self._mask, self._positions)

    def keep(self, rows: Tensor) -> None:
        """See `Decoder`."""
        self._cache.reorder_cache(rows)  # type: ignore[arg-type]
        self._mask, self._positions = self._mask[rows], self._positions[rows]

    def close(self) -> None:
        """See `Decoder`. transformers makes its caches anew."""

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        with linears_for(self._weight):  # as in the update
            output = self._model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return output.logits[:, -1].float()


class LlamaDecoder:
    """The Llama family, see `FAMILY`.

    Queries, keys and values come from one matrix product, of a copy of their weights that lasts as long as the decoder.
    In it the two halves of each head are interleaved, so that rotary embeddings are one product of complex numbers;
    attention does not depend on the order of a head's dimensions. They count from the padding's first position and
    not from the prompt's, since attention sees only how far two tokens are apart.
    """

    def __init__(self, model: PreTrainedModel, length: int, spare: list[Tensor]) -> None:
        first = model.model.layers[0].self_attn
        self._embed, self._head = model.get_input_embeddings(), model.get_output_embeddings()
        self._norm, self._eps = model.model.norm.weight, model.model.norm.variance_epsilon
        self._linear = linear_for(self._norm)
        self._head_dim: int = first.head_dim
        self._heads, self._kv_heads = (each.out_features // self._head_dim for each in (first.q_proj, first.k_proj))
        self._layers = [_Layer.of(layer, self._head_dim) for layer in model.model.layers]
        self._length, self._live, self._spare = length, 0, spare
        self._angles = self._turns(model.model.rotary_emb, first.scaling)

    def prefill(self, ids: Tensor, mask: Tensor, prompts: Tensor) -> Tensor:
        """See `Decoder`."""
        width = ids.shape[1]
        x = self._embed(ids).flatten(0, 1)
        seen = mask.bool()[:, None, None, :] & torch.ones(width, width, dtype=torch.bool, device=ids.device).tril()
        seen |= torch.eye(width, dtype=torch.bool, device=ids.device)  # padding reads itself: a softmax of something
        size = (len(self._layers), 2, len(prompts), self._kv_heads, self._length, self._head_dim)
        self._memory = _memory(math.prod(size), self._spare, x)
        self._cache = self._memory[: math.prod(size)].view(size)
        self._bias = x.new_zeros(len(mask), width).masked_fill_(mask == 0, -torch.inf)[prompts][:, None, None]

        def attend(layer: int, qkv: Tensor) -> Tensor:
            heads = qkv.view(len(ids), width, -1, self._head_dim).transpose(1, 2)
            q, k, v = heads.split((self._heads, self._kv_heads, self._kv_heads), dim=1)
            self._cache[layer, 0, :, :, :width], self._cache[layer, 1, :, :, :width] = k[prompts], v[prompts]
            k, v = (each.repeat_interleave(self._heads // self._kv_heads, dim=1) for each in (k, v))
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=1.0).transpose(1, 2)

        x = self._forward(x, self._angles[:width].repeat(len(ids), 1, 1), attend)
        self._live = width
        return self._logits(x.view(len(ids), width, -1)[:, -1][prompts])

    def step(self, ids: Tensor) -> Tensor:
        """See `Decoder`."""
        place, self._live = self._live, self._live + 1
        width = self._bias.shape[-1]

        def attend(layer: int, qkv: Tensor) -> Tensor:
            kv = qkv[:, self._heads :].view(len(qkv), 2, self._kv_heads, self._head_dim)
            self._cache[layer, :, :, :, place] = kv.transpose(0, 1)
            keys, values = self._cache[layer, :, :, :, : self._live]
            q = qkv[:, : self._heads].view(len(qkv), self._kv_heads, -1, self._head_dim)
            scores = q @ keys.transpose(-1, -2)
            scores[..., :width] += self._bias
            return scores.softmax(dim=-1) @ values

        return self._logits(self._forward(self._embed(ids), self._angles[place], attend))

    def keep(self, rows: Tensor) -> None:
        """See `Decoder`. Rows that stay where they are cost nothing."""
        moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero().squeeze(-1)
        live = self._cache[..., : self._live, :]
        live[:, :, moved] = live[:, :, rows[moved]]
        self._cache, self._bias = self._cache[:, :, : len(rows)], self._bias[rows]

    def close(self) -> None:
        """See `Decoder`. PyTorch keeps a GPU's memory itself."""
        if self._memory.device.type == "cpu":
            self._spare.append(self._memory)
        del self._cache, self._memory

    def _forward(self, x: Tensor, angles: Tensor, attend: Callable[[int, Tensor], Tensor]) -> Tensor:
        """All layers. x: [token, width]; angles: [head, head dim / 2], or of each token."""
        rotated, linear = self._heads + self._kv_heads, self._linear
        for number, layer in enumerate(self._layers):
            y = linear(_rms_norm(x, layer.norm_1, self._eps), layer.qkv, layer.qkv_bias)
            qkv = y.view(len(x), -1, self._head_dim)
            if layer.q_norm is not None and layer.k_norm is not None:
                qkv[:, : self._heads] = _rms_norm(qkv[:, : self._heads], layer.q_norm, self._eps)
                qkv[:, self._heads : rotated] = _rms_norm(qkv[:, self._heads : rotated], layer.k_norm, self._eps)
            _rotate(qkv[:, :rotated], angles)
            x = x + linear(attend(number, qkv).reshape(len(x), -1), *layer.out)
            y = _rms_norm(x, layer.norm_2, self._eps)
            x = x + linear(functional.silu(linear(y, *layer.gate)).mul_(linear(y, *layer.up)), *layer.down)
        return x

    def _logits(self, x: Tensor) -> Tensor:
        return self._linear(_rms_norm(x, self._norm, self._eps), self._head.weight, self._head.bias).float()

    def _turns(self, rotary: Any, scale: float) -> Tensor:
        """[position, query or key head, head dim / 2] complex: rotary embeddings, the queries' times `scale`."""
        real = torch.promote_types(self._norm.dtype, torch.float32)
        like = torch.empty((), dtype=real, device=self._norm.device)
        cos, sin = rotary(like, position_ids=torch.arange(self._length, device=like.device).unsqueeze(0))
        turns = torch.complex(cos, sin)[0, :, None, : self._head_dim // 2]
        return torch.cat((scale * turns.expand(-1, self._heads, -1), turns.expand(-1, self._kv_heads, -1)), dim=1)


class _Layer(NamedTuple):
    """Weights of a layer, and biases where it has them; heads of queries and keys are interleaved."""

    norm_1: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    out: tuple[Tensor, Tensor | None]
    norm_2: Tensor
    gate: tuple[Tensor, Tensor | None]
    up: tuple[Tensor, Tensor | None]
    down: tuple[Tensor, Tensor | None]

    @classmethod
    def of(cls, layer: Any, head_dim: int) -> _Layer:
        """The weights of a layer of transformers."""
        own, mlp = layer.self_attn, layer.mlp
        order = torch.arange(head_dim).view(2, -1).T.flatten()

        def interleaved(rows: Tensor) -> Tensor:
            return rows.unflatten(0, (-1, head_dim))[:, order].flatten(0, 1)

        def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return torch.cat((interleaved(q), interleaved(k), v))

        return cls(
            layer.input_layernorm.weight,
            fused(own.q_proj.weight, own.k_proj.weight, own.v_proj.weight),
            None if own.q_proj.bias is None else fused(own.q_proj.bias, own.k_proj.bias, own.v_proj.bias),
            interleaved(own.q_norm.weight) if hasattr(own, "q_norm") else None,
            interleaved(own.k_norm.weight) if hasattr(own, "k_norm") else None,
            (own.o_proj.weight, own.o_proj.bias),
            layer.post_attention_layernorm.weight,
            *((each.weight, each.bias) for each in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)),
        )


def _is_llama(model: PreTrainedModel) -> bool:
    """Whether the model is one that `LlamaDecoder` computes, to the last option."""
    kind, config = type(model), model.config
    if kind.__name__ not in FAMILY or not kind.__module__.startswith("transformers.models."):
        return False
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    windowed = kind.__name__ == "MistralForCausalLM" and config.sliding_window is not None
    return (
        set(kinds) == {"full_attention"}
        and not windowed
        and config.hidden_act == "silu"
        and model.model.rotary_emb.rope_type in FIXED_ROPE
        and all(type(part) is nn.Linear for name, part in model.named_modules() if name.endswith("_proj"))
    )


def _memory(count: int, spare: list[Tensor], like: Tensor) -> Tensor:
    """At least so many numbers of no value, in memory that another decoder left where it is enough.

    New memory for the cache would cost a CPU a tenth of the time that a small model decodes (benchmarks/sampler.py),
    since each of its pages has to be asked for and cleared. Where none is enough, all that is left goes.
    """
    for place, left in enumerate(spare):
        if left.numel() >= count and left.dtype == like.dtype and left.device == like.device:
            return spare.pop(place)
    spare.clear()
    return like.new_empty(count)


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return functional.rms_norm(x, weight.shape, weight, eps)


def _rotate(heads: Tensor, angles: Tensor) -> None:
    """Rotary embedding (arXiv 2104.09864), in place.

    heads: [token, head, head dim], pairs side by side; angles: [head, head dim / 2] complex, or of each token.
    """
    real = heads.to(angles.real.dtype)
    torch.view_as_complex(real.unflatten(-1, (-1, 2))).mul_(angles)
    if real is not heads:
        heads.copy_(real)
