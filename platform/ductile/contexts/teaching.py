"""What teaches a base built from scratch to follow contexts: some of its rows are asked in one that fits the target.

Without it neither an instruction nor an example would change what a small model does, and a population of contexts
would have nothing to work with. Rows that are asked without a context stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ductile.contexts.context import Context, in_context
from ductile.contexts.vocabulary import instruction
from ductile.domains import WorkedDomain
from ductile.problem import Problem

MOST_EXAMPLES = 2
"""Worked examples before a question: one, or so many as often."""


@dataclass(frozen=True)
class Teaching:
    """Shares of the rows that get an instruction, and that get worked examples; drawn independently of each other.

    positions: longest row in characters, the end included; examples that do not fit are left out.
    """

    instructed: float
    examples: float
    positions: int

    def row(
        self,
        problem: Problem,
        format: str,
        domain: WorkedDomain,
        formats: Sequence[str],
        others: Sequence[Sequence[Problem]],
        rng: np.random.Generator,
    ) -> tuple[Problem, str]:
        """The problem as it is asked, and the format of its solution: one of `formats`, each as often, in a context.

        Without a context it is the problem and the format that were given. others: problems that the examples are
        taken from, by level; the problem itself is none of its examples.
        """
        instructed, shown = (rng.random(2) < (self.instructed, self.examples)).tolist()
        count = int(rng.integers(1, MOST_EXAMPLES + 1))
        if not (instructed or shown):
            return problem, format
        format = formats[int(rng.integers(len(formats)))]
        examples = [worked_example(domain, _other(problem, others, rng), format) for _ in range(count if shown else 0)]
        asked = in_context(problem, Context("", instruction(format) if instructed else "", tuple(examples)))
        solution = domain.solution(problem, format)
        while examples and len(asked.transcript) + len(solution) + 1 > self.positions:
            examples.pop()
            asked = in_context(problem, Context("", asked.instruction, tuple(examples)))
        return asked, format


def worked_example(domain: WorkedDomain, problem: Problem, format: str) -> tuple[str, str]:
    """A problem and its solution as an earlier turn, which a newline ends."""
    return problem.transcript, domain.solution(problem, format) + "\n"


def _other(problem: Problem, others: Sequence[Sequence[Problem]], rng: np.random.Generator) -> Problem:
    pool = others[int(rng.integers(len(others)))]
    place = int(rng.integers(len(pool)))
    found = pool[place]
    return found if found.id != problem.id else pool[(place + 1) % len(pool)]
