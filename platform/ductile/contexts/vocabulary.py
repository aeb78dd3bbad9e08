"""The closed vocabulary of instructions: one for each format of a domain. `teaching` makes a base follow it."""

from __future__ import annotations


def instruction(format: str) -> str:
    """The text that asks for a format. It stands before everything, and is short: a character may be a token.

    >>> instruction("trace")
    '[trace]'
    """
    return f"[{format}]"
