import io

from rich.console import Console

from ductile.report.records import ReportContext
from ductile.report.sequences import bracketed
from ductile.report.summary import summarise
from ductile.report.tables import print_tables, text_tables
from ductile.report.text import change, interval

CONTEXT = ReportContext("too hard", variants=("parameter_only", "low_drift", "proxy"))


def summary(record):
    records = [
        record(variant, plan, seed, 0.9 - 0.01 * seed, 0.2 + 0.05 * seed)
        for plan in ("medium", "guessable", "honest")
        for variant in ("parameter_only", "low_drift", "proxy")
        for seed in range(3)
    ]
    return summarise([*records, record("proxy", "honest", 3, status="FAILED")], CONTEXT)


def printed(record, width):
    stream = io.StringIO()
    print_tables(summary(record), Console(file=stream, width=width, force_terminal=False))
    return stream.getvalue()


def measure(mean, half=None):
    return {"mean": mean, "low": None if half is None else mean - half, "high": None if half is None else mean + half}


def test_number_with_its_interval():
    assert interval(measure(0.864, 0.04)) == "0.86 ±0.04"
    assert interval(measure(0.731, 0.052), 1, 100) == "73.1 ±5.2"
    assert interval(measure(0.864)) == "0.86"
    assert interval(measure(None)) == "-"
    assert interval(measure(-0.0001)) == "0.00"
    assert interval(measure(-0.51)) == "-0.51"


def test_change_without_an_end_is_the_beginning():
    assert change(measure(0.86, 0.1), measure(0.13, 0.05)) == "0.86 → 0.13 ±0.05"
    assert change(measure(0.86), measure(None)) == "0.86"


def test_tables_fit_into_120_columns_without_wrapping_a_row(record):
    text = printed(record, 120)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 120
    assert any("low_drift" in line and "→" in line and "±" in line for line in text.splitlines())
    assert "…" not in text


def test_narrow_terminal_gets_a_line_for_each_number(record):
    lines = printed(record, 70).splitlines()
    assert "honest / proxy" in lines
    assert "  Runs                     3 of 4" in lines


def test_failed_run_is_in_a_table_of_its_own(record):
    table = text_tables(summary(record))[-1]
    assert table.title == "Runs that did not finish"
    assert table.rows == (("honest", "proxy", "3", "FAILED", "honest-proxy-3-FAILED"),)


def test_runs_column_says_how_many_finished(record):
    kept = text_tables(summary(record))[0]
    assert {row[:2]: row[2] for row in kept.rows}["honest", "proxy"] == "3 of 4"
    assert {row[:2]: row[2] for row in kept.rows}["medium", "proxy"] == "3"


def test_names_are_printed_as_they_are(record):
    stream = io.StringIO()
    print_tables(summarise([record("[red]x[/red]")], ReportContext("t")), Console(file=stream, width=120))
    assert "[red]x[/red]" in stream.getvalue()


def test_plasticity_table_shows_both_ratios_and_the_verdict(record):
    [table] = [table for table in text_tables(summary(record)) if table.title == "Plasticity"]
    row = next(row for row in table.rows if row[:2] == ("medium", "proxy"))
    assert row[2:] == ("1.00 ±0.00", "0.95 ±0.00", "0.60 ±0.00", "0.30 / 0.25", "learns 3")


def test_plan_without_a_branch_is_not_in_the_plasticity_table(record):
    without = record()
    for boundary in without.boundaries:
        boundary["metrics"] = {n: v for n, v in boundary["metrics"].items() if not n.startswith("plasticity/")}
    assert "Plasticity" not in [table.title for table in text_tables(summarise([without], CONTEXT))]


def tables_of(records):
    return {table.title: table for table in text_tables(summarise(records, CONTEXT))}


def test_sequences_are_shown_for_plans_of_two_phases_alone(record, sequence, alone):
    tables = tables_of([sequence(seed=0), sequence(seed=1), alone(seed=0), alone(seed=1), record()])
    assert tables["Sequences of phases"].rows == (
        ("sequence", "parameter_only", "0.75 ±0.00", "0.85 ±0.00", "-0.20 ±0.00", "20.0 ±0.0", "0.25 [0.25, 0.25]"),
    )
    assert tables["Forward transfer"].rows == (
        ("sequence", "parameter_only", "sum", "0.25 [0.25, 0.25]", "2", "evaluation", "alone"),
    )
    assert "Sequences of phases" not in tables_of([record(), alone()])


def test_missing_reference_is_named_with_the_plan_that_would_give_it(sequence):
    tables = tables_of([sequence()])
    assert tables["Sequences of phases"].rows[0][-1] == "-"
    assert tables["Sequences of phases"].note.endswith("where it is left out: sum (sum, level 2, 10 steps).")
    assert "Forward transfer" not in tables


def test_matched_kl_table_says_from_where_and_to_which_pass_rate(sequence):
    table = tables_of([sequence(), sequence("proxy", gain=0.4)])["KL at matched reward"]
    assert table.rows[0] == ("sequence", "parameter_only", "sort", "0.10 → 0.50", "0.050", "0.100", "1", "3")


def test_sequence_tables_fit_into_120_columns(sequence, alone):
    runs = [make(variant, seed) for make in (sequence, alone) for variant in CONTEXT.variants for seed in range(3)]
    stream = io.StringIO()
    print_tables(summarise(runs, CONTEXT), Console(file=stream, width=120, force_terminal=False))
    lines = stream.getvalue().splitlines()
    assert any("low_drift" in line and "0.10 → 0.90" in line and "0.100 ±0.000" in line for line in lines)
    assert "…" not in stream.getvalue()


def test_bootstrap_interval_stands_in_brackets():
    assert bracketed({"mean": 0.124, "bootstrap": {"low": -0.004, "high": 0.5}}) == "0.12 [0.00, 0.50]"
    assert bracketed({"mean": 0.124, "bootstrap": None}) == "0.12"
    assert bracketed({"mean": None, "bootstrap": None}) == "-"
