"""Format shares, their entropy, lengths and shortcuts, by hand."""

from __future__ import annotations

from math import exp, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ductile.config import PhaseSettings, ProbeSettings, SkillSettings
from ductile.metrics import check_declared
from ductile.probes import ProbeResult
from ductile.probes.formats import FormatsProbe, effective_formats, entropy, format_shares
from ductile.problem import Problem
from tests.ductile.probes.fakes import FakePool, context

TEXTS = {
    "s/2": ["1 steps", "1 steps", "0 direct !", "? other"],
    "s/3": ["0 steps", "0 direct !", "0 direct !", "1 direct !"],
    "w/1": ["1 steps", "1 steps", "1 steps", "0 steps cut"],
    "h/9": ["0 other", "1 direct !", "? other", "? other"],
}
LENGTHS = {
    "1 steps": 10,
    "0 steps": 8,
    "0 direct !": 2,
    "1 direct !": 4,
    "? other": 99,
    "0 steps cut": 30,
    "0 other": 6,
}
SETTINGS = ProbeSettings(
    prior={"sums": SkillSettings({"name": "s"}, (2, 3)), "words": SkillSettings({"name": "w"}, (1,))}, problems=4
)


def answers(problem: Problem, sample: int) -> str:
    cell, number = problem.id.rsplit("/", 1)
    return TEXTS[cell][int(number)]


@pytest.fixture
def result() -> ProbeResult:
    pool = FakePool(answers, lengths=LENGTHS)
    return FormatsProbe().measure(context(pool, SETTINGS, {"hard": PhaseSettings({"name": "h"}, (9,))}))


def test_shares_are_over_the_judged_completions_of_all_levels(result: ProbeResult) -> None:
    # sums: 3 steps and 4 direct of the 7 judged; words: steps alone
    assert result.metrics["format/sums/steps"] == pytest.approx(3 / 7)
    assert result.metrics["format/sums/direct"] == pytest.approx(4 / 7)
    assert result.metrics["format/words/steps"] == 1.0
    assert result.metrics["format/words/direct"] == result.metrics["format/words/other"] == 0.0
    check_declared(result.metrics)


def test_entropy_and_effective_number_are_means_over_skills(result: ProbeResult) -> None:
    of_sums = -(3 / 7 * log(3 / 7) + 4 / 7 * log(4 / 7))
    assert result.metrics["format/entropy_prior"] == pytest.approx(of_sums / 2)
    assert result.metrics["format/effective_prior"] == pytest.approx((exp(of_sums) + 1) / 2)


def test_lengths_and_shortcuts_are_means_over_cells(result: ProbeResult) -> None:
    level_2, level_3, words = 22 / 3, (8 + 2 + 2 + 4) / 4, (3 * 10 + 30) / 4
    assert result.metrics["format/length_prior"] == pytest.approx((level_2 + level_3 + words) / 3)
    assert result.metrics["format/length_new"] == pytest.approx((6 + 4) / 2)
    assert result.metrics["shortcut/prior"] == pytest.approx((1 / 3 + 3 / 4 + 0) / 3)
    assert result.metrics["shortcut/new"] == 0.5


def test_kinds_of_shortcut_are_counted_apart_and_add_up() -> None:
    texts = {"s/2": ["1 steps", "1 direct !no_work", "0 other !repeated", "0 other !skipped"]}
    pool = FakePool(lambda problem, sample: texts["s/2"][int(problem.id.rsplit("/", 1)[1])])
    settings = ProbeSettings(prior={"sums": SkillSettings({"name": "s"}, (2,))}, problems=4)
    metrics = FormatsProbe().measure(context(pool, settings)).metrics
    kinds = [metrics[f"shortcut/prior/{kind}"] for kind in ("no_work", "repeated", "skipped")]
    assert kinds == [0.25, 0.25, 0.25]
    assert metrics["shortcut/prior"] == sum(kinds)


def test_pass_rate_within_a_format_is_left_out_where_the_format_does_not_occur(result: ProbeResult) -> None:
    assert result.metrics["format_pass_rate/sums/steps"] == pytest.approx(2 / 3)
    assert result.metrics["format_pass_rate/sums/direct"] == 0.25
    assert "format_pass_rate/words/direct" not in result.metrics


def test_rows_hold_the_pass_rate_given_the_format(result: ProbeResult) -> None:
    rows = {(row["skill"], row["format"]): row for row in result.tables["formats"]}
    assert rows["sums", "steps"]["pass_rate"] == pytest.approx(2 / 3)
    assert rows["sums", "direct"]["pass_rate"] == 0.25
    assert rows["words", "direct"]["pass_rate"] is None and rows["words", "direct"]["completions"] == 0
    assert rows["hard", "direct"] == {
        "kind": "new",
        "skill": "hard",
        "format": "direct",
        "share": 0.5,
        "completions": 1,
        "pass_rate": 1.0,
    }
    cut = {row["skill"]: row["truncated_share"] for row in result.tables["lengths"]}
    assert cut["words"] == 0.25


def test_nothing_judged_is_left_out() -> None:
    pool = FakePool(lambda problem, sample: "? other")
    result = FormatsProbe().measure(context(pool, SETTINGS))
    assert result.metrics == {}
    assert result.tables["formats"] == []
    assert {row["length_mean"] for row in result.tables["lengths"]} == {None}


def test_entropy_by_hand() -> None:
    assert entropy({"a": 1.0}) == 0.0
    assert entropy({"a": 0.5, "b": 0.25, "c": 0.25}) == pytest.approx(1.5 * log(2))
    assert entropy({"a": 1.0, "b": 0.0}) == 0.0
    assert effective_formats({"a": 0.5, "b": 0.25, "c": 0.25}) == pytest.approx(2**1.5)


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=30))
def test_effective_formats_lie_between_one_and_those_used(formats: list[str]) -> None:
    shares = format_shares(formats)
    assert sum(shares.values()) == pytest.approx(1)
    assert 1 - 1e-9 <= effective_formats(shares) <= len(set(formats)) + 1e-9


def test_shares_of_nothing_are_empty() -> None:
    assert format_shares([]) == {}
