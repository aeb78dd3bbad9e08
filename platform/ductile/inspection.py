"""A loaded policy that can be looked into: implements `probes.base.Inspected` for causal language models.

Everything is read with forward hooks and `autograd.grad` in evaluation mode, so that neither weights nor gradients nor
random number generators are other afterwards than before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ductile.inspected import GradientNorms, HiddenStates, Rows
from ductile.models.compose import ComposedPolicy, position_ids
from ductile.models.soft_prefix import is_prefix
from ductile.rl.batch import Batch, Padded, Row, micro_batches, pad_rows
from ductile.rl.kl import token_entropy
from ductile.rl.objective import Objective, micro_loss
from ductile.rl.supervised import Supervised, likelihood_loss

CHUNK = 32
"""Rows that are looked at at a time; bounds the memory of what is kept of every layer."""

MICRO_TOKENS = 4096
"""Tokens of a backward pass over a batch."""

PROJECTIONS = ("down_proj", "fc2", "dense_4h_to_h")
"""Names of an MLP's output projection: Llama, Qwen and Gemma; OPT and Phi; GPT-NeoX."""


class LoadedPolicy:
    """A policy on its device, in evaluation mode. forwarded: tokens that went through it, once for each model."""

    def __init__(self, policy: ComposedPolicy) -> None:
        self._policy = policy.eval()
        self.forwarded = 0

    def weights(self) -> dict[str, Tensor]:
        """Parameters of the trainable member by name; a tied one once, and no soft prefix: the base has none."""
        named = self._policy.trainable.named_parameters()
        return {name: parameter.detach() for name, parameter in named if not is_prefix(name)}

    @torch.no_grad()
    def hidden_states(self, rows: Rows) -> Iterator[HiddenStates]:
        """The trainable member's residual stream, in chunks of rows."""
        for padded in self._chunks(rows):
            states = self._member(padded, output_hidden_states=True).hidden_states
            yield HiddenStates(torch.stack(states).float(), padded.mask.bool(), padded.completion)

    @torch.no_grad()
    def unit_activations(self, rows: Rows) -> Iterator[dict[str, Tensor]]:
        """MLP layer -> [completion position, unit]."""
        for padded in self._chunks(rows):
            with _Inputs(output_projections(self._policy.trainable)) as inputs:
                self._member(padded)
            yield {name: _at_completion(h, padded).float() for name, h in inputs.items()}

    def unit_gradients(self, rows: Rows) -> Iterator[dict[str, Tensor]]:
        """MLP layer -> [completion position, unit], absolute values."""
        for padded, nll, inputs in self._nll(rows):
            gradients = torch.autograd.grad(nll, list(inputs.values()))
            yield {
                name: _at_completion(gradient, padded).abs().float()
                for name, gradient in zip(inputs, gradients, strict=True)
            }

    def nll_gradient_norm(self, rows: Rows) -> float:
        """Norm of the gradient of the rows' mean cross-entropy by the trainable weights."""
        weights = list(self._policy.trainable.parameters())
        total = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
        for _, nll, _ in self._nll(rows):
            _add(total, torch.autograd.grad(nll, weights, allow_unused=True))
        return _dot(total, total) ** 0.5

    @torch.no_grad()
    def entropies(self, rows: Rows, temperature: float) -> NDArray[np.float64]:
        """[completion position] entropy of the composed policy's next token, nats."""
        parts = [np.zeros(0)]
        for padded in self._chunks(rows):
            logits = self._logits(padded)[:, :-1][padded.completion].double()
            parts.append(token_entropy(logits / temperature).cpu().numpy())
        return np.concatenate(parts)

    def gradient_norms(self, batch: Batch, objective: Objective | Supervised, temperature: float) -> GradientNorms:
        """The objective's gradient on the batch, in parts by the successes of a row's group."""
        by_successes: dict[int, list[Row]] = {}
        for row in batch.rows:
            by_successes.setdefault(row.successes, []).append(row)
        parts = {k: self._gradient(Batch(tuple(by_successes[k])), objective, temperature) for k in sorted(by_successes)}
        total = [torch.stack(tensors).sum(dim=0) for tensors in zip(*parts.values(), strict=True)]
        return GradientNorms(
            _dot(total, total) ** 0.5,
            {k: _dot(part, part) ** 0.5 for k, part in parts.items()},
            {k: _dot(part, total) for k, part in parts.items()},
        )

    def _gradient(self, batch: Batch, objective: Objective | Supervised, temperature: float) -> list[Tensor]:
        weights = list(self._policy.trainable.parameters())
        total = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
        if not self._policy.prefixed:  # see `_chunks`
            vocabulary = self._policy.vocabulary
            batch = Batch(tuple(replace(row, prompt=row.prompt[row.prompt < vocabulary]) for row in batch.rows))
        self.forwarded += sum(row.tokens for row in batch.rows) * len(self._policy.composition.members)
        for micro in micro_batches(batch, MICRO_TOKENS, self._policy.device):
            logits = self._policy.completion_logits(micro.packed)
            if isinstance(objective, Supervised):
                loss, _ = likelihood_loss(logits, micro)
            else:
                loss, _ = micro_loss(logits, None, micro, objective, temperature)
            _add(total, torch.autograd.grad(loss, weights, allow_unused=True))
        return [tensor.cpu() for tensor in total]  # one for each k is kept: not where the policy is

    def _nll(self, rows: Rows) -> Iterator[tuple[Padded, Tensor, dict[str, Tensor]]]:
        """Of each chunk: its share of the mean cross-entropy of all rows, and the units that it passed through."""
        tokens = sum(len(completion) for _, completion in rows)
        for padded in self._chunks(rows):
            with torch.enable_grad(), _Inputs(output_projections(self._policy.trainable)) as inputs:
                logits = self._logits(padded)[:, :-1][padded.completion]
                following = padded.ids[:, 1:][padded.completion]
                nll = nn.functional.cross_entropy(logits, following, reduction="sum") / tokens
            yield padded, nll, inputs

    def _chunks(self, rows: Rows) -> Iterator[Padded]:
        if not self._policy.prefixed:  # it reads prompts as if no soft prefix stood before them
            rows = [(prompt[prompt < self._policy.vocabulary], completion) for prompt, completion in rows]
        for start in range(0, len(rows), CHUNK):
            yield pad_rows(rows[start : start + CHUNK], self._policy.device)

    def _logits(self, padded: Padded) -> Tensor:
        self.forwarded += int(padded.mask.sum()) * len(self._policy.composition.members)
        return self._policy(padded.ids, padded.mask)

    def _member(self, padded: Padded, output_hidden_states: bool = False) -> Any:
        self.forwarded += int(padded.mask.sum())
        return self._policy.trainable(
            input_ids=padded.ids,
            attention_mask=padded.mask,
            position_ids=position_ids(padded.mask),
            use_cache=False,
            output_hidden_states=output_hidden_states,
        )


def output_projections(model: nn.Module) -> dict[str, nn.Module]:
    """The MLPs' output projections by name, in the order of the layers; empty for an architecture not known here.

    GPT-2 calls its attention's projection `c_proj` too, so that name counts only inside an MLP.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if (parts := name.split("."))[-1] in PROJECTIONS or (parts[-1] == "c_proj" and "mlp" in parts)
    }


class _Inputs:
    """While it is entered: the input of each module's latest call, by name."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self._modules = modules

    def __enter__(self) -> dict[str, Tensor]:
        inputs: dict[str, Tensor] = {}

        def keep(name: str, h: Tensor) -> None:
            inputs[name] = h

        self._handles = [
            module.register_forward_pre_hook(lambda _, arguments, name=name: keep(name, arguments[0]))
            for name, module in self._modules.items()
        ]
        return inputs

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


def _at_completion(h: Tensor, padded: Padded) -> Tensor:
    """[completion position, unit] of what a layer saw, which some models flatten to [row * position, unit]."""
    return h.reshape(*padded.ids.shape, -1)[:, :-1][padded.completion]


def _add(total: list[Tensor], gradients: tuple[Tensor | None, ...]) -> None:
    for tensor, gradient in zip(total, gradients, strict=True):
        if gradient is not None:
            tensor += gradient


def _dot(a: list[Tensor], b: list[Tensor]) -> float:
    return float(sum((x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)))
