"""What probes measured as tables in the terminal: a row for each metric, the base beside what came of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ductile.metrics import METRICS, describe

NOTHING = "-"


def print_probes(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print the metrics, the verdicts on plasticity, and the cost. rows: of the base, and of the policy after it."""
    console.print(_metrics(rows))
    for row in rows:
        for verdict in row["tables"].get("plasticity_verdict", []):
            words = ", ".join(f"{name} {_number(value)}" for name, value in verdict.items() if name != "verdict")
            console.print(
                f"plasticity of {row['phase']}: [bold]{verdict.get('verdict')}[/bold] ({words})", highlight=False
            )
    console.print(_costs(rows))


def metric_rows(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, list[float | None]]]:
    """(name, unit, value in each row) of every metric but cost and time, in the order in which metrics are declared."""
    order = {metric.pattern: position for position, metric in enumerate(METRICS)}
    names = dict.fromkeys(name for row in rows for name in row["metrics"] if not name.startswith(("cost/", "time/")))
    declared = {name: metric for name in names if (metric := describe(name)) is not None}
    ranked = sorted(declared, key=lambda name: (order[declared[name].pattern], _natural(name)))
    return [(name, declared[name].unit, [row["metrics"].get(name) for row in rows]) for name in ranked]


def _metrics(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("metric")
    table.add_column("unit", style="dim")
    for row in rows:
        table.add_column(row["phase"], justify="right")
    section, known = "", [intervals(row) for row in rows]
    for name, unit, values in metric_rows(rows):
        if name.startswith("plasticity/") and name.endswith(("_low", "_high")):
            continue  # they stand beside the ratio
        if section and name.split("/")[0] != section:
            table.add_section()
        section = name.split("/")[0]
        ends = [found.get(name) for found in known]
        table.add_row(name, unit, *map(_with_interval, values, ends))
    return table


def intervals(row: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Metric -> its 95% interval, where the probe's tables have one."""
    tables, metrics = row["tables"], row["metrics"]
    found: dict[str, tuple[Any, Any]] = {
        name.removesuffix("_low"): (value, metrics.get(f"{name.removesuffix('_low')}_high"))
        for name, value in metrics.items()
        if name.startswith("plasticity/") and name.endswith("_low")
    }
    for each in tables.get("horizon", []):
        if each["history"] == "own":
            found[f"self_conditioning/{each['mode']}/horizon"] = (each["low"], each["high"])
    for each in tables.get("injection", []):
        found[f"self_conditioning/{each['mode']}/slope"] = (each["slope_low"], each["slope_high"])
    for each in tables.get("heuristic_pairs", []):
        found[f"heuristic/L{each['level']}/dominance_occlusion"] = (each["dominance_low"], each["dominance_high"])
    for each in tables.get("heuristic_sweep", []):
        found[f"heuristic/L{each['level']}/dominance_logit"] = (each["dominance_low"], each["dominance_high"])
    layers = [each["layer"] for each in tables.get("sparsity", [])]
    for each in tables.get("sparsity", []):
        if each["layer"] == max(layers):
            for name in ("spearman", "spearman_within", "auc"):
                key = f"sparsity/{each['skill']}/{name}/{each['measure']}"
                found[key] = (each[f"{name}_low"], each[f"{name}_high"])
    return {name: ends for name, ends in found.items() if None not in ends and name in metrics}


def _costs(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="cost", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("probe")
    kinds = ("seconds", "generated_tokens", "forward_tokens", "trained_tokens")
    for row in rows:
        for kind in kinds:
            table.add_column(f"{row['phase']}\n{kind.replace('_', ' ')}", justify="right")
    probes = dict.fromkeys(name.split("/")[1] for row in rows for name in row["metrics"] if name.startswith("cost/"))
    for probe in probes:
        values = [row["metrics"].get(f"cost/{probe}/{kind}") for row in rows for kind in kinds]
        table.add_row(probe, *(NOTHING if value is None else f"{value:,.0f}" for value in values))
    return table


def _with_interval(value: float | None, ends: tuple[float, float] | None) -> str:
    text = _number(value)
    return text if value is None or ends is None else f"{text} [{ends[0]:.2f}, {ends[1]:.2f}]"


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts pass_at_2 before pass_at_16."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _number(value: Any) -> str:
    if value is None:
        return NOTHING
    if not isinstance(value, float | int):
        return str(value)
    return f"{value:.0f}" if value == int(value) and abs(value) >= 10 else f"{value:.4g}"
