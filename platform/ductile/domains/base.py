"""What a domain of problems is, how it is named, and the split of its problems into training and evaluation.

The split is decided by a hash of a problem's content alone. It knows neither the seed nor the options that leave the
content as it is, so the two splits never overlap, not even between two variants of one domain.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from ductile.problem import Problem, Split, Verdict
from ductile.settings import SettingsError

EVAL_SHARE = 5
"""One in so many contents belongs to the evaluation split."""


@runtime_checkable
class Domain(Protocol):
    """Asks problems and judges completions. It has no state: every answer depends on the arguments alone."""

    @property
    def key(self) -> str:
        """Name and every option, the same text in every process; `Problem.domain` of the problems it makes."""

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats that its completions are sorted into, `problem.DIRECT` among them; `problem.OTHER` is not."""

    @property
    def levels(self) -> Sequence[int]:
        """The levels it has with its options, rising."""

    def problems(self, level: int, split: Split, count: int, seed: int) -> list[Problem]:
        """Up to `count` different problems, fewer only when the split has no more; the same for the same arguments.

        A smaller `count` gives the beginning of the same list. Raises ValueError for a level it does not have.
        """

    def judge(self, problem: Problem, text: str) -> Verdict:
        """The verdict on a completion without its end-of-sequence token: reward 1.0, 0.0, or None for not judged.

        Never raises, whatever the text.
        """


@runtime_checkable
class WorkedDomain(Domain, Protocol):
    """A domain that can write worked solutions, so that a base model can be trained on them."""

    def solution(self, problem: Problem, format: str) -> str:
        """A completion in this format that is judged 1.0; raises ValueError for a format it does not have."""


@runtime_checkable
class LazyDomain(Domain, Protocol):
    """A domain of so many problems that a phase's pool makes each when it is asked for."""

    def pool(self, levels: Sequence[int], count: int, seed: int) -> Mapping[str, Problem]:
        """`count` training problems by id, each level as often up to one; what `problems` gives, without making it."""


def domain_key(name: str, options: Any) -> str:
    """Canonical text of a domain: its name and every option of the dataclass, defaults included.

    >>> from dataclasses import make_dataclass
    >>> domain_key("chain_sum", make_dataclass("Options", ["modulus", "lenient"])(10, False))
    'chain_sum(lenient=false, modulus=10)'
    """
    return f"{name}({', '.join(f'{k}={json.dumps(v)}' for k, v in sorted(dataclasses.asdict(options).items()))})"


def domain_label(name: str, options: Any) -> str:
    """Short text of a domain, for problem ids: its name, and the options that differ from their defaults."""
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    changed = {k: v for k, v in sorted(dataclasses.asdict(options).items()) if v != defaults[k]}
    return name + (f"[{','.join(f'{k}={v}' for k, v in changed.items())}]" if changed else "")


def split_of(content: str) -> Split:
    """The split of a problem's content, which is what is asked: operation and arguments."""
    return "eval" if content_hash(content) % EVAL_SHARE == 0 else "train"


def content_hash(content: str) -> int:
    """64 bits that depend on the text alone."""
    return int.from_bytes(hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def check_levels(domain: Domain, levels: Iterable[int], path: str) -> None:
    """Raise `SettingsError` with a line for each of the levels that the domain does not have with its options."""
    allowed = describe_levels(domain.levels)
    problems = [
        f"{path}[{position}]: {level} is not a level of {domain.key}; allowed: {allowed}"
        for position, level in enumerate(levels)
        if level not in domain.levels
    ]
    if problems:
        raise SettingsError(problems)


def require_level(domain: Domain, level: int) -> None:
    """Raise ValueError when the domain does not have this level."""
    if level not in domain.levels:
        raise ValueError(f"{level} is not a level of {domain.key}; allowed: {describe_levels(domain.levels)}")


def describe_levels(levels: Sequence[int]) -> str:
    """The levels in words: `2 to 40`, `1 only`, or `0, 2, 3` when some are missing."""
    if len(levels) == 1:
        return f"{levels[0]} only"
    if levels[-1] - levels[0] == len(levels) - 1:
        return f"{levels[0]} to {levels[-1]}"
    return ", ".join(map(str, levels))
