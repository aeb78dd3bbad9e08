"""Answers between `<answer>` and `</answer>`, for the prose that real models are asked in."""

from __future__ import annotations

import re

from ductile.problem import NO_WORK, REPEATED

_TAGGED = re.compile(r"<answer>\s*(.*?)\s*</answer>", re.DOTALL)


def tag(answer: str) -> str:
    """The answer as it is to be stated.

    >>> tag("17")
    '<answer>17</answer>'
    """
    return f"<answer>{answer}</answer>"


def tagged_answer(text: str) -> str | None:
    """The last answer that the text states; None when it states none.

    >>> tagged_answer("3 + 4 = 7 <answer> 7 </answer>")
    '7'
    """
    stated = _TAGGED.findall(text)
    return (stated[-1] or None) if stated else None


def text_before(text: str) -> str:
    """What stands before the first answer; the whole text when there is none."""
    return text.partition("<answer>")[0].strip()


def tagged_shortcut(text: str, work_required: bool) -> str:
    """`REPEATED` for more than one answer, `NO_WORK` for an answer with nothing before it where work was asked for."""
    if tagged_answer(text) is None:
        return ""
    if len(_TAGGED.findall(text)) > 1:
        return REPEATED
    return NO_WORK if work_required and not text_before(text) else ""
