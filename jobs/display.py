"""The one live display of a job: where each run stands, and how long it will still take. All of it goes to stderr."""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError
from rich.console import Console
from rich.live import Live
from rich.table import Table

JOBS = ("compare", "sweep")
"""Kinds of MLflow runs that stand for a whole job."""

REFRESH_S = 0.5
PLAIN_S = 10.0
"""Seconds between lines about a run when stderr is not a terminal."""

BEHIND_S = 60.0
"""Seconds between lines about an MLflow that is behind, when stderr is not a terminal."""

LATE_S = 10.0
"""An MLflow that lacks what was logged so many seconds ago is behind; a tracker writes a few times a second."""


class Watch:
    """Progress of all runs, made from what the tracker was told. `total`: how many runs the job has, 0 unknown."""

    def __init__(self, total: int = 0) -> None:
        self.total = total
        self._began: dict[str, tuple[float, int]] = {}  # run -> when it was first seen stepping, and at which step

    def rows(self, live: Sequence[Mapping[str, Any]], now: float) -> list[dict[str, Any]]:
        """The runs that go on, each with the seconds it has left (None while unknown)."""
        rows = []
        for run in live:
            step, steps = run.get("step"), run.get("steps")
            if run["kind"] in JOBS or run["status"] != "RUNNING" or step is None:
                continue
            began, first = self._began.setdefault(run["run_id"], (now, step))
            left = (now - began) / (step - first) * (steps - step) if steps and step > first else None
            rows.append({**run, "left_s": left})
        return rows

    def summary(self, live: Sequence[Mapping[str, Any]]) -> str:
        """One line: runs done, failed, going on."""
        runs = [run["status"] for run in live if run["kind"] == "run"]
        failed = f", {runs.count('FAILED')} failed" if "FAILED" in runs else ""
        stopped = f", {runs.count('KILLED')} stopped" if "KILLED" in runs else ""
        total = f" of {self.total}" if self.total else ""
        return f"{runs.count('FINISHED')}{total} runs done{failed}{stopped}, {runs.count('RUNNING')} going on"


_watch = Watch()


def expect(runs: int) -> None:
    """Say how many runs the job will have."""
    _watch.total = runs


@contextmanager
def watch(tracker: Any) -> Iterator[None]:
    """Show the tracker's live rows for as long as this lasts."""
    done = threading.Event()
    console = Console(stderr=True)
    show = functools.partial(_live, console=console) if console.is_terminal else _plain
    thread = threading.Thread(target=show, args=(tracker, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=5)


def _live(tracker: Any, done: threading.Event, console: Console) -> None:
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        while not done.wait(REFRESH_S):
            rows, health = _ask(tracker)
            if rows is not None:
                live.update(table(rows, time.monotonic(), behind(health)))


def _plain(tracker: Any, done: threading.Event) -> None:
    told: dict[str, tuple[Any, ...]] = {}
    when: dict[str, float] = {}
    over, late, late_told = False, "", 0.0
    while not over:
        over = done.wait(REFRESH_S)  # then one more look, for how the last runs ended
        (live, health), now = _ask(tracker), time.monotonic()
        was, late = late, behind(health) if health else late
        if bool(was) != bool(late) or (late and now - late_told >= BEHIND_S):
            late_told = now
            print(late or "MLflow has everything again", file=sys.stderr, flush=True)
        if live is None:
            continue
        going = {row["run_id"]: row for row in _watch.rows(live, now)}
        for run in live:
            state = (run["status"], run.get("phase"))
            changed = told.get(run["run_id"]) != state
            due = run["run_id"] in going and now - when.get(run["run_id"], 0.0) >= PLAIN_S
            if run["kind"] not in JOBS and (changed or due):
                told[run["run_id"]], when[run["run_id"]] = state, now
                print(line(going.get(run["run_id"], run)), file=sys.stderr, flush=True)


def behind(health: Mapping[str, Any] | None) -> str:
    """How far MLflow is behind, in a few words; empty when it is not."""
    if not health or not health["pending"] or health["pending_s"] < LATE_S:
        return ""
    return f"MLflow is {duration(health['pending_s'])} behind: {health['pending']:,} values wait on disk"


def table(live: Sequence[Mapping[str, Any]], now: float, late: str = "") -> Table:
    """The runs that go on, as a rich table under the summary. late: that MLflow is behind."""
    title = "\n".join(filter(None, (_watch.summary(live), late)))
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
    for name, justify in (
        ("run", "left"), ("phase", "left"), ("step", "right"), ("pass rate", "right"),
        ("drift", "right"), ("tokens/s", "right"), ("left", "right"),
    ):  # fmt: skip
        made.add_column(name, justify=justify)  # type: ignore[arg-type]
    for run in _watch.rows(live, now):
        made.add_row(run["name"], *_cells(run))
    return made


def line(run: Mapping[str, Any]) -> str:
    """One run as one plain line."""
    if run["status"] != "RUNNING" or run.get("step") is None:
        return f"{run['name']}: {run['status'].lower()}"
    names = ("", "step", "pass rate", "drift", "tokens/s", "left")
    return f"{run['name']}: " + "  ".join(f"{n} {c}".strip() for n, c in zip(names, _cells(run), strict=True) if c)


def duration(seconds: float) -> str:
    """Seconds as 45s, 3m10s or 2h05m."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


def _cells(run: Mapping[str, Any]) -> list[str]:
    rate, drift, speed, left = (run.get(name) for name in ("pass_rate", "drift", "tokens_per_s", "left_s"))
    return [
        str(run.get("phase", "")),
        f"{run['step']}/{run['steps']}",
        "" if rate is None else f"{rate:.2f}",
        "" if drift is None else f"{drift:.4f}",
        "" if speed is None else f"{speed:,.0f}",
        "" if left is None else duration(left),
    ]


def _ask(tracker: Any) -> tuple[list[dict[str, Any]] | None, dict[str, Any] | None]:
    """The live rows and the health; None when the tracker does not answer now."""
    try:
        rows, health = ray.get([tracker.live.remote(), tracker.health.remote()], timeout=5)
    except RayError:  # shutting down, busy, or being started again: the next look may succeed
        return None, None
    return rows, health
