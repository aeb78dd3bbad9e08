"""The nouns that everything else passes around: problems, completions, verdicts and groups.

Torch-free on purpose: the difficulty actor and the tracker import it without paying for torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "eval"]
"""Every problem belongs to exactly one split, decided by its content, so the two never overlap."""

Outcomes = Mapping[str, tuple[int, int]]
"""Problem id -> (successes, judged completions)."""

DIRECT = "direct"
"""Format of a completion that states the answer with no work before it. Every domain has it."""

OTHER = "other"
"""Format of a completion that is none of its domain's formats."""

SUCCESS = 0.5
"""A reward above this counts as a success."""

NO_WORK, REPEATED, SKIPPED = "no_work", "repeated", "skipped"
SHORTCUTS = (NO_WORK, REPEATED, SKIPPED)
"""Kinds of shortcut: an answer without any work, an answer given again and again, work with required steps missing."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with a checkable answer.

    `id` is stable: the same domain options, level, split and content give the same id in every process.
    `domain` is the key of the `Domain` that made it and can judge it (`Domain.key`).
    `data` holds what that domain's judge needs beyond the answer; plain JSON values only.
    `history`: the turns before the prompt, each what was asked and what was answered; empty for a single turn.

    How it is asked: `context` names the context (`contexts.context`) and is part of the key of its samples' random
    numbers; `instruction` stands before everything; `prefix` holds the ids of a soft prefix, before all other tokens;
    `hint` is the beginning of the answer, given after the prompt and judged with the completion.
    """

    id: str
    domain: str
    level: int
    prompt: str
    answer: str
    data: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[tuple[str, str], ...] = ()
    context: str = ""
    instruction: str = ""
    hint: str = ""
    prefix: tuple[int, ...] = ()

    @property
    def transcript(self) -> str:
        """Everything that is given as one text, as a model without a chat template reads it."""
        turns = "".join(asked + answered for asked, answered in self.history)
        return self.instruction + turns + self.prompt + self.hint


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled answer.

    tokens: [length] int32, the sampled tokens, the end-of-sequence token included when it was sampled.
    logps:  [length] float32, log-probability in nats of each token under the behaviour policy
            (softmax of its logits / temperature, over the full vocabulary).
    finished: False when the completion was cut at the length limit.
    """

    problem_id: str
    sample: int
    tokens: NDArray[np.int32]
    logps: NDArray[np.float32]
    text: str
    finished: bool
    policy_version: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the domain says of a completion.

    `reward` is None when the completion could not be judged (a time-out, a crashed judge): that is
    not a wrong answer, and such a completion is left out of every mean and every gradient.
    `shortcut_kind` is one of `SHORTCUTS`, or empty when the required work is there or nothing was answered.
    `answer` is the final answer as it was read, None when there is none: majority votes count these.
    """

    reward: float | None
    format: str
    shortcut_kind: str = ""
    answer: str | None = None
    note: str = ""

    @property
    def shortcut(self) -> bool:
        """Whether the answer came before or without the required work, or was repeated."""
        return bool(self.shortcut_kind)


@dataclass(frozen=True, slots=True)
class Group:
    """The completions of one problem. prompt_tokens: [length] int32."""

    problem: Problem
    prompt_tokens: NDArray[np.int32]
    completions: tuple[Completion, ...]


@dataclass(frozen=True, slots=True)
class JudgedGroup:
    """A group with one verdict per completion, in order."""

    group: Group
    verdicts: tuple[Verdict, ...]

    def __post_init__(self) -> None:
        if len(self.verdicts) != len(self.group.completions):
            raise ValueError(
                f"{self.group.problem.id}: {len(self.verdicts)} verdicts for {len(self.group.completions)} completions"
            )

    @property
    def rewards(self) -> NDArray[np.float64]:
        """[completion] float64, NaN where the completion could not be judged."""
        return np.array([np.nan if v.reward is None else v.reward for v in self.verdicts], np.float64)


def by_problem(judged: Sequence[JudgedGroup]) -> list[list[JudgedGroup]]:
    """The groups of each problem together, in the order of their first one: a problem may be asked in several contexts.

    They share one baseline, and count as one group in every statistic.
    """
    pooled: dict[str, list[JudgedGroup]] = {}
    for group in judged:
        pooled.setdefault(group.group.problem.id, []).append(group)
    return list(pooled.values())


def pooled_rewards(groups: Sequence[JudgedGroup]) -> NDArray[np.float64]:
    """[completion] float64, the rewards of all groups of one problem, NaN where a completion could not be judged."""
    return np.concatenate([group.rewards for group in groups])


def pooled_lengths(groups: Sequence[JudgedGroup]) -> NDArray[np.int64]:
    """[completion] int64, the lengths in tokens of all completions of one problem, in the order of `pooled_rewards`."""
    return np.array([len(completion.tokens) for group in groups for completion in group.group.completions], np.int64)
