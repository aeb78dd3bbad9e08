"""A real MLflow server on the loopback, with SQLite behind it, that can be killed, frozen and brought back."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from tests.chaos.processes import MARK, PART, kill_all, send, titled

NAME = "mlflow"


class MlflowServer:
    """`mlflow server` of its own port, database and artifacts; every process of it has the mark."""

    def __init__(self, mark: str, folder: Path) -> None:
        self.database = folder / "mlflow.db"
        self._mark, self._folder, self._port = mark, folder, free_port()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self, limit_s: float = 120.0) -> None:
        """Start it and wait until it answers; TimeoutError."""
        self.begin()
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if self.answers():
                return
            time.sleep(0.2)
        raise TimeoutError(f"the MLflow server did not answer within {limit_s} s; see {self._folder / 'server.log'}")

    def begin(self) -> None:
        """Start it without waiting for it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        log = (self._folder / "server.log").open("ab")
        environment = os.environ | {MARK: self._mark, PART: NAME, "MLFLOW_DISABLE_TELEMETRY": "true"}
        command = [sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={self._port}", "--workers=1"]
        command += [f"--backend-store-uri=sqlite:///{self.database}"]
        command += [f"--artifacts-destination={self._folder / 'artifacts'}"]
        subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def kill(self) -> None:
        kill_all(self._mark, **{PART: NAME})

    def freeze(self) -> None:
        send(titled(self._mark, "", **{PART: NAME}), signal.SIGSTOP)

    def thaw(self) -> None:
        send(titled(self._mark, "", **{PART: NAME}), signal.SIGCONT)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
