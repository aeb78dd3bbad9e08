"""The report of a search over difficulty thresholds, from plain rows: its table, its map, and `summary.json`.

A row is a trial: trial, status (finished, stopped, failed), reason, thresholds (low, high, group_size, estimator,
steps or None), steps (done), of (the whole plan), and seeds: a list of seed, values (objective -> value) and errors
(objective -> standard error of measuring it). A stopped trial's values are those at the step where it was stopped.

A trial dominates another when it is at least as good in every objective and better in one; the front are the finished
trials that no finished trial dominates (Pareto). One objective has a front too: its best trials.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import hypot
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon

from ductile.report.canvas import MARKERS, STYLE
from ductile.report.statistics import Estimate, estimate, paired_difference
from ductile.report.text import NOTHING, TextTable, interval

SCHEMA = "ductile.sweep/1"
DPI = 150
TITLES = {
    "retention": ("Prior skills", "pass rate"),
    "new_skill": ("New skills", "pass rate"),
    "plasticity": ("Plasticity", "AUC / fresh base"),
}
"""Objective -> what a table calls it, and its unit; in the order of columns and panels."""

ORDER = ("finished", "stopped", "failed")


def summarise_sweep(
    rows: Sequence[Mapping[str, Any]], searched: Sequence[str], width: float, about: Mapping[str, Any]
) -> dict[str, Any]:
    """What `summary.json` holds: the trials, best first, with their means over seeds, and which are on the front.

    searched: the objectives that were maximised.  width: of the narrowest band allowed.  about: anything to keep.
    Finished trials come first: one that was stopped was measured earlier, and compares only with others at its step.
    """
    trials = [{**row, "objectives": _objectives(row)} for row in rows]
    finished = [trial for trial in trials if trial["status"] == "finished"]
    by_trial = {trial["trial"]: _means(trial, searched) for trial in finished}
    known = {number: values for number, values in by_trial.items() if len(values) == len(searched)}
    front = pareto_front(known)
    beaten = {n: sum(dominates(v, values) for v in known.values()) for n, values in known.items()}

    def rank(trial: Mapping[str, Any]) -> tuple[Any, ...]:
        first = _means(trial, searched[:1])
        unknown = trial["status"] == "finished" and trial["trial"] not in known
        stage = -trial["steps"] if trial["status"] == "stopped" else beaten.get(trial["trial"], 0)
        return ORDER.index(trial["status"]), unknown, stage, -first[0] if first else 0.0, trial["trial"]

    ranked = sorted(trials, key=rank)
    best = ranked[0] if ranked and ranked[0]["trial"] in known and len(searched) == 1 else None
    for trial in ranked:
        trial["front"] = trial["trial"] in front
        trial["apart"] = None if best is None or trial["trial"] not in known else _apart(best, trial, searched[0])
    return {
        "schema": SCHEMA,
        "searched": list(searched),
        "measured": [name for name in TITLES if any(name in trial["objectives"] for trial in trials)],
        "width": width,
        "counts": {status: sum(trial["status"] == status for trial in trials) for status in ORDER},
        "front": sorted(front),
        "trials": ranked,
        **about,
    }


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether `one` is at least as good in everything and better in something; more is better."""
    return all(a >= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def pareto_front(values: Mapping[int, Sequence[float]]) -> set[int]:
    """The keys whose values none of the others dominate."""
    return {key for key, own in values.items() if not any(dominates(other, own) for other in values.values())}


def sweep_table(summary: Mapping[str, Any]) -> TextTable:
    """A row for each trial, best first."""
    measured = summary["measured"]
    estimators = {trial["thresholds"]["estimator"] for trial in summary["trials"]}
    rows = tuple(
        (
            f"{trial['trial']}{' *' if trial['front'] else ''}",
            trial["status"] if trial["status"] != "stopped" else "stopped early",
            f"{at['low']:.2f} - {at['high']:.2f}",
            str(at["group_size"]),
            *([at["estimator"]] if len(estimators) > 1 else []),
            f"{trial['steps']} of {trial['of']}",
            *(interval(trial["objectives"].get(name, _plain(None))) for name in measured),
            {None: NOTHING, True: "yes", False: "no"}[trial["apart"]],
        )
        for trial in summary["trials"]
        for at in [trial["thresholds"]]
    )
    columns = (
        "Trial",
        "Ended",
        "Band\npass rate",
        "G",
        *(["Estimator"] if len(estimators) > 1 else []),
        "Steps\ndone",
        *("\n".join(TITLES[name]) for name in measured),
        "Apart from\nthe best",
    )
    return TextTable("Trials, best first", columns, rows, _note(summary), labels=2)


def failure_table(summary: Mapping[str, Any]) -> TextTable:
    """The trials that failed, and why."""
    rows = tuple((str(t["trial"]), t["reason"]) for t in summary["trials"] if t["status"] == "failed")
    return TextTable("Trials that failed", ("Trial", "Reason"), rows, "The same command tries them again.")


def write_sweep(summary: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `summary.json`, `thresholds.png` and `thresholds.svg`; returns them.

    No figure where nothing was measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers = folder / "summary.json"
    numbers.write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n")
    files = [numbers]
    with matplotlib.rc_context(STYLE):
        figure = threshold_map(summary)
        if figure is not None:
            for path in (folder / "thresholds.png", folder / "thresholds.svg"):
                figure.savefig(path, dpi=DPI)
                files.append(path)
    return files


def threshold_map(summary: Mapping[str, Any]) -> Figure | None:
    """A panel of low against high for each searched objective, its value as colour; and the objectives against another.

    Markers tell estimators apart, or group sizes where there is one estimator; where both vary, sizes are group sizes.
    Stopped trials are hollow (their value is that at the step where they were stopped), failed ones are crosses, the
    front has a ring.
    """
    searched, measured = summary["searched"], summary["measured"]
    maps = [name for name in searched if name in measured]
    if not maps:
        return None
    pairs = [tuple(measured[:2])] if len(measured) > 1 else []
    count = len(maps) + len(pairs)
    figure = Figure(figsize=(0.6 + 4.3 * count, 4.6), layout="constrained")
    panels = figure.subplots(1, count, squeeze=False)[0]
    look = _Look(summary)
    for panel, name in zip(panels, maps, strict=False):
        _draw_map(figure, panel, summary, name, look)
    for panel, (across, up) in zip(panels[len(maps) :], pairs, strict=True):
        _draw_pair(panel, summary, across, up, look)
    handles = look.handles(summary)
    figure.legend(handles=handles, loc="outside upper center", ncols=min(6, len(handles)), handlelength=1.4)
    return figure


class _Look:
    """Markers and sizes of trials."""

    def __init__(self, summary: Mapping[str, Any]) -> None:
        at = [trial["thresholds"] for trial in summary["trials"]]
        self.estimators = list(dict.fromkeys(sorted(each["estimator"] for each in at)))
        self.groups = sorted({each["group_size"] for each in at})
        self.by_estimator = len(self.estimators) > 1

    def marker(self, at: Mapping[str, Any]) -> str:
        names: list[Any] = self.estimators if self.by_estimator else self.groups
        return MARKERS[names.index(at["estimator" if self.by_estimator else "group_size"]) % len(MARKERS)]

    def size(self, at: Mapping[str, Any]) -> float:
        """Area in points squared."""
        if not self.by_estimator or len(self.groups) == 1:
            return 80.0
        return 45.0 + 90.0 * self.groups.index(at["group_size"]) / (len(self.groups) - 1)

    def handles(self, summary: Mapping[str, Any]) -> list[Line2D]:
        def handle(label: str, marker: str, filled: bool = True, size: float = 8.0) -> Line2D:
            face = "#555555" if filled else "none"
            return Line2D(
                [], [], linestyle="", marker=marker, markersize=size, color="#555555", markerfacecolor=face, label=label
            )

        names: list[Any] = self.estimators if self.by_estimator else [f"G = {size}" for size in self.groups]
        made = [handle(str(name), MARKERS[i % len(MARKERS)]) for i, name in enumerate(names)]
        if self.by_estimator and len(self.groups) > 1:
            made += [handle(f"G = {g}", "o", size=self.size({"group_size": g}) ** 0.5) for g in self.groups]
        if summary["counts"]["stopped"]:
            made.append(handle("stopped early: value then", "o", filled=False))
        if summary["counts"]["failed"]:
            made.append(handle("failed", "x"))
        if summary["front"]:
            ring = handle("best" if len(summary["searched"]) == 1 else "Pareto front", "o", filled=False, size=12.0)
            ring.set_markeredgecolor("#D55E00")
            ring.set_markeredgewidth(1.6)
            made.append(ring)
        return made


def _draw_map(figure: Figure, panel: Axes, summary: Mapping[str, Any], name: str, look: _Look) -> None:
    known = [trial for trial in summary["trials"] if name in trial["objectives"]]
    values = [trial["objectives"][name]["mean"] for trial in known]
    colours = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(min(values), max(values)), "viridis")
    for trial in known:
        at, colour = trial["thresholds"], colours.to_rgba(trial["objectives"][name]["mean"])
        _point(panel, at["low"], at["high"], trial, colour, look)
    for trial in summary["trials"]:
        if trial["status"] == "failed" and name not in trial["objectives"]:
            at = trial["thresholds"]
            panel.scatter(at["low"], at["high"], marker="x", s=50, color="#999999", linewidths=1.2, zorder=2)
    width = summary["width"]
    panel.add_patch(Polygon([(0, 0), (1, 0), (1, 1), (1 - width, 1), (0, width)], color="#eeeeee", zorder=0))
    _frame(panel, [t["thresholds"] for t in summary["trials"]])
    panel.set_xlabel("band, lowest pass rate")
    panel.set_ylabel("band, highest pass rate")
    panel.set_title(TITLES[name][0])
    figure.colorbar(colours, ax=panel, label=f"{TITLES[name][0].lower()}, {TITLES[name][1]}")


def _draw_pair(panel: Axes, summary: Mapping[str, Any], across: str, up: str, look: _Look) -> None:
    """Trials by two objectives, with their intervals where there are several seeds; the front as steps."""
    known = [t for t in summary["trials"] if across in t["objectives"] and up in t["objectives"]]
    for trial in known:
        x, y = trial["objectives"][across], trial["objectives"][up]
        if trial["status"] == "finished" and x["n"] >= 3:  # of two seeds the interval would hide the panel
            panel.errorbar(
                x["mean"], y["mean"], xerr=x["high"] - x["mean"], yerr=y["high"] - y["mean"], color="#bbbbbb", zorder=1
            )
        _point(panel, x["mean"], y["mean"], trial, "#0072B2", look)
    front = pareto_front(
        {t["trial"]: (t["objectives"][across]["mean"], t["objectives"][up]["mean"]) for t in known if _finished(t)}
    )
    line = sorted((t["objectives"][across]["mean"], t["objectives"][up]["mean"]) for t in known if t["trial"] in front)
    if len(line) > 1:
        panel.step(*zip(*line, strict=True), where="pre", color="#D55E00", linewidth=1.0, linestyle="--", zorder=1)
    panel.set_xlabel(f"{TITLES[across][0].lower()}, {TITLES[across][1]}")
    panel.set_ylabel(f"{TITLES[up][0].lower()}, {TITLES[up][1]}")
    panel.set_title("One against the other")
    panel.margins(0.12)


def _point(panel: Axes, x: float, y: float, trial: Mapping[str, Any], colour: Any, look: _Look) -> None:
    at, hollow = trial["thresholds"], trial["status"] != "finished"
    size = look.size(at)
    panel.scatter(
        x,
        y,
        s=size,
        marker=look.marker(at),
        facecolors="none" if hollow else [colour],
        edgecolors=[colour] if hollow else "#333333",
        linewidths=1.8 if hollow else 0.5,
        zorder=3,
    )
    if trial["front"]:
        panel.scatter(x, y, s=3.2 * size, marker="o", facecolors="none", edgecolors="#D55E00", linewidths=1.6, zorder=2)
    panel.annotate(
        str(trial["trial"]), (x, y), xytext=(8, 6), textcoords="offset points", fontsize=7, color="#555555", zorder=4
    )


def _frame(panel: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    """The range of the trials with some room, within [0, 1]."""
    for name, limit in (("low", panel.set_xlim), ("high", panel.set_ylim)):
        values = [at[name] for at in points]
        room = max(0.04, 0.12 * (max(values) - min(values)))
        limit(max(-0.03, min(values) - room), min(1.03, max(values) + room))


def _note(summary: Mapping[str, Any]) -> str:
    seeds = max((len(trial["seeds"]) for trial in summary["trials"]), default=0)
    searched = " and ".join(TITLES[name][0].lower() for name in summary["searched"])
    parts = [f"*: the {'best' if len(summary['searched']) == 1 else 'Pareto front'} by {searched}, of finished trials."]
    if summary["counts"]["stopped"]:
        parts.append("Stopped trials show what was measured at their last step, with the first seed alone.")
    if seeds > 1:
        parts.append(
            f"±: half of the 95% t interval over {seeds} seeds. Apart: the paired difference to the best has an "
            f"interval without 0."
        )
    else:
        parts.append(
            "One seed a trial: no interval; nothing here tells luck from thresholds (sweep.seeds=3). Apart: further "
            "from the best than 2 standard errors of measuring the two."
        )
    parts.append(f"The best of {len(summary['trials'])} looks better than it is: run it again with other seeds.")
    return " ".join(parts)


def _objectives(row: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Objective -> mean, low, high, n and values by seed, of those that every seed has."""
    seeds, found = row["seeds"], {}
    for name in TITLES:
        if seeds and all(name in seed["values"] for seed in seeds):
            values = {str(seed["seed"]): seed["values"][name] for seed in seeds}
            found[name] = {**_plain(estimate(list(values.values()))), "values": values}
    return found


def _means(trial: Mapping[str, Any], names: Sequence[str]) -> list[float]:
    return [trial["objectives"][name]["mean"] for name in names if name in trial["objectives"]]


def _apart(best: Mapping[str, Any], trial: Mapping[str, Any], name: str) -> bool | None:
    """Whether the trial is worse than the best by more than the noise that is known; None of the best itself."""
    if trial is best:
        return None
    own, top = (t["objectives"][name] for t in (trial, best))
    if own["n"] > 1:
        difference = paired_difference(_by_seed(own), _by_seed(top))
        return difference is not None and difference.high is not None and difference.high < 0
    errors = [t["seeds"][0].get("errors", {}).get(name) for t in (trial, best)]
    if None in errors:
        return None
    return bool(top["mean"] - own["mean"] > 2 * hypot(*errors))


def _by_seed(found: Mapping[str, Any]) -> dict[int, float]:
    return {int(seed): value for seed, value in found["values"].items()}


def _finished(trial: Mapping[str, Any]) -> bool:
    return bool(trial["status"] == "finished")


def _plain(found: Estimate | None) -> dict[str, Any]:
    if found is None:
        return {"mean": None, "low": None, "high": None, "n": 0}
    return {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n}
