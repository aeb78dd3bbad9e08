"""The table of metrics: every declared name is one that MLflow takes and that the table finds again."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name as mlflow_accepts

from ductile.metrics import (
    LONGEST,
    METRICS,
    SECTIONS,
    Metric,
    MetricError,
    check_declared,
    describe,
    document,
    legal,
    segment,
)

names = st.text(st.sampled_from("ab/.-_ :é<\n"), max_size=8)


def example(metric: Metric) -> str:
    """A name that the metric's pattern stands for."""
    return re.sub(r"<\w+>", "a-b.c", re.sub(r"<(k|level)>", "12", metric.pattern))


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.pattern)
def test_declared_name_is_legal_and_found(metric: Metric) -> None:
    name = example(metric)
    mlflow_accepts(name)
    assert legal(name)
    assert describe(name) == metric
    check_declared([name])


@given(names)
def test_legal_name_is_one_that_mlflow_takes(name: str) -> None:
    if legal(name):
        mlflow_accepts(name)


@pytest.mark.parametrize(
    "name",
    ["", "/a", "a/", "a//b", "a/../b", "./a", "..", "..a/b", ".", "a\n", "é", "a" * (LONGEST + 1), "retention/<skill>"],
)
def test_name_that_mlflow_or_a_file_system_would_refuse_is_not_legal(name: str) -> None:
    assert not legal(name)


@given(st.text(max_size=20))
def test_any_text_becomes_one_legal_part_of_a_name(text: str) -> None:
    part = segment(text)
    name = f"retention/{part}/L1"
    assert "/" not in part
    assert legal(name)
    mlflow_accepts(name)
    assert describe(name) is not None


@pytest.mark.parametrize("text", ["steps", "chain_sum-4.b"])
def test_legal_part_stays_as_it_is(text: str) -> None:
    assert segment(text) == text


def test_characters_that_a_name_cannot_have_become_underscores() -> None:
    assert segment("a b/c(é)") == "a_b_c_"
    assert segment("..") == segment("") == "_"


def test_counts_and_levels_are_whole_numbers() -> None:
    assert describe("rollout/successes/k_3") is not None
    assert describe("rollout/successes/k_three") is None
    assert describe("retention/sums/L") is None


def test_placeholder_holds_one_part_alone() -> None:
    assert describe("rollout/format/a/b") is None


def test_name_without_placeholder_goes_before_a_pattern() -> None:
    found = describe("retention/prior")
    assert found is not None and found.pattern == "retention/prior"


def test_misspelt_metric_names_the_nearest() -> None:
    with pytest.raises(MetricError, match=r"^retention/priors: not declared .* \(did you mean retention/prior\?\)$"):
        check_declared(["retention/priors"])


def test_every_undeclared_metric_is_told_at_once() -> None:
    with pytest.raises(MetricError) as caught:
        check_declared(["retention/prior", "zzz", "a//b"])
    first, second = str(caught.value).splitlines()
    assert first == "zzz: not declared in ductile.metrics"
    assert second.startswith("a//b: MLflow refuses this metric name")


def test_every_metric_is_declared_once_in_a_section_of_the_page() -> None:
    patterns = [metric.pattern for metric in METRICS]
    assert len(set(patterns)) == len(patterns)
    assert {pattern.split("/")[0] for pattern in patterns} == set(SECTIONS)
    rows = [line for line in document().splitlines() if line.startswith("| `")]
    assert sorted(row.split("`")[1] for row in rows) == sorted(patterns)


def test_bars_in_a_meaning_do_not_break_the_table() -> None:
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 4 for line in document().splitlines() if line.startswith("|"))
