r"""Questions and answers from a JSONL or Parquet file, such as GSM8K or MATH, graded by math-verify.

    {name: jsonl, path: train.jsonl, separator: "####"}        GSM8K: the final answer stands after ####
    {name: jsonl, path: math.parquet, question: problem, answer: solution, pattern: '\\boxed\{(.*)\}'}

A completion states its answer after `Answer:`, or after the file's separator, or in `\boxed{}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ductile.domains.base import content_hash, domain_key, require_level, split_of
from ductile.domains.free_text import ANSWER, WORKED, Stated, stated
from ductile.domains.rows import Row, RowsError, read_rows
from ductile.domains.timed import SCORER, NotAnswered
from ductile.problem import DIRECT, OTHER, Problem, Split, Verdict
from ductile.settings import SettingsError, build, setting

TEMPLATE = "{question}\n\nWork it out step by step, then end with `" + ANSWER + "` and the final answer.\n"


@dataclass(frozen=True)
class JsonlOptions:
    """Options of `jsonl`."""

    path: str = setting("", "JSONL file, or Parquet file ending in .parquet")
    question: str = setting("question", "name of the field with the question")
    answer: str = setting("answer", "name of the field with the answer")
    separator: str = setting("", "text in the answer field that the final answer stands after, as #### in GSM8K")
    pattern: str = setting("", "regular expression with one group that finds the final answer in the answer field")
    template: str = setting(TEMPLATE, "the prompt; {question} stands for the question")
    timeout_s: float = setting(5.0, "longest time to compare two answers; one that takes longer is not judged", above=0)
    lenient: bool = setting(False, "grade the whole completion when it does not state a final answer")

    def check(self) -> Iterator[str]:
        """See `settings.build`."""
        if not self.path:
            yield "path: missing; name a JSONL or Parquet file"
        elif not Path(self.path).is_file():
            yield f"path: {self.path!r} is not a file (working directory: {Path.cwd()})"
        if "{question}" not in self.template:
            yield f"template: {self.template!r} has no place for the question; write {{question}} where it belongs"
        if self.separator and self.pattern:
            yield "pattern: give a separator or a pattern, not both"
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            yield f"pattern: {self.pattern!r} is not a regular expression: {error}"
        else:
            if self.pattern and groups != 1:
                yield f"pattern: {self.pattern!r} has {groups} groups; the final answer must be its one group"


@dataclass(frozen=True)
class Jsonl:
    """The rows of a file. `pairs`: question -> final answer, in the order of the file. The only level is 1."""

    options: JsonlOptions
    pairs: Mapping[str, str] = field(repr=False)
    levels: range = range(1, 2)
    formats: tuple[str, ...] = (WORKED, DIRECT)

    @cached_property
    def key(self) -> str:
        """See `Domain.key`."""
        return domain_key("jsonl", self.options)

    def problems(self, level: int, split: Split, count: int, seed: int) -> list[Problem]:
        """See `Domain.problems`: the rows of the split in an order that the seed decides."""
        require_level(self, level)
        rows = [(question, answer) for question, answer in self.pairs.items() if split_of(question) == split]
        order = np.random.Generator(np.random.Philox(seed)).permutation(len(rows))
        return [self._problem(*rows[int(row)], split) for row in order[:count]]

    def judge(self, problem: Problem, text: str) -> Verdict:
        """See `Domain.judge`. The stated answer is what is left of the line after its marker."""
        said = self._stated(text)
        if not said.answer:
            return Verdict(0.0, said.format, said.shortcut_kind)
        arguments = {"expected": problem.answer, "answer": said.answer}
        try:
            right = SCORER.call("maths", "equal", arguments, self.options.timeout_s)
        except NotAnswered as reason:
            return Verdict(None, said.format, said.shortcut_kind, said.answer, f"not judged: {reason}")
        return Verdict(float(right), said.format, said.shortcut_kind, said.answer)

    def _stated(self, text: str) -> Stated:
        separator = [self.options.separator] if self.options.separator else []
        said = stated(text, [ANSWER, *separator, r"\boxed{"])
        if said.answer:
            return Stated(said.answer.splitlines()[0], said.format)
        if self.options.lenient and text.strip():
            return Stated(text, OTHER if len(text.split()) > 1 else DIRECT)
        return said

    def _problem(self, question: str, answer: str, split: Split) -> Problem:
        variant = f"{content_hash(self.options.template + answer) % 16**4:04x}"
        return Problem(
            id=f"jsonl/{Path(self.options.path).stem}/{split}/{content_hash(question):016x}-{variant}",
            domain=self.key,
            level=1,
            prompt=self.options.template.replace("{question}", question),
            answer=answer,
        )


def make(values: Mapping[str, Any], path: str) -> Jsonl:
    """The domain of these options; reads the file; raises `SettingsError` for what is wrong in either."""
    options = build(JsonlOptions, values, path)
    if find_spec("math_verify") is None:
        raise SettingsError([f"{path}.name: jsonl needs the package math-verify, which is not installed"])
    try:
        rows = read_rows(Path(options.path), {"question": options.question, "answer": options.answer})
        return Jsonl(options, _pairs(rows, options))
    except RowsError as error:
        raise SettingsError([f"{path}.{error}"]) from None


def _pairs(rows: Sequence[Row], options: JsonlOptions) -> dict[str, str]:
    pairs: dict[str, str] = {}
    missing = []
    for row in rows:
        answer = _final(row.answer, options)
        if answer:
            pairs.setdefault(row.question, answer)
        else:
            missing.append(row.place)
    if missing:
        option, value = ("separator", options.separator) if options.separator else ("pattern", options.pattern)
        found = f"{option}: {value!r} finds no final answer" if value else "answer: the field is empty"
        raise RowsError(f"{found} in {len(missing)} of {len(rows)} rows, the first at {missing[0]} of {options.path!r}")
    return pairs


def _final(answer: str, options: JsonlOptions) -> str:
    """The final answer in an answer field, empty when there is none; the last one where the pattern fits often."""
    if options.separator:
        return answer.rpartition(options.separator)[2].strip() if options.separator in answer else ""
    if options.pattern:
        return next(iter(re.findall(options.pattern, answer)[-1:]), "").strip()
    return answer.strip()
