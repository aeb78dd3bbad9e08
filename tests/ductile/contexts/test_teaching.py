"""Rows that teach a base to follow contexts: their shares, what stands before the question, and its answer's format."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from ductile.config import ModelSettings
from ductile.contexts.context import Context
from ductile.contexts.room import room
from ductile.contexts.teaching import Teaching
from ductile.domains import make_domain
from ductile.models.cached import RECIPE, model_key, settings_key
from ductile.models.scratch import build_llama
from ductile.models.tokenizer import character_tokenizer
from ductile.ports import Composition, Member, PolicyRef
from ductile.pretrain import _batches, _sources
from ductile.settings import as_plain, build

MODEL: dict[str, Any] = {
    "pretrain": {"batch": 64},
    "mixture": {
        "sum": {"domain": {"name": "chain_sum"}, "levels": [2, 3, 6], "formats": {"trace": 0.9, "direct": 0.1}},
        "sort": {"domain": {"name": "sort_digits"}, "levels": [4], "formats": {"counts": 1.0, "direct": 0.0}},
    },
}
SUM = make_domain({"name": "chain_sum"}, "d")


def rows(instructed: float, examples: float, steps: int = 10, positions: int = 200) -> list[tuple[str, str]]:
    """(what is given, what is answered without the end) of each row."""
    settings, tokenizer = build(ModelSettings, MODEL), character_tokenizer()
    teaching = Teaching(instructed, examples, positions)
    batches = _batches(_sources(settings.mixture), settings.pretrain, tokenizer, 0, teaching)
    return [
        (tokenizer.decode(given), tokenizer.decode(answer[:-1]))
        for batch in itertools.islice(batches, steps)
        for given, answer in batch
    ]


def parts(given: str) -> tuple[str, list[str], str]:
    """Instruction, earlier turns (question and answer as one text) and question."""
    instruction, rest = (
        (given[: given.index("]") + 1], given[given.index("]") + 1 :]) if given[0] == "[" else ("", given)
    )
    *turns, question = rest.split("\n")
    return instruction, turns, question


def format_of(question: str, answer: str) -> str:
    """By its signs; the answer must be right."""
    digits = question[1 : question.index(">")]
    right = str(sum(map(int, digits)) % 10) if question[0] == "s" else "".join(sorted(digits))
    work, _, stated = answer.partition("#")
    assert stated == right
    return "trace" if "+" in work else "counts" if "," in work else work or "direct"


def test_shares_are_those_that_are_set_and_independent() -> None:
    seen = Counter((bool(i), len(turns)) for i, turns, _ in (parts(given) for given, _ in rows(0.3, 0.2)))
    total = sum(seen.values())
    assert total == 640
    instructed = sum(count for (i, _), count in seen.items() if i) / total
    shown = sum(count for (_, turns), count in seen.items() if turns) / total
    both = sum(count for (i, turns), count in seen.items() if i and turns) / total
    assert instructed == pytest.approx(0.3, abs=0.06)  # three standard deviations
    assert shown == pytest.approx(0.2, abs=0.05)
    assert both == pytest.approx(0.06, abs=0.03)
    assert 0.3 < sum(count for (_, turns), count in seen.items() if turns == 1) / (shown * total) < 0.7


def test_answer_is_in_the_format_that_the_context_names_and_shows() -> None:
    formats: Counter[str] = Counter()
    for given, answer in rows(0.5, 0.5, steps=2):
        instruction, turns, question = parts(given)
        if not (instruction or turns):
            continue
        format = format_of(question, answer)
        assert instruction in ("", f"[{format}]")
        levels = set()
        for turn in turns:
            asked, solved = turn[: turn.index(":") + 1], turn[turn.index(":") + 1 :]
            assert asked != question and asked[0] == question[0]  # another problem of the same part
            assert format_of(asked, solved) == format
            levels.add(len(asked) - len(question))
        assert levels <= {-1, 0, 1}  # of the same level or the next
        if question[0] == "s":
            formats[format] += 1
        else:
            assert format == "counts"  # the mixture gives direct no share there
    assert formats["direct"] > 0.3 * formats.total()  # each format as often, whatever the mixture's shares


def test_examples_that_do_not_fit_are_left_out() -> None:
    for given, answer in rows(0.0, 1.0, steps=2, positions=60):
        assert len(given) + len(answer) + 1 <= 60
    assert {len(parts(given)[1]) for given, _ in rows(0.0, 1.0, steps=2, positions=60)} == {0, 1, 2}


def test_rows_without_a_context_are_those_of_a_base_that_is_taught_none() -> None:
    plain, taught = rows(0.0, 0.0, steps=3), rows(0.3, 0.3, steps=3)
    same = [one for one, other in zip(plain, taught, strict=True) if one == other]
    bare = [given for given, _ in taught if parts(given)[:2] == ("", [])]
    assert len(bare) > 50
    assert [given for given, _ in same] == bare
    assert not any(parts(given)[0] or parts(given)[1] for given, _ in plain)


def test_base_that_is_taught_none_keeps_its_rows_and_its_key() -> None:
    settings, tokenizer = build(ModelSettings, MODEL), character_tokenizer()
    old = _batches(_sources(settings.mixture), settings.pretrain, tokenizer, 0)
    new = _batches(_sources(settings.mixture), settings.pretrain, tokenizer, 0, Teaching(0.0, 0.0, 200))
    for one, other in zip(next(old), next(new), strict=True):
        assert np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])
    recipe = [RECIPE, as_plain(settings.base), as_plain(settings.pretrain), as_plain(settings.mixture)]
    key = hashlib.blake2b(json.dumps(recipe, sort_keys=True).encode(), digest_size=8).hexdigest()
    assert settings_key(settings, "base") == model_key(settings.base, settings.pretrain, settings.mixture) == key


def test_shares_are_part_of_the_key() -> None:
    keys = {
        settings_key(build(ModelSettings, {**MODEL, **shares}), "base")
        for shares in ({}, {"instructed": 0.2}, {"examples": 0.2}, {"instructed": 0.2, "examples": 0.2})
    }
    assert len(keys) == 4


def test_context_fits_while_the_longest_problem_and_its_answer_have_room(tmp_path: Any) -> None:
    tokenizer = character_tokenizer()
    settings = build(ModelSettings, {"base": {"layers": 1, "width": 16, "heads": 2, "mlp": 32, "positions": 40}})
    build_llama(settings.base, tokenizer, 0).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    policy = PolicyRef(Composition((Member("policy", str(tmp_path), 1.0),), "policy"), None, 0)
    problems = [*SUM.problems(2, "train", 1, 0), *SUM.problems(6, "train", 1, 0)]  # 6 and 10 characters
    fits = room(policy, problems, max_tokens=20)
    assert fits(Context("a", "x" * 10)) and not fits(Context("a", "x" * 11))
    assert fits(Context("a", "x", (("y" * 5, "z" * 4),))) and not fits(Context("a", "x", (("y" * 5, "z" * 5),)))
