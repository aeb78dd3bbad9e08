"""math-verify, as the scoring process calls it. Its own time-outs are signals, so they are off; `timed.py` has one."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

from math_verify import parse, verify

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its time-outs are off


def equal(expected: str, answer: str) -> bool:
    """Whether two answers are mathematically equal; raises ValueError when the expected one is no mathematics."""
    gold = _parsed(expected)
    if not gold:
        raise ValueError(f"the expected answer {expected!r} cannot be read as mathematics")
    return bool(verify(gold, _parsed(answer), timeout_seconds=None))


@lru_cache(maxsize=1024)
def _parsed(text: str) -> list[Any]:
    """What math-verify finds in the text as a formula, where it is one, else in the text as it stands.

    As it stands, without its $, math-verify would read x^2+1 as 1. A plain word is no formula: it would be the product
    of its letters, and equal to its anagrams.
    """
    readings = [f"${text}$", text] if _is_formula(text) else [text]
    found = (parse(reading, parsing_timeout=None) for reading in readings)
    return next((values for values in found if values), [])


def _is_formula(text: str) -> bool:
    if "$" in text or r"\boxed" in text:
        return False
    return "\\" in text or (re.search("[A-Za-z]{2}", text) is None and re.search(r"[A-Za-z^(]", text) is not None)
