r"""A context as the text that evolution changes: one component, JSON of its instruction and its worked examples.

{"context": '{"instruction": "[trace]", "examples": [["s34>1:", "3+4=7#7\n"]]}'}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ductile.contexts.context import Context

COMPONENT = "context"
"""The candidate's only component, in gepa's words."""


def candidate_of(context: Context) -> dict[str, str]:
    """The candidate of a context; its name is not part of it."""
    return {COMPONENT: json.dumps({"instruction": context.instruction, "examples": context.examples})}


def context_of(candidate: Mapping[str, str]) -> Context:
    """The context of a candidate; raises ValueError for text that is none. The name is a hash of what it holds."""
    return read_context(json.loads(candidate[COMPONENT]))


def read_context(value: Any) -> Context:
    """The context of plain values; raises ValueError for anything but an instruction and pairs of texts."""
    if not isinstance(value, dict) or not value.keys() <= {"instruction", "examples"}:
        raise ValueError('a context is {"instruction": text, "examples": [[asked, answered], ...]}')
    instruction, examples = value.get("instruction", ""), value.get("examples", [])
    pairs = isinstance(examples, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in examples)
    if not isinstance(instruction, str) or not pairs or not all(isinstance(text, str) for e in examples for text in e):
        raise ValueError("the instruction must be a text, and each example two texts: what is asked and the answer")
    return named(Context("", instruction, tuple((asked, answered) for asked, answered in examples)))


def named(context: Context) -> Context:
    """The same context under the name of what it holds; nothing at all is the seed context, with the empty name."""
    if not (context.instruction or context.examples):
        return Context()
    text = json.dumps([context.instruction, context.examples])
    return Context(hashlib.blake2b(text.encode(), digest_size=5).hexdigest(), context.instruction, context.examples)
