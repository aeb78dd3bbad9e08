"""Policies as a sum of logits (proxy-tuning, arXiv 2401.08565, section 2): softmax of sum_m c_m * logits_m.

A single model is the composition with one member of coefficient 1. With base, expert and anti-expert,

    logits = base + alpha * (expert - anti_expert)

and only the trainable member's parameters get gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ductile.models.linear import linears_for
from ductile.models.load import load_model
from ductile.models.packing import packed_logits, packs
from ductile.models.soft_prefix import is_prefix
from ductile.packed import Packed
from ductile.ports import Composition


class ComposedPolicy(nn.Module):
    """Models that share a tokenizer, added in logit space.

    vocabulary: size of the smallest member's; the logits beyond it are cut off.
    """

    def __init__(self, composition: Composition, models: Sequence[PreTrainedModel]) -> None:
        super().__init__()
        self.composition = composition
        self.members = nn.ModuleDict({m.role: model for m, model in zip(composition.members, models, strict=True)})
        for role, model in self.members.items():
            model.requires_grad_(role == composition.trainable)
        # Counted once: under ZeRO 3 a weight has no rows between two forward passes.
        self.vocabulary = min(int(model.get_output_embeddings().weight.shape[0]) for model in models)
        self.prefixed = any(member.prefix for member in composition.members)

    @classmethod
    def load(cls, composition: Composition, dtype: str) -> ComposedPolicy:
        """All members from their folders."""
        return cls(composition, [load_model(m.path, dtype, m.prefix) for m in composition.members])

    @property
    def trainable(self) -> PreTrainedModel:
        """The member whose parameters are learned."""
        return self.members[self.composition.trainable]  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        """Where the policy's parameters are."""
        return next(self.parameters()).device

    def set_coefficients(self, composition: Composition) -> None:
        """Weigh the same models as another composition of them does; raises `ValueError` for one of others."""
        if composition.models != self.composition.models:
            raise ValueError(f"composition of other models: {composition.models}, loaded: {self.composition.models}")
        self.composition = composition

    def load_trainable(self, state: Mapping[str, Tensor]) -> None:
        """Copy a state dict into the trainable member; soft prefixes that it lacks stay as they are."""
        own = {name: tensor for name, tensor in self.trainable.state_dict().items() if is_prefix(name)}
        self.trainable.load_state_dict({**own, **state})

    @torch.no_grad()
    def adopt_trainable(self, state: Mapping[str, Tensor]) -> None:
        """`load_trainable` without a copy: on the CPU, the trainable member then lies on the state's own memory.

        Nobody may write to the state from then on, nor to the policy. Only a tensor of another dtype is converted, and
        on a GPU it is copied to where the weights are, whose addresses CUDA graphs know. Raises `RuntimeError` for a
        state that does not fit.
        """
        held = self.trainable.state_dict(keep_vars=True)
        lacking = {name for name in held if not is_prefix(name)} - state.keys()
        other = {name for name, tensor in state.items() if name not in held or held[name].shape != tensor.shape}
        if lacking or other:
            names = ", ".join(sorted(lacking | other))
            raise RuntimeError(f"weights that do not fit {type(self.trainable).__name__}: {names}")
        for name, tensor in state.items():
            if held[name].device.type == "cpu":
                held[name].data = tensor.to(held[name].dtype)
            else:
                held[name].copy_(tensor)

    def forward(self, ids: Tensor, mask: Tensor, trained: nn.Module | None = None) -> Tensor:
        """Logits of a batch of whole sequences: the reference for `completion_logits`.

        ids, mask: [row, position] int64, padding is 0 in `mask`; `trained` stands in for the trainable member.
        Returns [row, position, vocabulary] float32. Without a soft prefix it reads the ids as if there were none.
        """
        if not self.prefixed:
            mask = mask * (ids < self.vocabulary)
            ids = ids.clamp(max=self.vocabulary - 1)
        positions = position_ids(mask)

        def logits(_: PreTrainedModel, called: nn.Module) -> Tensor:
            return called(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits  # type: ignore[no-any-return]

        return self._sum(logits, trained)

    def completion_logits(self, packed: Packed, trained: nn.Module | None = None) -> Tensor:
        """Logits that predict the completions' tokens, [target, vocabulary] float32; `trained` as in `forward`.

        What no completion token is predicted from (prompts, padding) is given no logits. Members whose architecture
        cannot be packed are given padded rows. Soft prefixes are for policies that have them.
        """

        def logits(model: PreTrainedModel, called: nn.Module) -> Tensor:
            return completion_logits(model, called, packed)

        return self._sum(logits, trained)

    def _sum(self, logits: Callable[[PreTrainedModel, nn.Module], Tensor], trained: nn.Module | None) -> Tensor:
        """Coefficient times logits(member, what is called for it) over the members, [..., vocabulary] float32."""
        total: Tensor | None = None
        for member in self.composition.members:
            model: PreTrainedModel = self.members[member.role]  # type: ignore[assignment]
            learned = member.role == self.composition.trainable
            with torch.set_grad_enabled(learned and torch.is_grad_enabled()), linears_for(next(model.parameters())):
                own = logits(model, trained if learned and trained is not None else model)
            own = own[..., : self.vocabulary].float()
            scaled = own if member.coefficient == 1 else member.coefficient * own
            total = scaled if total is None else total + scaled
        assert total is not None
        return total


def completion_logits(model: PreTrainedModel, called: nn.Module, packed: Packed) -> Tensor:
    """Logits that predict the targets, [target, vocabulary]; called: the model, or what is wrapped around it."""
    return packed_logits(model, called, packed) if packs(model) else padded_logits(called, packed)


def padded_logits(called: nn.Module, packed: Packed) -> Tensor:
    """Logits that predict the targets, [target, vocabulary], from rows padded on the right."""
    longest = max(spread.shape[1] for spread in packed.spreads)
    spread = torch.cat([nn.functional.pad(part, (0, longest - part.shape[1])) for part in packed.spreads])
    mask = torch.arange(longest, device=spread.device) < packed.lengths[:, None]
    ids, real = packed.ids[spread], mask.long()
    logits = called(input_ids=ids, attention_mask=real, position_ids=position_ids(real), use_cache=False).logits
    places = torch.empty_like(packed.ids)  # where each token stands; of a prompt that rows share, in one of them
    places[spread[mask]] = mask.flatten().nonzero().squeeze(-1)
    return logits.flatten(0, 1)[places[packed.kept]]  # type: ignore[no-any-return]


def without_prefixes(composition: Composition) -> Composition:
    """The composition as its folders have it: nobody trained a prefix."""
    return replace(composition, members=tuple(replace(member, prefix=0) for member in composition.members))


def position_ids(mask: Tensor) -> Tensor:
    """Position of each token counted from its row's first real one. mask, result: [row, position] int64."""
    return (mask.cumsum(dim=-1) - 1).clamp(min=0)
