"""Each problem's last judged completions, with what importance sampling needs of them (DARE, arXiv 2605.09188).

A completion is kept with the prompt tokens that it answers, so problems asked in a context, with an instruction, a
history or a soft prefix are scored again as they were asked: those belong to how the policy answers, and a soft prefix
is scored with the embeddings of the moment. Completions of a problem asked with a hint are not kept: they finish an
answer that was begun for them, and how often that succeeds is not the problem's pass rate under any weights.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from ductile.difficulty.base import Arrays, Floats
from ductile.problem import SUCCESS, Completion, Group, JudgedGroup, Problem

Tokens = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class _Kept:
    """One completion. behaviour: log-probability of the whole of it under the policy that sampled it, nats."""

    prompt: Tokens
    tokens: Tokens
    behaviour: float
    reward: float
    version: int


@dataclass(frozen=True, slots=True)
class KeptGroup:
    """Kept completions that answer the same prompt, the oldest first.

    group:     for `RunPool.score`, which reads tokens alone: the rest of problem and completions is left empty, the
               log-probabilities of single tokens too
    behaviour: [completion] float64, log-probability of the whole completion under the policy that sampled it, nats
    rewards:   [completion] float64, 0 or 1
    """

    group: Group
    behaviour: Floats
    rewards: Floats


class RolloutBuffer:
    """At most `limit` completions a problem: a new one takes the place of the oldest."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: dict[str, deque[_Kept]] = {}

    def add(self, judged: Sequence[JudgedGroup]) -> None:
        """Keep the completions that could be judged, of problems that were asked without a hint."""
        for each in judged:
            if each.group.problem.hint:
                continue
            prompt = each.group.prompt_tokens.astype(np.int32)
            for completion, reward in zip(each.group.completions, each.rewards, strict=True):
                if np.isfinite(reward):
                    kept = self._kept.setdefault(completion.problem_id, deque(maxlen=self._limit))
                    behaviour = float(completion.logps.sum(dtype=np.float64))
                    tokens = completion.tokens.astype(np.int32)
                    kept.append(_Kept(prompt, tokens, behaviour, float(reward > SUCCESS), completion.policy_version))

    def groups(self, ids: Sequence[str]) -> list[KeptGroup]:
        """What is kept of these problems, in order; nothing of those that it holds nothing of."""
        return [
            _group(id, list(same))
            for id in ids
            for _, same in groupby(self._kept.get(id, ()), key=lambda kept: kept.prompt.tobytes())
        ]

    def snapshot(self) -> Arrays:
        """All completions, flat: those of one problem after another, and where each list of tokens ends.

        A prompt is written once for all the neighbours that answer it.
        """
        every = [kept for each in self._kept.values() for kept in each]
        fresh = [not i or every[i].prompt is not every[i - 1].prompt for i in range(len(every))]
        prompts, prompt_ends = _flat([kept.prompt for kept, is_new in zip(every, fresh, strict=True) if is_new])
        tokens, token_ends = _flat([kept.tokens for kept in every])
        return {
            "ids": np.frombuffer(json.dumps(list(self._kept)).encode(), np.uint8),
            "sizes": np.array([len(each) for each in self._kept.values()], np.int64),
            "prompts": prompts,
            "prompt_ends": prompt_ends,
            "prompt": np.cumsum(fresh, dtype=np.int64) - 1,
            "tokens": tokens,
            "token_ends": token_ends,
            "behaviour": np.array([kept.behaviour for kept in every], np.float64),
            "rewards": np.array([kept.reward for kept in every], np.float64),
            "versions": np.array([kept.version for kept in every], np.int64),
        }

    def restore(self, snapshot: Arrays) -> None:
        """Become what `snapshot` describes."""
        ids = json.loads(snapshot["ids"].tobytes())
        prompts = _ragged(snapshot["prompts"], snapshot["prompt_ends"])
        columns = (snapshot[name].tolist() for name in ("prompt", "behaviour", "rewards", "versions"))
        every = (
            _Kept(prompts[prompt], tokens, behaviour, reward, version)
            for tokens, prompt, behaviour, reward, version in zip(
                _ragged(snapshot["tokens"], snapshot["token_ends"]), *columns, strict=True
            )
        )
        self._kept = {
            id: deque((next(every) for _ in range(size)), maxlen=self._limit)
            for id, size in zip(ids, snapshot["sizes"].tolist(), strict=True)
        }


def _group(id: str, kept: Sequence[_Kept]) -> KeptGroup:
    unknown = np.zeros(0, np.float32)
    completions = tuple(
        Completion(id, number, each.tokens, unknown, "", True, each.version) for number, each in enumerate(kept)
    )
    return KeptGroup(
        Group(Problem(id, "", 0, "", ""), kept[0].prompt, completions),
        np.array([each.behaviour for each in kept], np.float64),
        np.array([each.reward for each in kept], np.float64),
    )


def _flat(parts: Sequence[Tokens]) -> tuple[Tokens, NDArray[np.int64]]:
    """The parts in one, and where each ends."""
    return np.concatenate([np.zeros(0, np.int32), *parts]), np.cumsum([len(part) for part in parts], dtype=np.int64)


def _ragged(flat: NDArray[np.int32], ends: NDArray[np.int64]) -> list[Tokens]:
    """What `_flat` was given."""
    return [part.copy() for part in np.split(flat, ends)[:-1]]
