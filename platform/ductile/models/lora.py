"""Low-rank adapters (LoRA, arXiv 2106.09685) beside every linear layer of attention and MLP, through the peft library.

    W x + (alpha / rank) B A x

Only the learner has them. What it publishes is merged, W + (alpha / rank) B A under the plain model's names, so whoever
samples or measures knows nothing of adapters. Everything here but `inject` acts on state dicts, whole ones: how a
module is sharded is no matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ductile.randomness import same_randomness

A, B, INSIDE = ".lora_A.default.weight", ".lora_B.default.weight", ".base_layer."

Weights = Mapping[str, Tensor]


def inject(model: PreTrainedModel, rank: int, alpha: float) -> None:
    """Put adapters into the model, in place; they are as `nn.Linear` begins until `fresh` is copied into them.

    Raises `ValueError` for a model that has no linear layers but its output.
    """
    from peft import LoraConfig, inject_adapter_in_model  # its import costs seconds

    output = model.get_output_embeddings()
    linear = [name for name, part in model.named_modules() if isinstance(part, nn.Linear) and part is not output]
    if not linear:
        raise ValueError(f"{type(model).__name__} has no linear layers that adapters could stand beside")
    # peft wants a whole number, and scales by it over the rank; `scale` below is the only scale that we use.
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=linear)  # type: ignore[arg-type]
    with same_randomness():
        inject_adapter_in_model(config, model)


def is_adapter(name: str) -> bool:
    """Whether a parameter of a model with adapters is part of one."""
    return name.endswith((A, B))


def plain_name(name: str) -> str:
    """The name in the plain model of a parameter that is no adapter's."""
    return name.replace(INSIDE, ".")


def inner_name(name: str, state: Weights) -> str:
    """The name, in a state dict with adapters, of a parameter of the plain model."""
    layer, dot, last = name.rpartition(".")
    inside = f"{layer}{INSIDE}{last}" if dot else name
    return inside if inside in state else name


def adapters(state: Weights) -> dict[str, Tensor]:
    """The adapters of a state dict."""
    return {name: tensor for name, tensor in state.items() if is_adapter(name)}


def bare(state: Weights) -> dict[str, Tensor]:
    """The plain model's state dict without what the adapters add."""
    return {plain_name(name): tensor for name, tensor in state.items() if not is_adapter(name)}


def merged(state: Weights, scale: float) -> dict[str, Tensor]:
    """The plain model's state dict with what the adapters add. scale: alpha / rank."""
    return _add(bare(state), state, scale)


def under(weights: Weights, state: Weights, scale: float) -> dict[str, Tensor]:
    """What the adapters of `state` must stand beside, so that merged they give `weights`: a plain state dict."""
    return _add(weights, state, -scale)


def with_adapters(weights: Weights, beside: Weights, state: Weights) -> dict[str, Tensor]:
    """A state dict named as `state` is, of the plain model's `weights` and the adapters `beside`."""
    return {name: beside[name] if is_adapter(name) else weights[plain_name(name)] for name in state}


def fresh(state: Weights, key: str) -> dict[str, Tensor]:
    """Adapters that add nothing yet: B is 0, and A as peft begins it, uniform in +-1/sqrt(inputs).

    key: names the random numbers, the same text gives the same ones on every rank.
    """
    return {
        name: _uniform(tensor, f"{key}/{name}") if name.endswith(A) else torch.zeros_like(tensor)
        for name, tensor in adapters(state).items()
    }


def _uniform(like: Tensor, key: str) -> Tensor:
    seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1
    drawn = torch.rand(like.shape, generator=torch.Generator().manual_seed(seed))
    return ((2 * drawn - 1) / like.shape[1] ** 0.5).to(like)


def _add(weights: Weights, state: Weights, scale: float) -> dict[str, Tensor]:
    added = dict(weights)
    for name, low in adapters(state).items():
        if name.endswith(A):
            layer = name.removesuffix(A)
            weight = added[f"{layer}.weight"]
            product = state[layer + B].float() @ low.float()
            added[f"{layer}.weight"] = (weight.float() + scale * product).to(weight.dtype)
    return added
