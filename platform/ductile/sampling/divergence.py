"""Given completions under loaded policies: how likely they are, and the exact divergence of two policies on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ductile.models.compose import ComposedPolicy
from ductile.ports import Divergence
from ductile.problem import Group
from ductile.rl.batch import pad_rows
from ductile.sampling.sampler import BUCKET, filled

ROWS = 64
"""Completions that are compared at a time; bounds the memory of two full-vocabulary log-softmaxes."""


@torch.inference_mode()
def divergence(p: ComposedPolicy, q: ComposedPolicy, groups: Sequence[Group], temperature: float) -> Divergence:
    """KL between p and q on the groups' completions, in nats, at the given sampling temperature.

    Raises `ValueError` when there is no completion.
    """
    rows = [(group.prompt_tokens, completion.tokens) for group in groups for completion in group.completions]
    if not rows:
        raise ValueError("divergence of no completions")
    forward, reverse, tokens = 0.0, 0.0, 0
    for start in range(0, len(rows), ROWS):
        padded = pad_rows(rows[start : start + ROWS], p.device)
        log_p, log_q = (
            torch.log_softmax(policy(padded.ids, padded.mask)[:, :-1].double() / temperature, dim=-1)
            for policy in (p, q)
        )
        forward += float((categorical_kl(log_q, log_p) * padded.completion).sum())
        reverse += float((categorical_kl(log_p, log_q) * padded.completion).sum())
        tokens += int(padded.completion.sum())
    count = len(rows)
    return Divergence(forward / tokens, reverse / tokens, forward / count, reverse / count, tokens, count)


@torch.inference_mode()
def score(policy: ComposedPolicy, groups: Sequence[Group], temperature: float) -> list[NDArray[np.float64]]:
    """Log-probability of each completion, [completion] float64 a group, in nats at the sampling temperature.

    As in `sampler`, what comes out of a row does not depend on the rows beside it.
    """
    rows = [(group.prompt_tokens, completion.tokens) for group in groups for completion in group.completions]
    widths = defaultdict[int, list[int]](list)
    for place, (prompt, completion) in enumerate(rows):
        widths[_width(len(prompt) + len(completion))].append(place)
    scored = np.zeros(len(rows))
    for width, places in widths.items():
        for start in range(0, len(places), ROWS):
            part = places[start : start + ROWS]
            padded = pad_rows(filled([rows[place] for place in part]), policy.device, width)
            logps = torch.log_softmax(policy(padded.ids, padded.mask)[:, :-1].double() / temperature, dim=-1)
            drawn = logps.gather(-1, padded.ids[:, 1:].clamp(max=logps.shape[-1] - 1).unsqueeze(-1)).squeeze(-1)
            scored[part] = (drawn * padded.completion).sum(dim=-1)[: len(part)].cpu().numpy()
    ends = np.cumsum([len(group.completions) for group in groups])[:-1]
    return np.split(scored, ends) if groups else []


def _width(length: int) -> int:
    """What a row is padded to: by its own length alone, and always by something, so that no batch goes unmasked."""
    return (length // BUCKET + 1) * BUCKET


def categorical_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) = sum_v p (log p - log q) over the last axis, where a token with p = 0 counts nothing."""
    return torch.where(log_p > -torch.inf, log_p.exp() * (log_p - log_q), 0.0).sum(dim=-1)
