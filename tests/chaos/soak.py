"""The soak: jobs under faults must end as they do in peace: `python -m tests.chaos.soak --minutes 20 --faults 30`.

Each job runs undisturbed once (kept in --cache until the code changes), then under faults drawn from the seed. Exit
code 0: so many faults were applied, the jobs ended, and everything that they left is equal. Else it says what differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.chaos.faults import FAULTS
from tests.chaos.harness import GaveUp, Harness, OutOfTime
from tests.chaos.legs import Leg, short, train, trial, write_rows
from tests.chaos.processes import kill_all
from tests.chaos.results import differences, gather
from tests.chaos.scene import make_scene
from tests.chaos.schedule import draw
from tests.cluster.tiny import ROOT

SHOWN = 40
"""Most differences that are printed; the log has all."""

SPARE = 2
"""Faults of each job above those asked for: one may find nothing to be done to."""

AHEAD = 5
"""A trial has so many times the steps: its two runs go on at a time, and one does many while the other is held up."""

CODE = ("platform", "actors", "jobs", "configs", "constraints.txt")
"""What a quiet run's results depend on beside its command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the legs; 0 when every one of them ended as in peace."""
    asked = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    cache, begun, console = Path(asked.cache).absolute(), time.monotonic(), Console(stderr=True)
    legs = _legs(asked, cache)
    quiet = {leg.name: quiet_results(leg, cache, console) for leg in legs}
    calm_s = time.monotonic() - begun
    bound_s, reports = asked.minutes * 60.0, []
    begun = time.monotonic()
    for position, leg in enumerate(legs):
        faults = asked.faults // len(legs) + (position < asked.faults % len(legs))
        # Each leg has an equal part of the time that is left.
        left = (bound_s - (time.monotonic() - begun)) / (len(legs) - position)
        reports.append(disturbed(leg, faults, asked.seed + position, left, quiet[leg.name], console))
    taken_s = time.monotonic() - begun
    document = {"seed": asked.seed, "quiet_s": round(calm_s, 1), "seconds": round(taken_s, 1), "legs": reports}
    Path(asked.log).parent.mkdir(parents=True, exist_ok=True)
    Path(asked.log).write_text(json.dumps(document, indent=1))
    applied = _print(reports, Console(width=160))
    wrong = [line for report in reports for line in (*report["failed"], *report["differences"][:SHOWN])]
    if applied < asked.faults:
        wrong.append(f"{applied} of {asked.faults} faults were applied")
    print(f"\n{applied} faults in {taken_s / 60:.1f} minutes; log: {asked.log}")
    for line in (line for report in reports for line in report["missed"]):
        print(f"missed   {line}")
    for line in wrong:
        print(f"DIFFERS  {line}")
    print("results differ from the quiet runs'" if wrong else "results equal the quiet runs'")
    return 1 if wrong else 0


def quiet_results(leg: Leg, cache: Path, console: Console) -> dict[str, str]:
    """What the leg leaves when nothing disturbs it; computed once for a command and the code."""
    path = cache / f"quiet-{leg.name}-{_fingerprint(leg)}.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    report = disturbed(leg, 0, 0, 1200.0, None, console)
    if report["failed"]:
        raise SystemExit(f"the quiet run of {leg.name} failed: {report['failed']}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report["results"], indent=0))
    return dict(report["results"])


def disturbed(
    leg: Leg, faults: int, seed: int, bound_s: float, quiet: dict[str, str] | None, console: Console
) -> dict[str, Any]:
    """Run a leg under so many faults; its events, what failed, and how its results differ from the quiet ones."""
    mark, failed = secrets.token_hex(8), list[str]()
    folder = Path(tempfile.mkdtemp(prefix="dc-"))
    kinds = {kind: FAULTS[kind].seconds for kind in leg.kinds}
    plan = draw(seed, kinds, faults + SPARE, leg.steps) if faults else []
    begun, scene = time.monotonic(), None
    try:
        with _bar(leg, faults, console) as (told, close):
            scene = make_scene(mark, folder, leg.command, leg.nodes, leg.cpus)
            with scene:
                harness = Harness(scene, bound_s - (time.monotonic() - begun), told)
                try:
                    harness.run(plan)
                except (OutOfTime, GaveUp) as reason:
                    failed.append(f"{leg.name}: {reason}")
                failed += [f"{leg.name}: {line}" for line in (*harness.unexpected, *harness.stuck)]
            close()
        results = gather(scene.output, scene.server.database)
        if failed:
            shutil.copy(folder / "job.log", Path(tempfile.gettempdir()) / f"chaos-{leg.name}-{mark}.log")
    finally:
        kill_all(mark)
        if scene is not None:
            scene.unmount()
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "leg": leg.name,
        "seconds": round(time.monotonic() - begun, 1),
        "starts": scene.job.started,
        "events": [event.as_plain() for event in harness.events],
        "failed": failed,
        "missed": harness.missed,
        "differences": [] if quiet is None else differences(quiet, results),
        "compared": len(results),
        "results": results if quiet is None else {},
    }


def _legs(asked: argparse.Namespace, cache: Path) -> list[Leg]:
    rows = cache / "rows.jsonl"
    write_rows(rows)
    every = [
        trial(AHEAD * asked.steps, rows, cache / "models", asked.set),
        train(asked.steps, cache / "models", asked.set),
        short(asked.steps, cache / "models", asked.set),
    ]
    return [leg for leg in every if leg.name in asked.legs]


def _fingerprint(leg: Leg) -> str:
    state = hashlib.blake2b(repr(leg.command).encode(), digest_size=8)
    for name in CODE:
        for path in sorted([*(ROOT / name).rglob("*.py"), *(ROOT / name).rglob("*.yaml"), ROOT / "constraints.txt"]):
            state.update(path.read_bytes())
    return state.hexdigest()


class _bar:  # noqa: N801  a context manager that is read as a verb
    """One line: the leg, its faults, its steps."""

    def __init__(self, leg: Leg, faults: int, console: Console) -> None:
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
        self._progress = Progress(*columns, console=console, transient=True)
        self._leg, self._faults = leg, faults
        self._task = self._progress.add_task(leg.name, total=leg.steps)
        self._printed = 0

    def __enter__(self) -> tuple[Any, Any]:
        self._progress.start()
        return self._told, self._progress.stop

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _told(self, harness: Harness) -> None:
        name = f"{self._leg.name} in peace"
        if self._faults:
            latest = harness.events[-1].kind if harness.events else "no fault yet"
            name = f"{self._leg.name}: fault {len(harness.events)} of {self._faults} ({latest})"
        for event in harness.events[self._printed :]:
            self._progress.console.print(f"{event.at_s:6.0f} s  step {event.step:4d}  {event.kind}: {event.target}")
        self._printed = len(harness.events)
        self._progress.update(self._task, completed=harness.step, description=name)


def _print(reports: Sequence[dict[str, Any]], console: Console) -> int:
    """The table of what was done and seen; how many faults were applied."""
    table = Table(title="Faults", show_lines=False)
    for column in ("job", "s", "step", "fault", "target", "recovery s", "seen"):
        table.add_column(column, overflow="fold")
    for report in reports:
        for event in report["events"]:
            recovery = "-" if event["recovery_s"] is None else f"{event['recovery_s']:.1f}"
            row = [report["leg"], f"{event['at_s']:.0f}", str(event["step"]), event["kind"], event["target"], recovery]
            table.add_row(*row, "; ".join(event["seen"]))
    console.print(table)
    by_kind = Table(title="Seconds until every run was further than before")
    for column in ("fault", "times", "least", "median", "most"):
        by_kind.add_column(column)
    for kind, times in sorted(recoveries(reports).items()):
        ordered = sorted(times)
        row = [f"{ordered[0]:.1f}", f"{ordered[len(ordered) // 2]:.1f}", f"{ordered[-1]:.1f}"] if ordered else ["-"] * 3
        by_kind.add_row(kind, str(len(times)), *row)
    console.print(by_kind)
    return sum(len(report["events"]) for report in reports)


def recoveries(reports: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Kind of fault -> how long each of them took to recover from."""
    found: dict[str, list[float]] = {}
    for report in reports:
        for event in report["events"]:
            if event["recovery_s"] is not None:
                found.setdefault(event["kind"], []).append(event["recovery_s"])
    return found


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="bound of the runs under faults")
    parser.add_argument("--faults", type=int, default=30, help="faults over all jobs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the schedule")
    parser.add_argument("--steps", type=int, default=80, help="RL steps of a run; a trial's have more")
    parser.add_argument(
        "--legs", nargs="+", default=["trial", "train"], choices=["trial", "train", "short"], help="which jobs"
    )
    parser.add_argument("--cache", default=str(ROOT / "cache" / "chaos"), help="folder of models and quiet results")
    parser.add_argument("--log", default=str(ROOT / "runs" / "chaos.json"), help="file for the log of faults")
    parser.add_argument("--set", nargs="*", default=[], help="more settings of the jobs")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    os.umask(0o077)
    raise SystemExit(main())
