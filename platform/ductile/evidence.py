"""What the policy of the moment says of problems without being asked to answer them: hidden states and ratios.

Both cost forward passes alone, which are counted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ductile.difficulty.base import FEATURES, RATIOS
from ductile.difficulty.buffer import KeptGroup, RolloutBuffer
from ductile.difficulty.service import Gathered
from ductile.inspected import Rows
from ductile.models.load import encode_problem, load_tokenizer
from ductile.ports import PolicyRef, RunPool
from ductile.problem import Outcomes, Problem

PROMPTS = 4096
"""Prompts whose states are asked for in one call: their answer is a few megabytes."""

COMPLETIONS = 4096
"""Kept completions, at least, that are scored in one call; a pool spreads them over its actors."""


def gather(
    pool: RunPool,
    policy: PolicyRef,
    needs: Collection[str],
    problems: Sequence[Problem],
    buffer: RolloutBuffer,
    temperature: float,
    reference: Outcomes | None = None,
) -> tuple[Gathered, int]:
    """What estimators of these `needs` take in at a refresh, and the tokens that went through a model for it.

    problems:    those that evidence is wanted of, each once, as they are asked at a step
    buffer:      what is kept of their completions
    temperature: that the completions were sampled at. Like the log-probabilities that sampling keeps, ratios are of the
                 whole softmax at this temperature: `rollout.top_p` below 1 is in neither policy.
    reference:   outcomes that were rolled out anew, where that is needed: passed on
    """
    states: NDArray[np.float32] | None = None
    ratios, cost = np.zeros(0), 0
    if FEATURES in needs and problems:
        states, cost = prompt_states(pool, policy, problems)
    kept = buffer.groups([problem.id for problem in problems]) if RATIOS in needs else []
    if kept:
        ratios, tokens = log_ratios(pool, policy, kept, temperature)
        cost += tokens
    return Gathered(
        feature_ids=[] if states is None else [problem.id for problem in problems],
        features=states,
        ratio_ids=[each.group.problem.id for each in kept for _ in each.rewards],
        log_ratios=ratios.tolist(),
        rewards=[float(reward) for each in kept for reward in each.rewards],
        reference=reference,
    ), cost


def prompt_states(pool: RunPool, policy: PolicyRef, problems: Sequence[Problem]) -> tuple[NDArray[np.float32], int]:
    """Hidden states of the prompts' last tokens, [problem, width], of at least one problem; and the tokens it took.

    They are what the last layer's final norm returns in the trainable member; prompts are encoded as for sampling.
    """
    tokenizer = load_tokenizer(policy.composition.members[0].path)
    parts, forwarded = [], 0
    for start in range(0, len(problems), PROMPTS):
        part = problems[start : start + PROMPTS]
        prompts = [np.array(encode_problem(tokenizer, problem), np.int32) for problem in part]
        rows = [(prompt, np.zeros(0, np.int32)) for prompt in prompts]
        states, tokens = pool.inspect(policy, partial(last_states, rows=rows))
        parts.append(states)
        forwarded += tokens
    return np.concatenate(parts), forwarded


def last_states(loaded: Any, rows: Rows) -> tuple[NDArray[np.float32], int]:
    """[row, width], the last layer's hidden state of each row's last token; and the tokens that went through.

    loaded: an `inspection.LoadedPolicy`.
    """
    parts, before = [], loaded.forwarded
    for chunk in loaded.hidden_states(rows):
        last = chunk.mask.sum(dim=1) - 1
        parts.append(chunk.states[-1][torch.arange(len(last), device=last.device), last].cpu().numpy())
    return np.concatenate(parts), loaded.forwarded - before


def log_ratios(
    pool: RunPool, policy: PolicyRef, kept: Sequence[KeptGroup], temperature: float
) -> tuple[NDArray[np.float64], int]:
    """log pi(y) - log mu(y), [completion] float64, in the order of at least one group; and the tokens it took."""
    ratios: list[NDArray[np.float64]] = []
    tokens = 0
    for part in _parts(kept):
        groups = [each.group for each in part]
        scored = pool.score(policy, groups, temperature)
        ratios += [log_pi - each.behaviour for log_pi, each in zip(scored, part, strict=True)]
        tokens += sum(len(group.prompt_tokens) + len(c.tokens) for group in groups for c in group.completions)
    return np.concatenate(ratios), tokens * len(policy.composition.members)


def _parts(kept: Sequence[KeptGroup]) -> Iterator[list[KeptGroup]]:
    """Whole groups, until there are `COMPLETIONS`."""
    part: list[KeptGroup] = []
    count = 0
    for each in kept:
        part.append(each)
        count += len(each.rewards)
        if count >= COMPLETIONS:
            yield part
            part, count = [], 0
    if part:
        yield part
