"""Tables of text, and numbers as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NOTHING = "-"


@dataclass(frozen=True)
class TextTable:
    """A table of text. The first `labels` columns name the row; the others hold numbers and are set to the right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    labels: int = 2


def interval(measure: Mapping[str, Any], digits: int = 2, scale: float = 1.0) -> str:
    """`0.86 ±0.04`: mean and half of the 95% interval; without the interval for one seed."""
    if measure["mean"] is None:
        return NOTHING
    text = f"{measure['mean'] * scale:.{digits}f}"
    if text.strip("-0.") == "":
        text = text.lstrip("-")  # no -0.00
    return text if measure["high"] is None else f"{text} ±{(measure['high'] - measure['mean']) * scale:.{digits}f}"


def change(before: Mapping[str, Any], after: Mapping[str, Any], digits: int = 2) -> str:
    """`0.86 → 0.13 ±0.05`; the first number alone when there is nothing after."""
    start = NOTHING if before["mean"] is None else f"{before['mean']:.{digits}f}"
    return start if after["mean"] is None else f"{start} → {interval(after, digits)}"


def short(text: str, length: int) -> str:
    """The text, cut to `length` characters with an ellipsis."""
    return text if len(text) <= length else f"{text[: length - 1]}…"
