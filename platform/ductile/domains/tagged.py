"""Answers between `<answer>` and `</answer>`, for the prose that real models are asked in."""

from __future__ import annotations

from ductile.problem import NO_WORK, REPEATED

_OPEN, _CLOSE = "<answer>", "</answer>"


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
    stated = _stated(text)
    return (stated[-1] or None) if stated else None


def text_before(text: str) -> str:
    """What stands before the first answer; the whole text when there is none."""
    return text.partition("<answer>")[0].strip()


def tagged_shortcut(text: str, work_required: bool) -> str:
    """`REPEATED` for more than one answer, `NO_WORK` for an answer with nothing before it where work was asked for."""
    if tagged_answer(text) is None:
        return ""
    if len(_stated(text)) > 1:
        return REPEATED
    return NO_WORK if work_required and not text_before(text) else ""


def _stated(text: str) -> list[str]:
    """Every answer in order, stripped. In linear time, as no regular expression is on `<answer><answer><answer>...`."""
    found, start = [], text.find(_OPEN)
    while start >= 0:
        end = text.find(_CLOSE, start + len(_OPEN))
        if end < 0:
            break
        found.append(text[start + len(_OPEN) : end].strip())
        start = text.find(_OPEN, end + len(_CLOSE))
    return found
