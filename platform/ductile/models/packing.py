"""Packed sequences through transformers' own classes: an attention function that lays the rows out side by side.

A model is called as ever, with one sequence of all rows' tokens and positions that begin anew in each row. Every layer
works on that, and only inside attention are queries, keys and values gathered to [row, head, place, width], right
padded, so that a causal attention needs no mask, and what comes out is gathered back. A prompt that rows share is
computed once, and gathered for each of them.

transformers makes no mask for an attention function that it has no mask function for (masking_utils,
`_preprocess_mask_arguments`), and hands keywords of a model's call on to its attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from ductile.packed import Packed

NAME = "ductile_packed"

_OTHER = ("softcap", "position_bias", "s_aux", "sliding_window")
"""Keywords by which an architecture asks for another attention than the plain causal one."""


def packs(model: PreTrainedModel) -> bool:
    """Whether a packed sequence can go through the model: full causal attention, by transformers' interface.

    Others, as state-space models and sliding windows, are given padded rows.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    plain = not windowed and not getattr(config, "attn_logit_softcapping", None)
    return bool(model._supports_attention_backend and kinds == {"full_attention"} and plain)


def packed_logits(model: PreTrainedModel, called: nn.Module, packed: Packed) -> Tensor:
    """Logits that predict the targets: [target, vocabulary], in the model's number format.

    called: the model, or what is wrapped around it; it must be one that `packs`.
    """
    with _attention(model):
        output = called(
            input_ids=packed.ids[None],
            position_ids=packed.positions[None],
            use_cache=False,
            logits_to_keep=packed.kept,
            packed=packed,
        )
    return output.logits[0]  # type: ignore[no-any-return]


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    packed: Packed,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each row. query, key, value: [1, head, token, width]; returns [1, token, head, width].

    Raises `NotImplementedError` for an architecture that asks for another attention.
    """
    if asked := [name for name in _OTHER if others.get(name) is not None]:
        raise NotImplementedError(f"{type(module).__name__} asks for {asked} in its attention, which is not packed")
    # A CPU without AMX takes three times as long for the same attention in bf16 as in float32 (benchmarks/step.py).
    dtype = torch.promote_types(query.dtype, torch.float32) if query.device.type == "cpu" else query.dtype
    grouped, found = query.shape[1] != key.shape[1], []
    tensors = [tensor.to(dtype) for tensor in (query, key, value)]
    for spread in packed.spreads:
        q, k, v = (_laid_out(tensor, spread) for tensor in tensors)
        with torch.autocast(query.device.type, enabled=False):
            of_rows = nn.functional.scaled_dot_product_attention(
                q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped
            )
        found.append(of_rows.transpose(1, 2).flatten(0, 1))
    return torch.cat(found).index_select(0, packed.back)[None].to(query.dtype), None


def _laid_out(tensor: Tensor, spread: Tensor) -> Tensor:
    """[1, head, token, width] to [row, head, place, width]."""
    rows = tensor[0].transpose(0, 1).index_select(0, spread.flatten())
    return rows.unflatten(0, spread.shape).transpose(1, 2)


@contextmanager
def _attention(model: PreTrainedModel) -> Iterator[None]:
    """While it is entered the model attends as `attention` does."""
    config, own = model.config, model.config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = own


AttentionInterface.register(NAME, attention)
