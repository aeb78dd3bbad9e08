"""Hints: the beginning of a worked solution is given with the problem, less and less of it.

After QuestA (known to us from another write-up only), which gives half of a solution and later a quarter; ours falls
linearly. The policy goes on from the hint, is judged on hint and completion together, and learns from its completion
alone. Neither the answer's mark nor the work's last step is ever given: in most formats that step is the answer.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

from ductile.config import DataSettings
from ductile.domains import WorkedDomain
from ductile.domains.base import Domain
from ductile.problem import DIRECT, Problem

_STEP_ENDS = re.compile(r"(?<=[;|\n])")
"""What stands between two steps of a worked solution, in the formats that have separators at all."""


def hint_share(settings: DataSettings, step: int, steps: int) -> float:
    """Share of the work that is given at a step, counted from 0, of a phase of so many steps.

    From `data.hint` at step 0 in equal parts to `data.hint_end` at step `data.hint_steps`, and that from there on.
    """
    done = min(step / (settings.hint_steps or steps), 1.0)
    return settings.hint + (settings.hint_end - settings.hint) * done


def hinted(problem: Problem, domain: Domain, share: float) -> Problem:
    """The problem with this share of its work, in the domain's first worked format, as its hint.

    Raises ValueError for a domain that writes no work.
    """
    if not isinstance(domain, WorkedDomain):
        raise ValueError(f"{domain.key} has no worked solutions to give hints from")
    return replace(problem, hint=first_share(work(domain, problem), share))


def work(domain: WorkedDomain, problem: Problem) -> str:
    """The work alone: the worked solution without the end that it has in common with the bare answer."""
    worked = next(name for name in domain.formats if name != DIRECT)
    solution, answer = domain.solution(problem, worked), domain.solution(problem, DIRECT)
    if not solution.endswith(answer):
        raise ValueError(f"{problem.id}: the solution {solution!r} does not end with the bare answer {answer!r}")
    return solution.removesuffix(answer)


def first_share(work: str, share: float) -> str:
    """The first share of the work in whole steps, or in whole characters where nothing separates its steps.

    >>> first_share("4;48;248;2478", 0.5), first_share("720", 0.5), first_share("4;48;248;2478", 1.0)
    ('4;48;', '7', '4;48;248;')
    """
    pieces = [piece for piece in _STEP_ENDS.split(work) if piece]
    if len(pieces) < 2:
        pieces = list(work)
    return "".join(pieces[: min(math.floor(share * len(pieces) + 1e-9), len(pieces) - 1)])
