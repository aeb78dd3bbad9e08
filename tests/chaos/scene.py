"""What faults are done to: a job, its MLflow server, its disk, and perhaps the cluster that it is on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.local_cluster import LocalCluster
from tests.chaos.processes import MARK, kill_all
from tests.chaos.server import MlflowServer
from tests.cluster.tiny import ROOT

INJECTED = Path(__file__).resolve().parent / "injected"
DISK_MB = 300
"""Size of the disk that a job's output is on, where this process may mount one."""


class Job:
    """A job's command, started as often as it takes."""

    def __init__(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._arguments, self._log = list(arguments), log
        # A user's shell has no mode of authentication; importing Ray writes one into this process.
        shell = {name: value for name, value in os.environ.items() if name not in ("RAY_AUTH_MODE", "RAY_ADDRESS")}
        self._environment = shell | dict(environment)
        self.started = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run the command, once more where it ran before."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            log.write(f"--- start {self.started + 1}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                self._arguments, cwd=ROOT, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        self.started += 1

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def ended(self) -> int | None:
        """The exit code of a job that ended, else None."""
        return None if self._process is None else self._process.poll()

    def kill(self) -> None:
        """kill -9 of the driver alone; what it started is left to itself."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def last_words(self) -> str:
        """The last line that it printed."""
        lines = self._log.read_text(errors="replace").strip().splitlines() if self._log.exists() else []
        return lines[-1][:300] if lines else ""


@dataclass
class Scene:
    """One job with everything around it. Leaving it ends all that it started.

    nan: the file that arms a NaN loss (see injected/sitecustomize.py).  disk: whether `output` is a disk of its own.
    """

    mark: str
    folder: Path
    job: Job
    server: MlflowServer
    cluster: LocalCluster | None
    nan: Path
    disk: bool = False

    @property
    def output(self) -> Path:
        return self.folder / "output"

    def __enter__(self) -> Scene:
        self.output.mkdir(parents=True, exist_ok=True)
        self.disk = _mount(self.output)
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        kill_all(self.mark)
        if self.cluster is not None:
            self.cluster.stop()

    def unmount(self) -> None:
        """Give the disk back, with what is on it."""
        if self.disk:
            subprocess.run(["umount", "-l", str(self.output)], check=False, capture_output=True)
            self.disk = False


def make_scene(mark: str, folder: Path, command: Sequence[str], nodes: int, cpus: int) -> Scene:
    """A scene for `python -m command`, on its own Ray (nodes 0) or on a cluster of so many nodes of `cpus` each."""
    server, cluster, nan = MlflowServer(mark, folder / "mlflow"), None, folder / "nan"
    marked = {MARK: mark, "DUCTILE_CHAOS_NAN": str(nan)}
    arguments = [sys.executable, "-m", *command, f"output={folder / 'output'}", f"tracking.uri={server.uri}"]
    environment = {**marked, "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "platform", ROOT, INJECTED)))}
    if nodes:
        cluster = LocalCluster(folder / "c", dashboard=False, environment=marked).start(nodes, cpus)
        arguments.append(f"cluster.address={cluster.address}")
        environment |= cluster.environment()
    else:
        environment["RAY_TMPDIR"] = str(folder / "r")  # short: sockets below it have at most 107 characters
        (folder / "r").mkdir(parents=True)
    return Scene(mark, folder, Job(arguments, folder / "job.log", environment), server, cluster, nan)


def _mount(folder: Path) -> bool:
    """Whether a small disk of its own could be mounted there; as an ordinary user it cannot."""
    with contextlib.suppress(OSError):
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    return False
