"""The scripts beside this file run outside of the test process, since DeepSpeed makes a process group, and fork."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def fork_all(calls: Sequence[tuple[Callable[..., None], tuple[Any, ...]]], timeout_s: float) -> int:
    """Make every call in a forked process of its own, all at once; returns how many failed."""
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=target, args=arguments) for target, arguments in calls]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout_s)
        process.kill()
        process.join()
    return sum(process.exitcode != 0 for process in processes)


def written_by(script: str, *arguments: str, folder: Path, timeout_s: float = 400) -> dict[str, Any]:
    """Run `script ARGUMENTS FOLDER`; what it wrote there, file stem -> JSON. Fails with the end of its errors."""
    import ductile

    source = str(Path(ductile.__file__).parents[1])
    finished = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(script)), *arguments, str(folder)],
        env=os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
