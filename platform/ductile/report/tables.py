"""The summary as tables: plain rows of text, for the terminal (rich) and for the HTML page alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ductile.report.difficulty import difficulty_tables
from ductile.report.gap import gap_table
from ductile.report.records import FINISHED
from ductile.report.sequences import matched_kl, phase_transfer, sequences
from ductile.report.text import NOTHING, TextTable, change, interval

NARROW = 118
"""Terminals with fewer columns get a block for each plan and variant in place of the tables."""


def text_tables(summary: Mapping[str, Any]) -> list[TextTable]:
    """Every table of the report; those without rows are left out. summary: what `summarise` returned."""
    tables = (
        _kept(summary),
        _moved(summary),
        _plasticity(summary),
        sequences(summary),
        phase_transfer(summary),
        matched_kl(summary),
        gap_table(summary),
        *difficulty_tables(summary),
        _onsets(summary),
        _differences(summary),
        _not_finished(summary),
    )
    return [table for table in tables if table.rows]


def print_tables(summary: Mapping[str, Any], console: Console) -> None:
    """Print the tables, or in a narrow terminal the same as blocks."""
    for table in text_tables(summary):
        print_table(table, console)


def print_table(table: TextTable, console: Console) -> None:
    """Print one table, or in a narrow terminal the same as blocks."""
    console.print()
    if console.width >= NARROW:
        console.print(_wide(table))
    else:
        for line in _blocks(table):
            console.print(line)
    if table.note:
        console.print(Text(table.note, style="dim"))


def runs_text(cell: Mapping[str, Any]) -> str:
    """How many runs the numbers are of: `3`, or `2 of 3`."""
    finished, all_runs = len(cell["seeds"]), len(cell["runs"])
    return str(finished) if finished == all_runs else f"{finished} of {all_runs}"


def _kept(summary: Mapping[str, Any]) -> TextTable:
    rows = []
    for cell in summary["cells"]:
        m = cell["measures"]
        rows.append(
            (
                cell["plan"],
                cell["variant"],
                runs_text(cell),
                change(m["prior_before"], m["prior_after"]),
                interval(m["forgetting"], 1, 100),
                interval(m["new_after"]),
                change(m["length_prior_before"], m["length_prior_after"], 0),
                change(m["shortcut_prior_before"], m["shortcut_prior_after"]),
            )
        )
    return TextTable(
        "What was kept, and how it is answered now",
        (
            "Plan",
            "Variant",
            "Runs",
            "Prior skills\npass rate",
            "Forgetting\npoints",
            "New skill\npass rate",
            "Length\ntokens",
            "Shortcuts\nshare",
        ),
        tuple(rows),
        "Before the first phase → after the last one. ±: half of the 95% t interval over seeds. Length and shortcuts "
        "on prior skills. Runs: finished ones, which alone are averaged.",
    )


def _moved(summary: Mapping[str, Any]) -> TextTable:
    rows = []
    for cell in summary["cells"]:
        m = cell["measures"]
        rows.append(
            (
                cell["plan"],
                cell["variant"],
                interval(m["kl_forward_prior"], 3),
                interval(m["kl_reverse_prior"], 3),
                change(m["formats_prior_before"], m["formats_prior_after"], 1),
            )
        )
    return TextTable(
        "Drift and diversity",
        (
            "Plan",
            "Variant",
            "KL forward\nnats/token",
            "KL reverse\nnats/token",
            "Formats\neffective no.",
        ),
        tuple(rows),
        "KL to the base on prior-skill prompts.",
    )


def _plasticity(summary: Mapping[str, Any]) -> TextTable:
    rows = []
    for cell in summary["cells"]:
        m = cell["measures"]
        if m["branch_auc"]["mean"] is None and m["branch_sft_auc_ratio"]["mean"] is None:
            continue
        rows.append(
            (
                cell["plan"],
                cell["variant"],
                interval(m["branch_auc_ratio"]),
                interval(m["branch_sft_auc_ratio"]),
                interval(m["branch_end"]),
                " / ".join(
                    NOTHING if m[n]["mean"] is None else f"{m[n]['mean']:.2f}"
                    for n in ("silent_share", "branch_silent_share")
                ),
                _verdict_text(cell["verdicts"]),
            )
        )
    return TextTable(
        "Plasticity",
        (
            "Plan",
            "Variant",
            "RL: AUC\n/ fresh base",
            "Supervised: AUC\n/ fresh base",
            "RL: end\npass rate",
            "Silent\nplan / branch",
            "Verdict\nruns",
        ),
        tuple(rows),
        "Training for a fixed budget on a domain that the plan does not hold, by RL and on worked solutions. Silent: "
        "share of groups whose rewards are all equal, so that they give no gradient. Exploration failure: RL finds "
        "nothing to learn from, and worked solutions are learned as well as by the fresh base.",
    )


def _verdict_text(verdicts: Mapping[str, int]) -> str:
    """`learns 2, undecided 1`."""
    return ", ".join(f"{name} {count}" for name, count in sorted(verdicts.items())) or NOTHING


def _onsets(summary: Mapping[str, Any]) -> TextTable:
    rows = []
    for cell in summary["cells"]:
        found, runs = cell["onset"], cell["onset"]["runs"]
        if any(run[f"{sign}_step"] is not None for run in runs for sign in ("length", "shortcut", "fall")):
            rows.append(
                (
                    cell["plan"],
                    cell["variant"],
                    *(_onset_text(found, sign) for sign in ("length", "shortcut", "fall")),
                    _before_text(found["length_order"]),
                    _before_text(found["shortcut_order"]),
                    _kinds_text(found["kinds"]),
                )
            )
    t = summary["thresholds"]
    return TextTable(
        "What came first",
        (
            "Plan",
            "Variant",
            f"Length x {t['length_factor']:g}\nstep",
            f"Shortcuts +{t['shortcut_rise']:g}\nstep",
            f"Prior skills -{t['prior_fall'] * 100:.0f} points\nstep",
            "Length first\nruns",
            "Shortcuts first\nruns",
            "Kinds of shortcut\nstep",
        ),
        tuple(rows),
        "Median step over the runs where it happened, and how many those are. First: before the pass rate fell, of the "
        "runs with a fall; ? marks runs where the pass rate was measured too seldom to tell.",
    )


def _onset_text(found: Mapping[str, Any], sign: str) -> str:
    steps = [run[f"{sign}_step"] for run in found["runs"] if run[f"{sign}_step"] is not None]
    return f"{found[f'{sign}_step_median']:g} ({len(steps)} of {len(found['runs'])})" if steps else NOTHING


def _kinds_text(kinds: Mapping[str, Any]) -> str:
    """`no work 8 (2), skipped 12 (1)`: the median step of each kind that set in, and in how many runs."""
    risen = [(name, kind) for name, kind in kinds.items() if kind["runs"]]
    return ", ".join(f"{name.replace('_', ' ')} {k['step_median']:g} ({k['runs']})" for name, k in risen) or NOTHING


def _before_text(orders: Mapping[str, int]) -> str:
    fell = orders["before"] + orders["unresolved"] + orders["after"] + orders["only_fall"]
    if not fell:
        return NOTHING
    return f"{orders['before']} of {fell}" + (f", {orders['unresolved']} ?" if orders["unresolved"] else "")


def _differences(summary: Mapping[str, Any]) -> TextTable:
    columns = {
        "forgetting": (1, 100.0),
        "prior_after": (1, 100.0),
        "new_after": (1, 100.0),
        "branch_end": (1, 100.0),
        "kl_forward_prior": (3, 1.0),
    }
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in summary["differences"]:
        if row["measure"] in columns:
            cells.setdefault((row["plan"], row["variant"]), {})[row["measure"]] = interval(
                row, *columns[row["measure"]]
            )
    reference = summary["variants"][0] if summary["variants"] else ""
    return TextTable(
        f"Difference to {reference}, paired by seed",
        (
            "Plan",
            "Variant",
            "Forgetting\npoints",
            "Prior skills\npoints",
            "New skill\npoints",
            "Branch end\npoints",
            "KL forward\nnats/token",
        ),
        tuple(
            (plan, variant, *(found.get(name, NOTHING) for name in columns)) for (plan, variant), found in cells.items()
        ),
        "An interval that does not cross 0 is a difference that these seeds agree on.",
    )


def _not_finished(summary: Mapping[str, Any]) -> TextTable:
    rows = tuple(
        (cell["plan"], cell["variant"], str(run["seed"]), run["status"], run["run_id"])
        for cell in summary["cells"]
        for run in cell["runs"]
        if run["status"] != FINISHED
    )
    return TextTable(
        "Runs that did not finish",
        ("Plan", "Variant", "Seed", "Status", "MLflow run"),
        rows,
        "They are in no mean above.",
        labels=5,
    )


def _wide(table: TextTable) -> Table:
    printed = Table(
        title=Text(table.title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for position, name in enumerate(table.columns):
        label = position < table.labels
        printed.add_column(Text(name), justify="left" if label else "right", no_wrap=not label, overflow="fold")
    before = None
    for row in table.rows:
        if before is not None and row[0] != before:
            printed.add_section()
        plan = "" if row[0] == before and table.labels == 2 else row[0]
        printed.add_row(*(Text(text) for text in (plan, *row[1:])))
        before = row[0]
    return printed


def _blocks(table: TextTable) -> Iterator[Text]:
    """A line for each number, under a line that names the row."""
    yield Text(table.title, style="bold")
    names = [name.replace("\n", ", ") for name in table.columns]
    width = max(len(name) for name in names)
    for row in table.rows:
        yield Text(" / ".join(row[: min(table.labels, 2)]), style="underline")
        for name, text in zip(names[2:], row[2:], strict=True):
            yield Text(f"  {name:<{width}}  {text}")
