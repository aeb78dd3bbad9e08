"""How long a context may be: what is asked in it and the longest completion must fit the model's positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ductile.contexts.context import Context, in_context
from ductile.models.load import encode_problem, load_config, load_tokenizer
from ductile.ports import PolicyRef
from ductile.problem import Problem

Fits = Callable[[Context], bool]


def room(policy: PolicyRef, problems: Sequence[Problem], max_tokens: int) -> Fits:
    """Whether the longest of the problems, asked in a context, leaves room for a completion in every member."""
    paths = [member.path for member in policy.composition.members]
    positions = min(load_config(path).max_position_embeddings for path in paths)
    tokenizer = load_tokenizer(paths[0])
    longest = max(problems, key=lambda problem: len(problem.transcript))

    def fits(context: Context) -> bool:
        return len(encode_problem(tokenizer, in_context(longest, context))) + max_tokens <= positions

    return fits
