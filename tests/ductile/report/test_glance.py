from __future__ import annotations

from dataclasses import replace

from ductile.report import ReportContext, summarise
from ductile.report.glance import glance, markdown


def spent(record, seconds, tokens):
    return replace(
        record,
        metrics={
            **record.metrics,
            "time/step_s": [(1, seconds), (2, seconds)],
            "budget/sampled_tokens": [(1, tokens / 2), (2, tokens)],
            "budget/forward_tokens": [(1, 1.5 * tokens), (2, 3 * tokens)],
        },
    )


def test_row_has_what_was_kept_and_what_it_cost_over_seeds(record):
    runs = [spent(record(seed=0, after=0.2), 1.0, 4000), spent(record(seed=1, after=0.4), 2.0, 6000)]
    table = glance(summarise(runs, ReportContext("t")))
    (row,) = table.rows
    found = dict(zip((name.replace("\n", " ") for name in table.columns), row, strict=True))
    assert found["Plan"] == "guessable"
    assert found["Prior skills pass rate"] == "0.30 ±1.27"  # t of one degree of freedom 12.706, times 0.1
    assert found["Training seconds"] == "3 ±13"  # sums of 2 and 4 seconds
    assert found["Sampled thousand tokens"] == "5 ±13"  # the last step's, not the sum
    assert found["Forward passes thousand tokens"] == "15 ±38"
    assert found["Plasticity SFT, ratio"] == "0.95 ±0.00"
    assert found["New skill pass rate"] == "-"  # not measured


def test_markdown_has_a_line_for_each_row_and_sets_numbers_to_the_right(record):
    lines = markdown(glance(summarise([record()], ReportContext("t")))).splitlines()
    assert lines[1].startswith("| --- | --- | ---: |")
    assert lines[2].startswith("| guessable | parameter_only | 0.20 |")
    assert all(line.count("|") == lines[0].count("|") for line in lines[:3])
