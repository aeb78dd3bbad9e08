"""A context: what stands before a problem when it is asked. The fast channel that needs no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ductile.problem import Problem


@dataclass(frozen=True)
class Context:
    """An instruction and worked examples. `name`: tells contexts apart; empty for the seed context, which is nothing.

    examples: (asked, answered) pairs, before the problem's own earlier turns.
    """

    name: str = ""
    instruction: str = ""
    examples: tuple[tuple[str, str], ...] = ()


SEED = Context()
"""The context that every population begins with: the bare problem."""


def in_context(problem: Problem, context: Context) -> Problem:
    """The problem as it is asked in the context; its id stays."""
    return replace(
        problem,
        context=context.name,
        instruction=context.instruction,
        history=(*context.examples, *problem.history),
    )


def with_prefixes(problems: Sequence[Problem], prefixes: Mapping[str, tuple[int, ...]]) -> list[Problem]:
    """The problems with the soft prefix of their domain, where it has one. prefixes: domain key -> token ids."""
    return [
        replace(problem, prefix=prefixes[problem.domain]) if problem.domain in prefixes else problem
        for problem in problems
    ]
