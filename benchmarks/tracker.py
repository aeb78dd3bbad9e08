"""What logging a step's metrics costs a run's tracker, with the journal and with a queue in memory alone.

    python -m benchmarks.tracker [steps]

A step logs 60 metrics; every tenth is followed by `position`, which waits for the disk. MLflow is away, as it is when
the journal matters. The calls are those that the tracker actor makes; Ray's own cost is not in them.
"""

from __future__ import annotations

import logging
import statistics
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

from actors.delivery import RunStore
from actors.tracking import Tracking
from benchmarks.alternate import headline

METRICS, EVERY = 60, 10


class Away:
    """A store that has the run and never answers again."""

    def begin(self, *_: Any) -> str:
        return "run"

    def __getattr__(self, name: str) -> Any:
        raise ConnectionError(name)


def main(steps: int) -> None:
    """Print microseconds a step for both, and how long the disk was waited for."""
    logging.disable(logging.WARNING)
    store: RunStore = Away()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        tracking = Tracking(store, Path(folder), patience_s=0.0)
        run_id = tracking.begin("run", "bench", {}, "bench")
        values = {f"bench/metric_{number}": number / 7 for number in range(METRICS)}
        queue: deque[Any] = deque(maxlen=1000)
        alone, journalled, positions = [], [], []
        for step in range(steps):
            began = time.perf_counter()
            queue.append((run_id, dict(values), step, time.time_ns()))
            queued = time.perf_counter()
            tracking.metrics(run_id, values, step)
            logged = time.perf_counter()
            alone.append(queued - began)
            journalled.append(logged - queued)
            if step % EVERY == 0:
                tracking.position(run_id)
                positions.append(time.perf_counter() - logged)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.jsonl"))
        tracking.close()
    for what, seconds in (("memory alone", alone), ("journal", journalled), ("position", positions)):
        print(f"{what:14}{1e6 * statistics.median(seconds):10.1f} us (median), {1e6 * max(seconds):12.1f} us (worst)")
    headline(f"tracker: logging a step of {METRICS} metrics takes {1e6 * statistics.median(journalled):.0f} us")
    print(f"{'on disk':14}{size / steps:10.0f} bytes a step of {METRICS} metrics")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
