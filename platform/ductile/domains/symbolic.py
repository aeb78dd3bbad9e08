"""What the symbolic domains share: prompts, guess space, label noise, drawing, splits, worked solutions and verdicts.

A task (`chain_sum.py` and its neighbours) says what is asked. The prompt is the task's verb, its arguments, `>`, how
much of the result is asked, `:`. `s3458>1:` asks for the last symbol of a chain sum's result, `s3458>*:` for all of it.

The guess space M is how many answers there are: with M = symbols^k the answer is the last k symbols of the result, so
blind guessing succeeds one time in M where these symbols are uniform, while the work to do stays the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ductile.domains.base import content_hash, domain_key, domain_label, require_level, split_of
from ductile.domains.work import MARK, Work, classify, final_answer, lenient, shortcut, strict
from ductile.problem import DIRECT, Problem, Split, Verdict
from ductile.settings import one_of, setting

ALPHABET = "0123456789sortb>*:%,;#+=.|"
"""Every character of the prompts and solutions of the symbolic domains."""

LONGEST = 40
"""Highest level of the domains whose level is a length, from 2."""

_CHUNK = 1024
_PATIENCE = 4  # after so many draws per content of the space, what is left is listed instead: e^-4 of it, 2%


@dataclass(frozen=True)
class Knobs:
    """The options that every symbolic domain has."""

    guess_space: int = setting(0, "how many answers there are (M), a power of the symbols; 0: the whole result", low=0)
    label_noise: float = setting(0.0, "share of problems whose expected answer is wrong", low=0, high=1)
    lenient: bool = setting(False, "accept a bare answer, or one repeated after #")


class Task(Protocol):
    """What a symbolic domain asks. Arguments are text, as they stand in the prompt."""

    @property
    def verb(self) -> str:
        """One letter that begins the prompt."""

    @property
    def symbols(self) -> int:
        """How many different symbols a result is made of: the digits from 0."""

    @property
    def levels(self) -> range:
        """The levels, whatever the guess space."""

    @property
    def works(self) -> Mapping[str, Work]:
        """The formats of its worked solutions by name."""

    def length(self, level: int) -> int:
        """Symbols in the result at this level."""

    def radices(self, level: int) -> tuple[int, ...]:
        """The problems of a level are all rows of whole numbers below these."""

    def arguments(self, rows: NDArray[np.int64]) -> list[str]:
        """The arguments that each row stands for. rows: [problem, len(radices)]."""

    def result(self, arguments: str) -> str:
        """The full result."""


@dataclass(frozen=True)
class Symbolic:
    """A symbolic domain: a task with its knobs."""

    name: str
    task: Task
    options: Knobs

    @cached_property
    def key(self) -> str:
        """See `Domain.key`."""
        return domain_key(self.name, self.options)

    @cached_property
    def formats(self) -> tuple[str, ...]:
        """The task's formats, and the direct answer."""
        return (*self.task.works, DIRECT)

    @cached_property
    def levels(self) -> range:
        """The task's levels whose results have at least as many symbols as the answer."""
        long_enough = [level for level in self.task.levels if self.task.length(level) >= self._asked]
        return range(long_enough[0], long_enough[-1] + 1)

    def problems(self, level: int, split: Split, count: int, seed: int) -> list[Problem]:
        """See `Domain.problems`. Every content of the level is as likely as any other."""
        require_level(self, level)
        found: dict[str, None] = {}
        for rows in _rows(self.task.radices(level), _generator(self.task.verb, level, split, seed)):
            for arguments in self.task.arguments(rows):
                if arguments not in found and split_of(self.task.verb + arguments) == split:
                    found[arguments] = None
                    if len(found) >= count:
                        return [self._problem(each, level, split) for each in found][:count]
        return [self._problem(each, level, split) for each in found]

    def solution(self, problem: Problem, format: str) -> str:
        """The work in this format and then the expected answer, which label noise may have made wrong."""
        if format == DIRECT:
            return MARK + problem.answer
        if format not in self.task.works:
            raise ValueError(one_of(f"{self.name} solution", format, self.formats, "format"))
        return self.task.works[format].write(problem.data["arguments"]) + MARK + problem.answer

    def judge(self, problem: Problem, text: str) -> Verdict:
        """See `Domain.judge`; the work decides the format and the shortcut, never the reward."""
        arguments, works = problem.data["arguments"], self.task.works
        answer_shape = f"[0-{self.task.symbols - 1}]{{{len(problem.answer)}}}"
        right = (lenient if self.options.lenient else strict)(text, problem.answer)
        return Verdict(
            reward=float(right),
            format=classify(text, arguments, works, answer_shape),
            shortcut_kind=shortcut(text, arguments, works, answer_shape, bare=self.options.lenient),
            answer=final_answer(text, bare=self.options.lenient),
            note="wrong label" if problem.data["noisy"] else "",
        )

    @cached_property
    def _asked(self) -> int:
        return symbols_asked(self.options.guess_space, self.task.symbols) or 0

    @cached_property
    def _label(self) -> str:
        return domain_label(self.name, self.options)

    def _problem(self, arguments: str, level: int, split: Split) -> Problem:
        result = self.task.result(arguments)
        content = self.task.verb + arguments
        answer = result[-self._asked :]  # all of it for 0
        noise = self.options.label_noise
        noisy = noise > 0 and content_hash(f"noisy {noise} {content}") < noise * 2.0**64
        prompt = f"{content}>{self._asked or '*'}:"
        return Problem(
            id=f"{self._label}/L{level}/{split}/{prompt}",
            domain=self.key,
            level=level,
            prompt=prompt,
            answer=_wrong(answer, self.task.symbols, content) if noisy else answer,
            data={"arguments": arguments, "result": result, "noisy": noisy},
        )


def symbols_asked(guess_space: int, symbols: int) -> int | None:
    """The k with symbols^k = guess_space, at least 1; 0 for the guess space 0; None when there is no such k."""
    asked, space = 0, 1
    while space < guess_space:
        asked, space = asked + 1, space * symbols
    return asked if guess_space == 0 or (asked and space == guess_space) else None


def guess_space_mistakes(guess_space: int, symbols: int, longest: int) -> Iterator[str]:
    """The line for a guess space that is no power of `symbols` or asks for more than `longest` symbols."""
    asked = symbols_asked(guess_space, symbols)
    if asked is None or asked > longest:
        yield (
            f"guess_space: {guess_space} is not allowed; allowed: 0 for the whole result, or "
            f"{symbols}, {symbols**2}, {symbols**3}, ... up to {symbols}^{longest}"
        )


def digits_text(rows: NDArray[np.int64]) -> list[str]:
    """Each row of one-digit numbers, [row, digit], as text."""
    width = rows.shape[1]
    text = (rows + ord("0")).astype(np.uint8).tobytes().decode("ascii")
    return [text[start : start + width] for start in range(0, len(text), width)]


def _generator(verb: str, level: int, split: Split, seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, level, ord(verb), split == "eval"])))


def _rows(radices: Sequence[int], generator: np.random.Generator) -> Iterator[NDArray[Any]]:
    """Random rows, and after `_PATIENCE` times the number of different rows, every row in order."""
    space = math.prod(radices)
    for _ in range(0, _PATIENCE * space, _CHUNK):
        yield generator.integers(0, radices, size=(_CHUNK, len(radices)))
    for start in range(0, space, _CHUNK):
        numbers = np.arange(start, min(start + _CHUNK, space))
        yield np.stack(np.unravel_index(numbers, radices), axis=1)


def _wrong(answer: str, symbols: int, content: str) -> str:
    """The answer with one symbol replaced by another; which, is decided by the content."""
    choice = content_hash(f"wrong {content}")
    position, offset = choice % len(answer), 1 + (choice >> 32) % (symbols - 1)
    return answer[:position] + str((int(answer[position]) + offset) % symbols) + answer[position + 1 :]
