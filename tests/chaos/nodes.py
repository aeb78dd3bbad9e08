"""A Ray cluster of several nodes on this machine, of which some are killed and others join."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.chaos.processes import MARK, NODE, kill_all, titled
from tests.chaos.server import free_port


class Cluster:
    """A head without CPUs, which holds the control service, and worker nodes that hold everything else."""

    def __init__(self, mark: str, cpus: int) -> None:
        self._mark, self._cpus, self._port = mark, cpus, free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="dc-"))  # short: sockets below it have at most 107 characters
        self._made = 0
        self.names: list[str] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self, nodes: int) -> None:
        """The head and so many nodes."""
        _ray("get-auth-token", "--generate", environment={})
        head = ["--head", "--num-cpus=0", f"--port={self._port}", f"--temp-dir={self._folder}"]
        head += ["--include-dashboard=false", f"--ray-client-server-port={free_port()}"]
        self._start("head", head)
        for _ in range(nodes):
            self.add()

    def add(self) -> str:
        """Let a new node join; its name."""
        self._made += 1
        name = f"node{self._made}"
        self._start(name, [f"--address={self.address}", f"--num-cpus={self._cpus}"])
        self.names.append(name)
        return name

    def remove(self, name: str) -> int:
        """Kill everything on a node at once, as when its power goes; how many processes that were."""
        self.names.remove(name)
        return kill_all(self._mark, **{NODE: name})

    def stop(self) -> None:
        for name in [*self.names, "head"]:
            kill_all(self._mark, **{NODE: name})
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, name: str, arguments: list[str]) -> None:
        # Several nodes on one machine must not hand out the same ports to their workers: 0 lets the kernel choose.
        shared = ["--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=200000000"]
        _ray("start", *arguments, *shared, "--disable-usage-stats", environment={MARK: self._mark, NODE: name})
        assert titled(self._mark, "", **{NODE: name}), f"{name} did not start"


def _ray(*arguments: str, environment: dict[str, str]) -> None:
    shell = os.environ | {"RAY_AUTH_MODE": "token", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [str(Path(sys.executable).parent / "ray"), *arguments],
        env=shell | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(
            f"ray {arguments[0]} ended with {done.returncode}: {done.stderr[-2000:] or done.stdout[-2000:]}"
        )
