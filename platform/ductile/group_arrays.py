"""Groups as arrays, and back: what a checkpoint keeps of completions that no update has learned from yet.

Tokens and log-probabilities are arrays of their own; the rest is JSON, as bytes in one more array. Nothing is a pickle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ductile.problem import Completion, Group, Problem

Arrays = Mapping[str, NDArray[Any]]


def group_arrays(groups: Sequence[Group]) -> dict[str, NDArray[Any]]:
    """The groups, their problems as they were posed included. Problems' `data` must be plain JSON values."""
    completions = [completion for group in groups for completion in group.completions]
    return {
        "prompts": _joined([group.prompt_tokens for group in groups], np.int32),
        "prompt_lengths": np.array([len(group.prompt_tokens) for group in groups], np.int64),
        "tokens": _joined([completion.tokens for completion in completions], np.int32),
        "logps": _joined([completion.logps for completion in completions], np.float32),
        "lengths": np.array([len(completion.tokens) for completion in completions], np.int64),
        "document": as_bytes([_described(group) for group in groups]),
    }


def arrays_groups(arrays: Arrays) -> list[Group]:
    """What `group_arrays` was given, equal in every bit."""
    prompts = _cut(arrays["prompts"], arrays["prompt_lengths"])
    tokens, logps = _cut(arrays["tokens"], arrays["lengths"]), _cut(arrays["logps"], arrays["lengths"])

    def completion(values: Mapping[str, Any]) -> Completion:
        return Completion(tokens=next(tokens), logps=next(logps), **values)

    return [
        Group(_problem(described["problem"]), next(prompts), tuple(map(completion, described["completions"])))
        for described in from_bytes(arrays["document"])
    ]


def as_bytes(values: Any) -> NDArray[np.uint8]:
    """Plain JSON values as an array of bytes."""
    return np.frombuffer(json.dumps(values).encode(), np.uint8)


def from_bytes(array: NDArray[np.uint8]) -> Any:
    """What `as_bytes` was given, with lists for tuples."""
    return json.loads(array.tobytes())


def _described(group: Group) -> dict[str, Any]:
    names = ("problem_id", "sample", "text", "finished", "policy_version")
    return {
        "problem": asdict(group.problem),
        "completions": [{name: getattr(each, name) for name in names} for each in group.completions],
    }


def _problem(values: Mapping[str, Any]) -> Problem:
    history = tuple((asked, answered) for asked, answered in values["history"])
    return Problem(**{**values, "history": history, "prefix": tuple(values["prefix"])})


def _joined(arrays: Sequence[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype, copy=False)


def _cut(array: NDArray[Any], lengths: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
    return iter(np.split(array, np.cumsum(lengths)[:-1]) if len(lengths) else ())
