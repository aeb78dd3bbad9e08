"""What pruning came to as a table in the terminal: a row for each data size and kept share, a column for each rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ductile.report.pruning import ORDER
from ductile.report.statistics import estimate

TITLES = {"passed": "Pass rate on held-out problems", "loss": "Held-out loss, nats a token"}


def print_pruning(document: Mapping[str, Any], console: Console) -> None:
    """Means over seeds with half of their 95% t intervals, then each crossing of easy and hard."""
    rows = document["rows"]
    rules = [rule for rule in ORDER if any(row["rule"] == rule for row in rows)]
    for metric, title in TITLES.items():
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("kept", "data size", *rules):
            table.add_column(name, justify="right")
        for fraction in sorted({row["fraction"] for row in rows if row["rule"] != "all"}, reverse=True):
            for size in sorted({row["size"] for row in rows}):
                cells = [_cell(rows, size, 1.0 if rule == "all" else fraction, rule, metric) for rule in rules]
                table.add_row(f"{fraction:.0%}", str(size), *cells)
        console.print(table)
    for found in document["crossings"]:
        console.print(crossing_line(found), highlight=False)


def crossing_line(found: Mapping[str, Any]) -> str:
    """One crossing in words."""
    where = f"{found['fraction']:.0%} kept, {found['metric']}: "
    if found["crossed"] == 0 and not found["size"]:
        better = "nothing differs" if found["low"] is None and found["size"] is None else ""
        first = found["hard_minus_easy"][0]["mean"]
        return where + (better if first == 0 else f"{'hard' if first > 0 else 'easy'} is better at every size")
    return (
        f"{where}hard overtakes easy at {_size(found['size'])} examples, 95% interval {_size(found['low'])} to "
        f"{_size(found['high'])} ({found['crossed']:.0%} of the resamples cross; {len(found['seeds'])} seeds)"
    )


def _size(value: float | None) -> str:
    return "more than the largest" if value is None else "fewer than the smallest" if value == 0 else f"{value:.0f}"


def _cell(rows: list[Mapping[str, Any]], size: int, fraction: float, rule: str, metric: str) -> str:
    here = (size, fraction, rule)
    found = estimate([row[metric] for row in rows if (row["size"], row["fraction"], row["rule"]) == here])
    if found is None:
        return "-"
    return f"{found.mean:.3f}" if found.half is None else f"{found.mean:.3f} ±{found.half:.3f}"
