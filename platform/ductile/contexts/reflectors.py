"""What proposes contexts: the closed vocabulary and the policy's own answers, or a language model at an address.

gepa's reflection proper is a language model that reads rollouts and feedback (`ChatModel`, given to gepa as its
`reflection_lm`). `Vocabulary` needs none: it changes one thing at a time, and prefers formats that passed.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ductile.contexts.candidate import candidate_of, context_of, named
from ductile.contexts.context import Context
from ductile.contexts.evidence import Evidence, Example
from ductile.contexts.room import Fits
from ductile.contexts.teaching import MOST_EXAMPLES
from ductile.contexts.vocabulary import instruction
from ductile.secrets import redacted

TRIES = 16
"""Draws after which a parent is given up: all its neighbours were proposed before, or do not fit."""

MOST_ANSWER = 4 << 20
"""Bytes of an answer that are read."""

PROMPT = """A model is asked problems after a context: an instruction, then worked examples. This is the context now:

<curr_param>

These are problems that it was asked in this context, its answers, and what the judge says of them:

<side_info>

Write a context in which it answers more of such problems right. Give JSON and nothing else, between ``` and ```:
{"instruction": "...", "examples": [["what is asked", "a right answer\\n"], ...]}
"""
"""In place of gepa's own prompt, which asks for free text."""


class NothingNewError(Exception):
    """Every neighbour of the parent was proposed before, or does not fit. gepa then goes on with another parent."""


class Vocabulary:
    """One change of the parent: its instruction set or taken away, or an example of the policy's own added or dropped.

    Formats are tried by Thompson sampling: each is drawn from Beta(1 + successes, 1 + failures) of its completions in
    this phase, and the highest one is asked for, so the best comes first and a rare one still gets its turn.
    """

    def __init__(
        self, formats: Sequence[str], evidence: Evidence, fits: Fits, known: Sequence[Context], rng: np.random.Generator
    ) -> None:
        self._formats, self._evidence, self._fits, self._rng = formats, evidence, fits, rng
        self._seen = {context.name for context in known}

    def __call__(
        self,
        candidate: dict[str, str],
        reflective_dataset: Mapping[str, Sequence[Mapping[str, Any]]],
        components_to_update: list[str],
    ) -> dict[str, str]:
        """See `gepa.core.adapter.ProposalFn`; raises `NothingNewError`."""
        parent = context_of(candidate)
        for _ in range(TRIES):
            changes = self._changes(parent)
            change = changes[self._rng.integers(len(changes))]
            context = named(change(parent))
            if context.name not in self._seen and self._fits(context):
                self._seen.add(context.name)
                return candidate_of(context)
        raise NothingNewError

    def _changes(self, parent: Context) -> list[Callable[[Context], Context]]:
        """The changes that the parent allows; those that add are twice as likely."""
        changes: list[Callable[[Context], Context]] = [self._instruct] * 2
        if parent.instruction:
            changes.append(lambda context: Context("", "", context.examples))
        if len(parent.examples) < MOST_EXAMPLES and any(self._evidence.examples.values()):
            changes += [self._show] * 2
        if parent.examples:
            changes.append(self._drop)
        return changes

    def _instruct(self, parent: Context) -> Context:
        return Context("", instruction(self._promising(self._formats)), parent.examples)

    def _show(self, parent: Context) -> Context:
        """An example more, in the format that is asked for where there is one."""
        shown = self._evidence.examples
        asked = [format for format in shown if instruction(format) == parent.instruction]
        pool: Sequence[Example] = shown[asked[0] if asked else self._promising(list(shown))]
        return Context("", parent.instruction, (*parent.examples, pool[int(self._rng.integers(len(pool)))]))

    def _drop(self, parent: Context) -> Context:
        place = self._rng.integers(len(parent.examples))
        return Context("", parent.instruction, (*parent.examples[:place], *parent.examples[place + 1 :]))

    def _promising(self, formats: Sequence[str]) -> str:
        counts = [self._evidence.formats.get(format, (0, 0)) for format in formats]
        drawn = [self._rng.beta(1 + passed, 1 + count - passed) for passed, count in counts]
        return formats[int(np.argmax(drawn))]


class ChatModel:
    """A language model behind an OpenAI-compatible address (`<url>/chat/completions`): a gepa `LanguageModel`.

    The key is taken from the environment variable OPENAI_API_KEY, where it is set. Calls, tokens and failures are
    counted; `last_error` says why the latest failure failed.
    """

    def __init__(self, url: str, model: str, timeout_s: float = 120.0) -> None:
        self._url, self._model, self._timeout = url.rstrip("/") + "/chat/completions", model, timeout_s
        self.calls, self.tokens, self.failures, self.last_error = 0, 0, 0, ""

    def __call__(self, prompt: str | list[dict[str, Any]]) -> str:
        """The model's answer; raises `ConnectionError` when there is none."""
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        self.calls += 1
        try:
            answer = self._post({"model": self._model, "messages": messages})
            text = answer["choices"][0]["message"]["content"]
            if not isinstance(text, str):
                raise TypeError("the message has no text")
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:  # HTTP errors are OSErrors
            self.failures += 1
            self.last_error = redacted(f"{type(error).__name__}: {error}")
            raise ConnectionError(f"{self._url}: {self.last_error}") from error
        usage = answer.get("usage")
        self.tokens += int(usage.get("total_tokens") or 0) if isinstance(usage, dict) else 0
        return text

    def require_answers(self) -> None:
        """Raise `RuntimeError` when there were calls and not one had an answer: nothing would ever evolve."""
        if self.calls and self.failures == self.calls:
            raise RuntimeError(
                f"variant.reflector_url: none of {self.calls} calls to {self._url} had an answer: {self.last_error}"
            )

    def _post(self, document: Mapping[str, Any]) -> Any:
        request = urllib.request.Request(self._url, json.dumps(document).encode(), {"Content-Type": "application/json"})
        if key := os.environ.get("OPENAI_API_KEY"):
            request.add_unredirected_header(
                "Authorization", f"Bearer {key}"
            )  # for this server, not for where it points
        with urllib.request.urlopen(request, timeout=self._timeout) as response:
            return json.loads(response.read(MOST_ANSWER))
