"""The final answer of a completion in free text, for the domains that ask for `Answer: ...` at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ductile.problem import DIRECT, NO_WORK, OTHER

ANSWER = "Answer:"
"""What prompts ask for before the final answer."""

WORKED = "worked"
"""Format of a completion with some text before its answer."""


@dataclass(frozen=True)
class Stated:
    """How a completion states its answer. `answer`: empty when it states none."""

    answer: str
    format: str

    @property
    def shortcut_kind(self) -> str:
        """`NO_WORK` when the answer came with no work before it, else empty."""
        return NO_WORK if self.format == DIRECT else ""


def stated(text: str, markers: Sequence[str] = (ANSWER,)) -> Stated:
    r"""The text after the last place of the first of the markers that occurs; the work is what precedes all of them.

    A marker that opens a brace, as `\boxed{` does, is left in the answer.

    >>> stated("2 + 2 = 4\nAnswer: 4")
    Stated(answer='4', format='worked')
    >>> stated("Answer: 4\nAnswer: 4").shortcut_kind
    'no_work'
    """
    present = [marker for marker in markers if marker in text]
    if not present:
        return Stated("", OTHER)
    marker = present[0]
    start = text.rfind(marker)
    answer = text[start if marker.endswith("{") else start + len(marker) :].strip()
    if not answer:
        return Stated("", OTHER)
    work = text[: min(text.find(each) for each in present)]
    return Stated(answer, WORKED if work.strip() else DIRECT)
