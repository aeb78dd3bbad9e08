"""The table of difficulty estimates from ten thousand to a million problems, and a dict of rows beside it.

    python -m benchmarks.difficulty_table [sizes; 1e4 1e5 1e6]

Each size runs in a process of its own. Memory is how much the process has grown once whoever gave the ids has let go
of them, divided by the number of problems. Times are medians; a step selects 1,024 problems and observes eight
completions of each. The exponent is that of a power law through the sizes: 1 is linear, 0 is constant. The dict of
rows is what one writes first: a Python object for each problem, estimates of the whole pool at each step, JSON. It
stops at a million problems, where it takes gigabytes.
"""

from __future__ import annotations

import gc
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.alternate import headline
from ductile.config import DifficultySettings
from ductile.difficulty.service import DifficultyTable

SIZES = (10_000, 100_000, 1_000_000)
MOST_ROWS = 1_000_000
"""Problems up to which the dict of rows is measured."""

BATCH, COMPLETIONS, STEPS = 1024, 8, 15
SETTINGS = DifficultySettings(selection="band")

MEASURES = {
    "memory": "bytes a problem",
    "start_phase": "s",
    "select": "ms",
    "observe": "ms",
    "save": "s, snapshot and file",
    "restore": "s, file and table",
    "next_phase": "s, a tenth more problems",
}


class DictOfRows:
    """The same estimates, rule and step with a dict: problem id -> [successes, failures, step seen, visits]."""

    def __init__(self) -> None:
        self.rows: dict[str, list[float]] = {}
        self.pool: list[str] = []

    def start_phase(self, ids: Sequence[str]) -> None:
        self.pool = list(dict.fromkeys(ids))
        for id in self.pool:
            self.rows.setdefault(id, [0.0, 0.0, 0, 0])

    def select(self, count: int, step: int, seed: int) -> list[str]:
        rng, (low, high) = random.Random(f"{seed}:{step}"), SETTINGS.band
        order = rng.sample(self.pool, len(self.pool))
        inside = [id for id in order if low <= self.mean(id, step) <= high]
        return inside[:count]

    def observe(self, outcomes: Mapping[str, tuple[int, int]], step: int) -> dict[str, float]:
        for id, (wins, judged) in outcomes.items():
            row, kept = self.rows[id], SETTINGS.discount * (1 - SETTINGS.drift) ** (step - self.rows[id][2])
            row[:] = [kept * row[0] + wins, kept * row[1] + judged - wins, step, row[3] + 1]
        return {"difficulty/estimate_mean": statistics.fmean(self.mean(id, step) for id in self.pool)}

    def mean(self, id: str, step: int) -> float:
        wins, losses, seen, _ = self.rows[id]
        kept, (alpha, beta) = (1 - SETTINGS.drift) ** (step - seen), SETTINGS.prior
        return (alpha + kept * wins) / (alpha + beta + kept * (wins + losses))


def make_table() -> DifficultyTable:
    return DifficultyTable(SETTINGS)


def save_table(made: DifficultyTable, path: Path) -> None:
    save_file(dict(made.snapshot()), path)


def load_table(path: Path) -> DifficultyTable:
    made = make_table()
    made.restore(load_file(path))
    return made


def save_rows(made: DictOfRows, path: Path) -> None:
    path.write_text(json.dumps({"rows": made.rows, "pool": made.pool}))


def load_rows(path: Path) -> DictOfRows:
    made = DictOfRows()
    document = json.loads(path.read_text())
    made.rows, made.pool = document["rows"], document["pool"]
    return made


def problem_ids(first: int, count: int) -> list[str]:
    """As `chain_sum` names its problems."""
    return [f"chain_sum/L12/train/s{number * 2654435761 % 10**12:012d}>1:" for number in range(first, first + count)]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came of it."""
    before = time.perf_counter()
    result = work()
    return time.perf_counter() - before, result


def resident() -> int:
    """Bytes of memory that the process holds."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(
    make: Callable[[], Any], save: Callable[[Any, Path], None], load: Callable[[Path], Any], size: int
) -> dict[str, float]:
    """One side at one size."""
    warm = make()
    warm.start_phase(problem_ids(0, BATCH))  # what is imported or compiled at the first call is no part of any size
    warm.observe(dict.fromkeys(warm.select(BATCH, 0, 0), (1, COMPLETIONS)), 0)
    made, before = make(), resident()
    measured = {"start_phase": started(made, 0, size)}
    measured["memory"] = (resident() - before) / size
    selects, observes = [], []
    for step in range(STEPS if size <= MOST_ROWS // 10 or isinstance(made, DifficultyTable) else 3):
        seconds, chosen = timed(lambda step=step: made.select(BATCH, step, 0))  # type: ignore[misc]
        selects.append(seconds)
        outcomes = {id: (which % (COMPLETIONS + 1), COMPLETIONS) for which, id in enumerate(chosen)}
        observes.append(timed(lambda step=step, o=outcomes: made.observe(o, step))[0])  # type: ignore[misc]
    measured |= {"select": 1e3 * statistics.median(selects), "observe": 1e3 * statistics.median(observes)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table"
        measured["save"] = timed(lambda: save(made, path))[0]
        measured["restore"], copy = timed(lambda: load(path))
    assert copy.select(BATCH, STEPS, 0) == made.select(BATCH, STEPS, 0)
    del copy
    measured["next_phase"] = started(made, size, size // 10)
    return measured


def started(made: Any, first: int, count: int) -> float:
    """Seconds that the start of a phase of these ids takes; they are gone when it is over."""
    ids = problem_ids(first, count)
    return timed(lambda: made.start_phase(ids))[0]


def alone(side: str, size: int) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.difficulty_table", side, str(size)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def report(name: str, measured: Mapping[int, Mapping[str, float]]) -> None:
    """A line for each measure: its value at each size, and the exponent."""
    print(f"{name:14}" + "".join(f"{size:>12,}" for size in measured) + "    exponent")
    for measure, unit in MEASURES.items():
        values = [at[measure] for at in measured.values()]
        exponent = f"{np.polyfit(np.log(list(measured)), np.log(values), 1)[0]:12.2f}" if len(values) > 1 else " " * 12
        print(f"{measure:14}" + "".join(f"{value:12.3g}" for value in values) + exponent + f"  {unit}")


def main(sizes: Sequence[int]) -> None:
    """Print both tables, and the ratio at the largest size that both have."""
    table = {size: alone("table", size) for size in sizes}
    report("table", table)
    rows = {size: alone("rows", size) for size in sizes if size <= MOST_ROWS}
    if rows:
        report("dict of rows", rows)
        largest = max(rows)
        ratios = {measure: rows[largest][measure] / table[largest][measure] for measure in MEASURES}
        print(f"dict / table at {largest:,}: " + ", ".join(f"{name} {ratio:.1f}" for name, ratio in ratios.items()))
        headline(
            f"difficulty table: at {largest:,} problems {ratios['select']:.0f} times as fast as a dict of rows to "
            f"select, {ratios['observe']:.0f} times to observe"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["table"]:
        print(json.dumps(measure(make_table, save_table, load_table, int(sys.argv[2]))))
    elif sys.argv[1:2] == ["rows"]:
        print(json.dumps(measure(DictOfRows, save_rows, load_rows, int(sys.argv[2]))))
    else:
        main([int(float(size)) for size in sys.argv[1:]] or SIZES)
