"""What a job left behind as one flat table, and how two of them differ.

A row is a path and a value: a digest of a tensor's bits, the exact text of a number. What a clock decides is left out,
and so are names that MLflow or Ray draw anew for every run. Nothing else is: two tables are equal or the runs are not.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import torch
from safetensors.torch import load_file

from tests.chaos.progress import latest, run_folders

TIMED = re.compile(r"(^|/)(time|cost)/|(_s|seconds|_per_s)$")
"""Metrics that a clock decides."""

SEEN = re.compile(r"^(checkpoint/|rollout/(actors|retried_calls|hedged_calls)$)")
"""Metrics of what happened to the machinery. They tell of the faults, and which step has them is up to a clock."""

NAMED = frozenset({"run_id", "created", "source", "tracker", "artifact_uri", "versions"})
"""Keys of JSON files whose values another run of the same settings does not share."""

LISTS = ("manifest.json", "hashes.json")
"""Files that hold the hashes of the others, times among them; the files themselves are compared."""


def gather(output: Path, database: Path) -> dict[str, str]:
    """The table of all runs below an output folder, with MLflow's SQLite file and the report."""
    table: dict[str, str] = {}
    for folder in run_folders(output):
        checkpoint = latest(folder)
        if checkpoint is not None:
            table |= {f"checkpoint/{folder.name}/{name}": value for name, value in of_folder(checkpoint).items()}
        table[f"finished/{folder.name}"] = str((folder / "finished.json").exists())
    table |= {f"mlflow/{name}": value for name, value in of_mlflow(database).items()}
    for path in {*output.glob("*/report/summary.json"), *output.glob("*/*/report/summary.json")}:
        table |= {f"report/{name}": value for name, value in _plain(json.loads(path.read_text())["cells"])}
    return table


def of_folder(folder: Path) -> dict[str, str]:
    """The table of the files of a folder."""
    table: dict[str, str] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in LISTS):
        name = str(path.relative_to(folder))
        rows = list(_rows(path))
        table |= {f"{name}:{inner}": value for inner, value in rows}
        table[name] = f"{len(rows)} values"
    return table


def of_mlflow(database: Path) -> dict[str, str]:
    """Every (run, metric, step) with its value, and how each run ended; a value that is there twice says so."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        runs = connection.execute(
            "select r.run_uuid, r.name, r.status from runs r join tags t on t.run_uuid = r.run_uuid "
            "where t.key = 'ductile.kind' and t.value in ('run', 'compare') and r.lifecycle_stage = 'active'"
        ).fetchall()
        names = Counter(name for _, name, _ in runs)
        table = {f"{name}/runs": str(count) for name, count in names.items()}
        for run, name, status in runs:
            table[f"{name}/status"] = status
            rows = connection.execute("select key, step, value, is_nan from metrics where run_uuid = ?", [run])
            found: dict[tuple[str, int], list[str]] = {}
            for key, step, value, is_nan in rows:
                found.setdefault((key, step), []).append("nan" if is_nan else repr(value))
            for (key, step), values in found.items():
                times = f"{len(values)} times" if len(values) > 1 else ""
                if SEEN.search(key) and not times:
                    continue
                told = "timed" if TIMED.search(key) else ", ".join(values)
                table[f"{name}/{key}@{step}"] = " ".join([times, told]).strip()
    return table


def differences(quiet: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """A line for each path that is missing, new, or has another value; empty when the tables are equal."""
    lines = [f"missing: {name} (quiet: {quiet[name]})" for name in sorted(quiet.keys() - other.keys())]
    lines += [f"only under faults: {name} = {other[name]}" for name in sorted(other.keys() - quiet.keys())]
    both = sorted(quiet.keys() & other.keys())
    return lines + [
        f"{name}: quiet {quiet[name]}, under faults {other[name]}" for name in both if quiet[name] != other[name]
    ]


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    if path.suffix == ".safetensors":
        yield from ((name, digest(tensor)) for name, tensor in sorted(load_file(path).items()))
    elif path.suffix in (".pt", ".bin"):
        yield from _plain(torch.load(path, weights_only=True))
    elif path.suffix == ".json":
        yield from _plain(json.loads(path.read_text()))
    elif path.suffix == ".parquet":
        yield from _plain(pyarrow.parquet.read_table(path).to_pydict())
    else:
        yield "bytes", hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _plain(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of nested values with their paths, without what a clock or a drawn name decides."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if str(key) not in NAMED and not TIMED.search(str(key)):
                yield from _plain(inner, f"{path}/{key}")
    elif isinstance(value, (list, tuple)):
        yield f"{path}/length", str(len(value))
        for position, inner in enumerate(value):
            yield from _plain(inner, f"{path}/{position}")
    elif isinstance(value, (torch.Tensor, np.ndarray)):
        yield path, digest(torch.as_tensor(value))
    else:
        yield path, repr(value)


def digest(tensor: torch.Tensor) -> str:
    """A tensor's type, shape and bits."""
    data = tensor.detach().cpu().contiguous()
    bits = hashlib.sha256(data.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()[:16]
    return f"{str(data.dtype).removeprefix('torch.')}{list(data.shape)} {bits}"
