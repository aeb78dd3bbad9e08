"""Whether this machine and cluster can run what the settings ask: `python -m jobs.doctor [key=value ...] [--json]`.

A row for each check; a failing one says what to do. Takes the settings of a run, so that what is checked is what the
run will use: output, cache, checkpoint.store, tracking, cluster, model. Exit code 1 when a check fails.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.table import Table

from actors.mlflow_store import MlflowStore
from actors.tracker import tracking_uri
from ductile.config import RunSettings
from ductile.remote import opened
from ductile.secrets import redacted
from jobs.configure import parse, run_settings
from jobs.driver import ROOT, absolute, connect, main
from jobs.usage import main_arguments

CENTRAL = ("ray", "torch", "transformers", "deepspeed", "numpy", "mlflow", "pyarrow", "safetensors")
"""Packages that every node must have in the pinned version: numbers or messages depend on them."""
MEMORY_GB, DISK_GB, SHM_GB = 4.0, 2.0, 0.5
"""Least of each: a small run beside its actors, its checkpoints and base models, and Ray's store on the fast path."""
SKEW_S = 2.0
"""More between two nodes' clocks puts metrics out of order and makes tokens and signed URLs fail."""
PROBE_S = 60.0
REACH_S = 5.0


@dataclass(frozen=True)
class Row:
    """One check. todo: what to do when it fails."""

    check: str
    ok: bool
    found: str
    todo: str = ""

    def __post_init__(self) -> None:
        for name in ("check", "found", "todo"):  # what others' errors and addresses quote
            object.__setattr__(self, name, redacted(getattr(self, name)))


@dataclass(frozen=True)
class Seen:
    """What a task saw on a node: versions, its clock against the driver's, folders where it found its file."""

    node: str
    versions: Mapping[str, str]
    skew_s: float
    folders: Sequence[str]


def job() -> int:
    """Check everything, print the table or JSON."""
    arguments = main_arguments("doctor", __doc__ or "")
    as_json = "--json" in arguments
    request = parse([argument for argument in arguments if argument != "--json"])
    if not {"model", "experiment"} & request.choices.keys() and "model.path" not in dict(request.values):
        request = parse(["model=small", *(argument for argument in arguments if argument != "--json")])
    rows = list(checks(absolute(run_settings(request))))
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        show(rows)
    return 0 if all(row.ok for row in rows) else 1


def checks(settings: RunSettings) -> Iterator[Row]:
    """Every row, this machine first, then storage and tracking, then the cluster."""
    pins = pinned((ROOT / "constraints.txt").read_text())
    output = Path(settings.output)
    yield python_row(platform.python_version())
    yield versions_row("this machine", installed(pins), pins)
    yield from machine_rows(os.cpu_count() or 1, memory_gb(), free_gb(output), free_gb(Path("/dev/shm")))
    yield gpu_row(len(list(Path("/dev").glob("nvidia[0-9]*"))), cuda)
    yield guarded("loopback port", bind_loopback, "let this user listen on 127.0.0.1: Ray's processes talk over it")
    for name in ("output", "cache"):
        folder = Path(getattr(settings, name))
        what = f"give a folder that can be written to: {name}=FOLDER"
        yield guarded(f"{name} can be written", functools.partial(write_folder, folder), what)
    if store := settings.checkpoint.store:
        what = "check the URI and the credentials of checkpoint.store (pyarrow's file systems)"
        yield guarded("checkpoint.store can be written", lambda: write_store(store), what)
    uri = tracking_uri(settings.tracking, output)
    what = "start the MLflow server, or name one that answers: tracking.uri= or MLFLOW_TRACKING_URI"
    yield guarded("MLflow takes a run", lambda: write_mlflow(uri, settings.tracking.experiment), what)
    if settings.model.path:
        what = "give a Hugging Face folder with config.json, safetensors and a tokenizer: model=FOLDER"
        yield guarded("model loads", lambda: load_folder(settings), what)
    yield from cluster_rows(settings, pins)


def cluster_rows(settings: RunSettings, pins: Mapping[str, str]) -> Iterator[Row]:
    """Connect as a job does, and look at every node from a task there."""
    address = settings.cluster.address or os.environ.get("RAY_ADDRESS") or ""
    what = (
        f"is {address} right, does the head answer, and is the token there (RAY_AUTH_MODE=token, ~/.ray/auth_token)?"
        if address
        else "see the error; `python -m jobs.doctor cluster.cpus=2` tries a smaller local Ray"
    )
    reached = guarded("Ray answers", lambda: _connect(settings, address), what)
    yield reached
    if not reached.ok:
        return
    try:
        folders = {name: Path(getattr(settings, name)) for name in ("output", "cache")}
        try:
            with left_in(folders.values()) as mark:
                seen = [look_from(row, folders, mark) for row in ray.nodes() if row["Alive"]]
        except OSError as error:
            what = "give folders that can be written to: output=FOLDER, cache=FOLDER"
            yield Row("folders seen by all nodes", False, f"{type(error).__name__}: {error}", what)
            return
        for each in seen:
            if isinstance(each, Row):
                yield each
            else:
                yield versions_row(f"node {each.node}", each.versions, {n: v for n, v in pins.items() if n in CENTRAL})
        whole = [each for each in seen if isinstance(each, Seen)]
        yield shared_row(whole, list(folders))
        yield skew_row(whole)
    finally:
        ray.shutdown()


def pinned(text: str) -> dict[str, str]:
    """Package, its name as pip compares it -> version, of a constraints file."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return {canonical(name): version for name, equals, version in (line.partition("==") for line in lines) if equals}


def canonical(name: str) -> str:
    """A package's name as pip compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(names: Iterable[str]) -> dict[str, str]:
    """The versions that are there, of these packages."""
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def versions_row(where: str, found: Mapping[str, str], pins: Mapping[str, str]) -> Row:
    """Whether the packages that are there are the pinned ones, and the central ones are there; +cpu is no other."""
    wrong = [
        f"{name} {found[name]} (pinned {pins[name]})"
        for name in found
        if name in pins and found[name].partition("+")[0] != pins[name].partition("+")[0]
    ]
    wrong += [f"{name} is missing" for name in CENTRAL if name in pins and name not in found]
    todo = "install the pins: pip install -c constraints.txt -e . (make venv), or use the image of infra/"
    if wrong:
        return Row(f"versions on {where}", False, "; ".join(wrong[:6]), todo)
    return Row(f"versions on {where}", True, f"{len(found)} packages as pinned")


def python_row(version: str) -> Row:
    """Python 3.11, which the pins are of."""
    ok = version.split(".")[:2] == ["3", "11"]
    return Row("Python", ok, version, "" if ok else "use Python 3.11: the pins are made for it")


def machine_rows(cpus: int, memory: float, disk: float, shm: float) -> Iterator[Row]:
    """CPUs, and free GB of memory, disk and shared memory."""
    yield Row("CPUs", cpus >= 2, str(cpus), "" if cpus >= 2 else "two cores at least: a learner and its rollouts")
    limits = (
        ("memory", memory, MEMORY_GB, "end other programs, or take a smaller model, fewer cluster.concurrent"),
        ("disk of output", disk, DISK_GB, "free some, or put output= and cache= on a larger disk"),
        (
            "/dev/shm",
            shm,
            SHM_GB,
            "enlarge it (docker run --shm-size=2g, an emptyDir in memory): Ray is slow so",
        ),
    )
    for name, free, least, todo in limits:
        ok = free >= least
        yield Row(name, ok, f"{free:.1f} GB free", "" if ok else f"{least:g} GB are needed: {todo}")


def gpu_row(devices: int, available: Callable[[], bool]) -> Row:
    """Whether torch can use the GPUs that are there; none is no fault."""
    if not devices:
        return Row("GPU", True, "none: everything runs on CPUs")
    ok = available()
    todo = "install a torch with CUDA that fits the driver (nvidia-smi names its version)"
    return Row("GPU", ok, f"{devices}, torch {'uses' if ok else 'does not use'} CUDA", "" if ok else todo)


def guarded(check: str, what: Callable[[], str], todo: str) -> Row:
    """The row of a check that raises when it fails."""
    try:
        return Row(check, True, what())
    except Exception as error:  # whatever it is, it is what was asked for
        lines = str(error).strip().splitlines() or [""]
        return Row(check, False, f"{type(error).__name__}: {lines[0][:300]}", todo)


def shared_row(seen: Sequence[Seen], folders: Sequence[str]) -> Row:
    """Whether every node sees the driver's folders."""
    missing = [f"{each.node} lacks {name}" for each in seen for name in folders if name not in each.folders]
    todo = "put output= and cache= on a file system that every node mounts at the same path"
    if missing:
        return Row("folders seen by all nodes", False, "; ".join(missing[:6]), todo)
    return Row("folders seen by all nodes", True, f"{', '.join(folders)} on {len(seen)} nodes")


def skew_row(seen: Sequence[Seen]) -> Row:
    """How far the nodes' clocks are apart."""
    skews = [each.skew_s for each in seen] or [0.0]
    apart = max(skews) - min(skews)
    todo = "run a time service (chrony, ntpd) on every node"
    return Row("clocks", apart <= SKEW_S, f"{apart:.2f} s apart", "" if apart <= SKEW_S else todo)


def memory_gb() -> float:
    """Free memory of this machine."""
    rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(rows["MemAvailable"].split()[0]) / 1e6


def free_gb(folder: Path) -> float:
    """Free space where the folder is, or would be made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free / 1e9


def cuda() -> bool:
    """Whether torch can use CUDA."""
    import torch

    return bool(torch.cuda.is_available())


def bind_loopback() -> str:
    """A port that could be listened on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        return f"127.0.0.1:{listening.getsockname()[1]}"


def write_folder(folder: Path) -> str:
    """Write a file, read it and remove it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".doctor-{uuid.uuid4().hex}"
    try:
        path.write_text("here")
        if path.read_text() != "here":
            raise OSError(f"{path} holds something else than was written")
    finally:
        path.unlink(missing_ok=True)
    return str(folder)


def write_store(uri: str) -> str:
    """Write a file to the path or URI, read it and remove it."""
    system, root = opened(uri)
    system.create_dir(root, recursive=True)
    path = f"{root.rstrip('/')}/.doctor-{uuid.uuid4().hex}"
    with system.open_output_stream(path) as file:
        file.write(b"here")
    try:
        with system.open_input_stream(path) as file:
            if file.read() != b"here":
                raise OSError(f"{path} holds something else than was written")
    finally:
        system.delete_file(path)
    return uri


def write_mlflow(uri: str, experiment: str) -> str:
    """Begin a run, log a value, and delete it."""
    store = MlflowStore(uri, experiment)
    store.try_out()
    return uri


def load_folder(settings: RunSettings) -> str:
    """Load the model and its tokenizer."""
    from ductile.models.load import load_model, load_tokenizer

    load_tokenizer(settings.model.path)
    model = load_model(settings.model.path, settings.model.dtype)
    return f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:,.1f} million parameters"


@contextlib.contextmanager
def left_in(folders: Iterable[Path]) -> Iterator[str]:
    """A file of this name is in the folders meanwhile."""
    mark = f".doctor-{uuid.uuid4().hex}"
    paths = [folder / mark for folder in folders]
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        yield mark
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


@ray.remote(num_cpus=0, max_retries=0)
def look(names: Sequence[str], folders: Mapping[str, Path], mark: str) -> tuple[dict[str, str], float, list[str]]:
    """On a node: versions, the time, and the folders in which it sees the file."""
    return installed(names), time.time(), [name for name, folder in folders.items() if (folder / mark).exists()]


def look_from(row: Mapping[str, Any], folders: Mapping[str, Path], mark: str) -> Seen | Row:
    """What a task on this node sees; a failing row when none runs there."""
    name = str(row["NodeManagerAddress"])
    there = NodeAffinitySchedulingStrategy(row["NodeID"], soft=False)
    ask = look.options(scheduling_strategy=there)
    try:
        ray.get(ask.remote(CENTRAL, folders, mark), timeout=PROBE_S)  # starts the process: the second answers at once
        began = time.time()
        versions, then, found = ray.get(ask.remote(CENTRAL, folders, mark), timeout=PROBE_S)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        todo = "look at the node's log: does its Python have the project's packages, as runtime_env or image?"
        return Row(f"node {name} runs a task", False, f"{type(error).__name__}: {lines[0][:300]}", todo)
    return Seen(name, versions, then - (began + time.time()) / 2, found)


def show(rows: Sequence[Row]) -> None:
    """The table."""
    table = Table(box=None, header_style="dim")
    for name in ("", "check", "found"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row("[green]ok[/]" if row.ok else "[red]FAIL[/]", row.check, row.found)
        if not row.ok:
            table.add_row("", "", f"[yellow]{row.todo}[/]")
    Console(width=None if Console().is_terminal else 140).print(table)


def _connect(settings: RunSettings, address: str) -> str:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():  # Ray itself tries for minutes
        socket.create_connection((host.strip("[]"), int(port)), REACH_S).close()
    connect(settings)
    alive = [row for row in ray.nodes() if row["Alive"]]
    total = ray.cluster_resources()
    return f"{len(alive)} nodes, {total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs"


if __name__ == "__main__":
    main(job)
