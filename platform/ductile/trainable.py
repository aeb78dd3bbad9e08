"""What of the trainable member is learned, and how the engine's state becomes the weights that everyone else sees.

    all weights    the engine's state is the policy's
    LoRA           the weights are frozen, adapters beside them are learned (`learner.lora`)
    fast LoRA      all weights are learned slowly, and an adapter for each domain fast      } the FST-style
    soft prefix    all weights are learned slowly, and a prefix for each domain fast        } fast channels

After arXiv 2605.12484, whose fast channel is a prompt that a language model evolves; ours are "FST-style". Engine
states are whole state dicts on the CPU, so none of this depends on how the engine shards them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedModel

from ductile.config import RunSettings
from ductile.engines.base import Fast
from ductile.models.lora import (
    adapters,
    bare,
    fresh,
    inject,
    inner_name,
    is_adapter,
    merged,
    plain_name,
    under,
    with_adapters,
)
from ductile.models.soft_prefix import is_prefix, slot_ids
from ductile.ports import OTHER_DOMAINS

Weights = Mapping[str, Tensor]


class Trainable(Protocol):
    """What is trained, between the engine's state and the weights that are published.

    fast: the parameters that learn at a rate of their own, forgotten by the optimizer when the domain changes;
    domain: the key of the domain of the phase; begins_anew: whether `adopt` leaves nothing of what was learned.
    """

    fast: Fast | None
    domain: str
    begins_anew: bool

    def start(self, state: Weights) -> Weights | None:
        """What the engine takes on when it is new; None: nothing else."""

    def published(self, state: Weights) -> Weights:
        """The plain model's state dict, as it is sampled from."""

    def adopt(self, weights: Weights, state: Weights) -> Weights:
        """An engine state that is published as `weights`."""

    def start_phase(self, domain: str, state: Weights) -> Weights | None:
        """The engine's state for another domain; None: it stays as it is."""

    def switch(self, state: Weights) -> Weights | None:
        """The engine's state after a phase switch, where the settings ask for another; the optimizer begins anew."""

    def inner(self, name: str, state: Weights) -> str:
        """The engine's name of a parameter of the plain model."""

    def slow(self, name: str) -> str | None:
        """The plain model's name of an engine's parameter; None for one that the plain model does not have."""

    def experts(self, state: Weights) -> dict[str, Weights]:
        """Domain key -> published weights, for the domains that have some of their own."""

    def prefixes(self) -> dict[str, tuple[int, ...]]:
        """Domain key -> ids of its soft prefix."""

    def channels(self, state: Weights, base: Weights) -> dict[str, dict[str, Weights]]:
        """See `ports.Learner.channels`."""

    def snapshot(self) -> dict[str, Any]:
        """What is not in the engine's state, as plain values."""

    def tensors(self, state: Weights) -> dict[str, Tensor]:
        """What the published weights do not tell."""

    def restore(self, snapshot: Mapping[str, Any], tensors: Weights, state: Weights) -> Weights | None:
        """Become what was saved; returns the engine's state, None where the published weights are all of it."""


def make_trainable(model: PreTrainedModel, settings: RunSettings, vocabulary: int) -> Trainable:
    """Adapters are put into the model, in place. vocabulary: the id at which a soft prefix begins."""
    variant, lora = settings.variant, settings.learner.lora
    if variant.prefix_tokens is not None:
        assert variant.fast_lr is not None
        return SoftPrefix(variant.prefix_tokens, variant.fast_lr, vocabulary)
    rank = variant.fast_rank or lora.rank
    if not rank:
        return AllWeights()
    inject(model, rank, lora.alpha)
    if variant.fast_rank is not None:
        assert variant.fast_lr is not None
        model.requires_grad_(True)
        return FastLora(lora.alpha / rank, variant.fast_lr, settings.seed)
    return Lora(lora.alpha / rank, lora.switch, settings.seed)


class AllWeights:
    """Every weight of the plain model, and nothing else."""

    fast: Fast | None = None
    begins_anew = False

    def __init__(self) -> None:
        self.domain = ""

    def start(self, state: Weights) -> Weights | None:
        """See `Trainable.start`."""
        return None

    def published(self, state: Weights) -> Weights:
        """See `Trainable.published`."""
        return state

    def adopt(self, weights: Weights, state: Weights) -> Weights:
        """See `Trainable.adopt`."""
        return weights

    def start_phase(self, domain: str, state: Weights) -> Weights | None:
        """See `Trainable.start_phase`."""
        self.domain = domain
        return None

    def switch(self, state: Weights) -> Weights | None:
        """See `Trainable.switch`."""
        return None

    def inner(self, name: str, state: Weights) -> str:
        """See `Trainable.inner`."""
        return name

    def slow(self, name: str) -> str | None:
        """See `Trainable.slow`."""
        return name

    def experts(self, state: Weights) -> dict[str, Weights]:
        """See `Trainable.experts`."""
        return {}

    def prefixes(self) -> dict[str, tuple[int, ...]]:
        """See `Trainable.prefixes`."""
        return {}

    def channels(self, state: Weights, base: Weights) -> dict[str, dict[str, Weights]]:
        """See `Trainable.channels`."""
        return {}

    def snapshot(self) -> dict[str, Any]:
        """See `Trainable.snapshot`."""
        return {"domain": self.domain}

    def tensors(self, state: Weights) -> dict[str, Tensor]:
        """See `Trainable.tensors`."""
        return {}

    def restore(self, snapshot: Mapping[str, Any], tensors: Weights, state: Weights) -> Weights | None:
        """See `Trainable.restore`."""
        self.domain = snapshot["domain"]
        return None


class Lora(AllWeights):
    """Adapters alone; the weights beside them are frozen. scale: alpha / rank; at_switch: `learner.lora.switch`."""

    begins_anew = True

    def __init__(self, scale: float, at_switch: str, seed: int) -> None:
        super().__init__()
        self._scale, self._at_switch, self._seed = scale, at_switch, seed
        self._made = 0  # adapters so far, each with random numbers of its own

    def start(self, state: Weights) -> Weights | None:
        """See `Trainable.start`."""
        return self.adopt(bare(state), state)

    def published(self, state: Weights) -> Weights:
        """See `Trainable.published`."""
        return merged(state, self._scale)

    def adopt(self, weights: Weights, state: Weights) -> Weights:
        """See `Trainable.adopt`."""
        self._made += 1
        return with_adapters(weights, fresh(state, f"{self._seed}/lora/{self._made}"), state)

    def switch(self, state: Weights) -> Weights | None:
        """See `Trainable.switch`."""
        if self._at_switch == "carry":
            return None
        return self.adopt(bare(state) if self._at_switch == "reset" else self.published(state), state)

    def inner(self, name: str, state: Weights) -> str:
        """See `Trainable.inner`."""
        return inner_name(name, state)

    def slow(self, name: str) -> str | None:
        """See `Trainable.slow`."""
        return None if is_adapter(name) else plain_name(name)

    def snapshot(self) -> dict[str, Any]:
        """See `Trainable.snapshot`."""
        return {"domain": self.domain, "made": self._made}

    def tensors(self, state: Weights) -> dict[str, Tensor]:
        """See `Trainable.tensors`."""
        return dict(state)

    def restore(self, snapshot: Mapping[str, Any], tensors: Weights, state: Weights) -> Weights | None:
        """See `Trainable.restore`."""
        self.domain, self._made = snapshot["domain"], snapshot["made"]
        return {name: tensors[name] for name in state}


class FastLora(AllWeights):
    """An adapter for each domain beside weights that all domains share. Those of other domains stay as they were."""

    def __init__(self, scale: float, lr: float, seed: int) -> None:
        super().__init__()
        self.fast = Fast(lr, is_adapter)
        self._scale, self._seed = scale, seed
        self._kept: dict[str, dict[str, Tensor]] = {}  # domain key -> adapter, of those that are not in the engine

    def start(self, state: Weights) -> Weights | None:
        """See `Trainable.start`."""
        return with_adapters(bare(state), fresh(state, f"{self._seed}/fast_lora/"), state)

    def published(self, state: Weights) -> Weights:
        """See `Trainable.published`."""
        return merged(state, self._scale)

    def adopt(self, weights: Weights, state: Weights) -> Weights:
        """The adapter stays, and the shared weights take on the rest."""
        return with_adapters(under(weights, state, self._scale), state, state)

    def start_phase(self, domain: str, state: Weights) -> Weights | None:
        """See `Trainable.start_phase`."""
        if self.domain:
            self._kept[self.domain] = adapters(state)
        self.domain = domain
        own = self._kept.pop(domain, None)
        return with_adapters(bare(state), own or fresh(state, f"{self._seed}/fast_lora/{domain}"), state)

    def inner(self, name: str, state: Weights) -> str:
        """See `Trainable.inner`."""
        return inner_name(name, state)

    def slow(self, name: str) -> str | None:
        """See `Trainable.slow`."""
        return None if is_adapter(name) else plain_name(name)

    def experts(self, state: Weights) -> dict[str, Weights]:
        """Each domain's own; every other domain is answered by the slow weights alone."""
        experts: dict[str, Weights] = {
            domain: merged({**state, **own}, self._scale) for domain, own in self._kept.items()
        }
        if self.domain:
            experts[OTHER_DOMAINS] = bare(state)
        return experts

    def channels(self, state: Weights, base: Weights) -> dict[str, dict[str, Weights]]:
        """See `Trainable.channels`."""
        known = {**self._kept, self.domain: adapters(state)} if self.domain else {}
        slow = bare(state)
        return {
            domain: {"slow": slow, "fast": merged(with_adapters(base, own, state), self._scale)}
            for domain, own in known.items()
        }

    def snapshot(self) -> dict[str, Any]:
        """See `Trainable.snapshot`."""
        return {"domain": self.domain, "kept": list(self._kept)}

    def tensors(self, state: Weights) -> dict[str, Tensor]:
        """See `Trainable.tensors`."""
        kept = {
            f"{number}/{name}": tensor for number, own in enumerate(self._kept.values()) for name, tensor in own.items()
        }
        return {**state, **kept}

    def restore(self, snapshot: Mapping[str, Any], tensors: Weights, state: Weights) -> Weights | None:
        """See `Trainable.restore`."""
        self.domain = snapshot["domain"]
        self._kept = {
            domain: {name: tensors[f"{number}/{name}"] for name in adapters(state)}
            for number, domain in enumerate(snapshot["kept"])
        }
        return {name: tensors[name] for name in state}


class SoftPrefix(AllWeights):
    """A prefix for each domain, in the order in which they are met; it is published with the weights."""

    def __init__(self, length: int, lr: float, vocabulary: int) -> None:
        super().__init__()
        self.fast = Fast(lr, is_prefix)
        self._length, self._vocabulary = length, vocabulary
        self._met: list[str] = []

    def adopt(self, weights: Weights, state: Weights) -> Weights:
        """The prefixes stay as they are."""
        return {name: state[name] if is_prefix(name) else weights[name] for name in state}

    def start_phase(self, domain: str, state: Weights) -> Weights | None:
        """See `Trainable.start_phase`."""
        self.domain = domain
        if domain not in self._met:
            self._met.append(domain)
        return None

    def slow(self, name: str) -> str | None:
        """See `Trainable.slow`."""
        return None if is_prefix(name) else name

    def prefixes(self) -> dict[str, tuple[int, ...]]:
        """See `Trainable.prefixes`."""
        return {domain: slot_ids(self._vocabulary, slot, self._length) for slot, domain in enumerate(self._met)}

    def channels(self, state: Weights, base: Weights) -> dict[str, dict[str, Weights]]:
        """The slow weights without the fast part are the policy asked without a prefix."""
        fast = {name: state[name] if is_prefix(name) else base[name] for name in state}
        return {domain: {"fast": fast} for domain in self._met}

    def snapshot(self) -> dict[str, Any]:
        """See `Trainable.snapshot`."""
        return {"domain": self.domain, "met": self._met}

    def restore(self, snapshot: Mapping[str, Any], tensors: Weights, state: Weights) -> Weights | None:
        """See `Trainable.restore`."""
        self.domain, self._met = snapshot["domain"], list(snapshot["met"])
        return None
