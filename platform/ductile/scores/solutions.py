"""Worked solutions as token ids, all in one format: what a score compares must differ in the problem alone."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ductile.domains import WorkedDomain
from ductile.models.load import encode_answered
from ductile.packed import Pair
from ductile.problem import DIRECT, Problem


def solutions(
    domain: WorkedDomain, problems: Sequence[Problem], format: str, tokenizer: PreTrainedTokenizerBase
) -> list[Pair]:
    """(prompt, completion) token ids of a solution of each problem, the end-of-sequence token included.

    format: of the solutions; empty: the domain's first that shows work, or else the bare answer.
    """
    name = format or next((each for each in domain.formats if each != DIRECT), DIRECT)
    return [encode_answered(tokenizer, problem, domain.solution(problem, name)) for problem in problems]
