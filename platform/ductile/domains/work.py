"""The grammar of symbolic completions: optional work, `#`, the answer, and nothing after it.

    720#0        work and answer          #0         the answer alone: `problem.DIRECT`
    7#0          a step was skipped       720#0#0    the answer was repeated

Three separate questions: whether the answer is right (`strict`, `lenient`), which format the completion is in
(`classify`), and whether the answer came without the work (`shortcut`). The values inside the work count for none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ductile.problem import DIRECT, NO_WORK, OTHER, REPEATED, SKIPPED

MARK = "#"
"""Stands before the answer."""


@dataclass(frozen=True)
class Work:
    """One way to write the work of a task.

    steps:     arguments -> the intermediate results in order, as text
    shapes:    arguments -> a regular expression for each of them, which its value may match whether right or wrong
    separator: what stands between two steps; empty when a step is one symbol
    """

    steps: Callable[[str], Sequence[str]]
    shapes: Callable[[str], Sequence[str]]
    separator: str = ";"

    def write(self, arguments: str) -> str:
        """The whole work."""
        return self.separator.join(self.steps(arguments))

    def matches(self, work: str, arguments: str) -> bool:
        """Whether the text is exactly the required steps, whatever their values."""
        pieces, shapes = self._pieces(work), self.shapes(arguments)
        return len(pieces) == len(shapes) and all(map(_fits, shapes, pieces))

    def complete(self, work: str, arguments: str) -> bool:
        """Whether every required step occurs, in order; other text may stand between steps that have a separator.

        Text that cannot be read as a step counts as a step that was skipped.
        """
        pieces, shapes = self._pieces(work), self.shapes(arguments)
        if not self.separator:
            return len(pieces) >= len(shapes) and all(_fits(shapes[0], piece) for piece in pieces)
        rest = iter(pieces)
        return all(any(_fits(shape, piece) for piece in rest) for shape in shapes)

    def _pieces(self, work: str) -> list[str]:
        return work.split(self.separator) if self.separator else list(work)


def strict(text: str, answer: str) -> bool:
    """Whether the text has exactly one `#`, and after it the answer and nothing else. The work is not checked."""
    return text.count(MARK) == 1 and text.partition(MARK)[2] == answer


def lenient(text: str, answer: str) -> bool:
    """Whether the last part that is not empty, between `#` or without any, is the answer once or several times.

    It takes `#0`, `0`, `000`, `#0#0#0` and `720#0#`.
    """
    parts = [part for part in text.split(MARK) if part]
    return bool(parts) and _repeats(parts[-1], answer)


def classify(text: str, arguments: str, works: Mapping[str, Work], answer_shape: str) -> str:
    """The format of a completion: the work has exactly the format's steps and the answer its shape, else `OTHER`."""
    work, mark, answer = text.partition(MARK)
    if not mark or not _fits(answer_shape, answer):
        return OTHER
    if not work:
        return DIRECT
    return next((name for name, format in works.items() if format.matches(work, arguments)), OTHER)


def shortcut(text: str, arguments: str, works: Mapping[str, Work], answer_shape: str, bare: bool) -> str:
    """The kind of shortcut: the answer is given before or without the required intermediate results, or repeated.

    bare: whether text without `#` can be an answer, as it can for the lenient verifier. Empty for none: no answer is
    no shortcut, and complete work with wrong values in it is none either. A repeated answer counts as that alone.
    """
    work, mark, rest = text.partition(MARK)
    stated = rest.replace(MARK, "") if mark else text
    if not stated or not (mark or (bare and _fits(rf"({answer_shape})\1*", text))):
        return ""
    if _fits(rf"({answer_shape})\1+", stated):
        return REPEATED
    if not mark or not work:
        return NO_WORK
    return "" if any(format.complete(work, arguments) for format in works.values()) else SKIPPED


def final_answer(text: str, bare: bool) -> str | None:
    """What stands after the last `#`; None without any, unless a bare answer counts."""
    _, mark, answer = text.rpartition(MARK)
    return (answer if mark else text if bare else "") or None


def _repeats(text: str, unit: str) -> bool:
    return len(text) % len(unit) == 0 and text == unit * (len(text) // len(unit))


def _fits(shape: str, piece: str) -> bool:
    return re.fullmatch(shape, piece) is not None
