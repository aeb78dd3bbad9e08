"""What pruning came to as a table in the terminal: a row for each data size and kept share, a column for each rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
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
    sizes = [each["size"] for each in found["hard_minus_easy"]]
    where, own = f"{found['fraction']:.0%} kept, {found['metric']}: ", _seeds_text(found["by_seed"])
    if found["kind"] == "crosses":
        interval = "" if found["low"] is None else f", 95% t interval {found['low']:.0f} to {found['high']:.0f}"
        return f"{where}hard overtakes easy at {found['size']:.0f} examples{interval}{own}"
    alone = len(found["seeds"]) == 1
    if found["kind"] == "nothing":
        return f"{where}{'nothing differs' if alone else 'nothing differs by more than noise'}{own}"
    if found["kind"] == "mixed":
        return f"{where}easy and hard take turns: no single crossing{own}"
    told = [each["size"] for each in found["hard_minus_easy"] if (each["mean"] if alone else _told(each))]
    at = "every size" if told == sizes else f"every size that tells ({', '.join(map(str, told))})"
    return f"{where}{found['kind']} is better at {at}{own}"


def _told(difference: Mapping[str, Any]) -> bool:
    """Whether the paired interval leaves 0 out."""
    return bool(difference["low"] > 0 or difference["high"] < 0)


def _seeds_text(by_seed: Sequence[Mapping[str, Any]]) -> str:
    """`; seeds: 115, 137, below all sizes`: where each seed's own curve crosses. Nothing for a single one."""
    if len(by_seed) == 1:
        return ""
    words = {"hard": "below all sizes", "easy": "above all sizes", "nothing": "no difference"}
    texts = [f"{size:.0f}" for size in sorted(each["size"] for each in by_seed if each["size"] is not None)]
    others = Counter(words[each["kind"]] for each in by_seed if each["size"] is None)
    texts += [name if count == 1 else f"{name} ({count})" for name, count in sorted(others.items())]
    return f"; seeds: {', '.join(texts)}"


def _cell(rows: list[Mapping[str, Any]], size: int, fraction: float, rule: str, metric: str) -> str:
    here = (size, fraction, rule)
    found = estimate([row[metric] for row in rows if (row["size"], row["fraction"], row["rule"]) == here])
    if found is None:
        return "-"
    return f"{found.mean:.3f}" if found.half is None else f"{found.mean:.3f} ±{found.half:.3f}"
