"""Worked solutions as token ids, all in one format: what a score compares must differ in the problem alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from ductile.domains import WorkedDomain
from ductile.models.load import encode_problem
from ductile.pretrain import Pair
from ductile.problem import DIRECT, Problem


def solutions(
    domain: WorkedDomain, problems: Sequence[Problem], format: str, tokenizer: PreTrainedTokenizerBase
) -> list[Pair]:
    """(prompt, completion) token ids of a solution of each problem, the end-of-sequence token included.

    format: of the solutions; empty: the domain's first that shows work, or else the bare answer.
    """
    name = format or next((each for each in domain.formats if each != DIRECT), DIRECT)
    rows = []
    for problem in problems:
        text = tokenizer(domain.solution(problem, name), add_special_tokens=False)["input_ids"]
        prompt = encode_problem(tokenizer, problem)
        rows.append((np.array(prompt, np.int32), np.array([*text, tokenizer.eos_token_id], np.int32)))
    return rows
