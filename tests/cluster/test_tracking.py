"""An MLflow server that goes away and comes back while runs log to it, and jobs that start and end meanwhile."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from actors.journal import journals
from actors.mlflow_store import MlflowStore
from actors.tracking import Tracking
from tests.cluster.tiny import ROOT

pytestmark = pytest.mark.cluster


class Door:
    """A port that leads to a server while it is open, and is refused while it is closed, at once in both ways."""

    def __init__(self, server: Server) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri, self._server = f"http://127.0.0.1:{self.port}", server
        self._listening: socket.socket | None = None
        self._open: list[socket.socket] = []

    def open(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def close(self) -> None:
        """Connections that are open are cut."""
        if self._listening is not None:
            self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                came, _ = listening.accept()
                there = socket.create_connection(("127.0.0.1", self._server.port))
                self._open += [came, there]
                for source, target in ((came, there), (there, came)):
                    threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


class Server:
    """A real `mlflow server` on a port of this machine, on a SQLite file, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        database, artifacts = f"sqlite:///{self.folder / 'server.db'}", str(self.folder / "artifacts")
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        stores = ["--backend-store-uri", database, "--artifacts-destination", artifacts, "--workers", "1"]
        with (self.folder / "server.log").open("ab") as told:
            self._process = subprocess.Popen([*command, *stores], stdout=told, stderr=told, start_new_session=True)

    def wait(self) -> None:
        deadline = time.monotonic() + 120
        while True:
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert time.monotonic() < deadline, (self.folder / "server.log").read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        """With every process that it started."""
        import psutil

        if self._process is not None:
            family = [*psutil.Process(self._process.pid).children(recursive=True), self._process]
            for process in family:
                process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    made.start()
    yield made
    made.kill()


def test_metrics_flow_on_while_the_server_is_killed_and_started_again(server: Server, tmp_path: Path) -> None:
    server.wait()
    tracking = Tracking(MlflowStore(server.uri, "test"), tmp_path / "journal", server.uri, pauses_s=(0.2, 1.0))
    run_id = tracking.begin("run", "r", {"seed": 1}, "k")
    behind = 0
    for step in range(1, 121):
        if step == 30:
            server.kill()
        if step == 90:
            behind = tracking.health()["pending"]
            server.start()
        tracking.metrics(run_id, {"loss": 1.0 / step, "rate": 0.5}, step)
        if step % 20 == 0:
            tracking.artifact(run_id, "boundaries.json", f"[{step}]")
            assert tracking.position(run_id)["step"] == step
        time.sleep(0.05)
    assert behind >= 100  # about sixty steps of two
    tracking.finish(run_id, "FINISHED")
    server.wait()
    assert tracking.drain(90), tracking.health()
    health = tracking.close()
    assert (health["written"], health["pending"], health["aside"]) == (240, 0, 0)
    assert health["last_error"]
    client = MlflowClient(server.uri)
    for name in ("loss", "rate"):
        assert sorted(m.step for m in client.get_metric_history(run_id, name)) == list(range(1, 121))
    assert client.get_run(run_id).info.status == "FINISHED"
    assert Path(client.download_artifacts(run_id, "boundaries.json", str(tmp_path))).read_text() == "[120]"
    assert journals(tmp_path / "journal") == []


def test_job_waits_for_a_server_at_its_start_and_outlives_it_at_its_end(
    server: Server, command: Callable[..., list[str]], tmp_path: Path
) -> None:
    server.wait()
    door, output = Door(server), tmp_path / "out"  # to a server that is warm: what is looked at is the job
    settings = (f"tracking.uri={door.uri}", "variant=parameter_only", "plan=guessable", "probe.probes=[retention]")
    arguments = command("run", output, *settings, "tracking.patience_s=12")
    with (tmp_path / "job.log").open("w") as told:
        job = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=told)
    _until(lambda: "trying again for up to 12s" in (tmp_path / "job.log").read_text(), 120)
    door.open()
    _until(lambda: bool(list(output.glob("*/checkpoint-*"))), 240)
    door.close()
    code = job.wait(timeout=300)
    told_text = (tmp_path / "job.log").read_text()
    assert code == 0, told_text
    assert f"MLflow at {door.uri} answers, after" in told_text
    assert "MLflow lacks" in told_text
    assert "no report yet: tracking.uri" in told_text
    assert "Traceback" not in told_text
    assert journals(output / "journal") != []

    door.open()
    report = [sys.executable, "-m", "jobs.report", f"output={output}", f"tracking.uri={door.uri}"]
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("ductile")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.`ductile.kind` = 'run'")
    subprocess.run([*report, f"run={run.info.run_id}"], cwd=ROOT, check=True, capture_output=True)
    assert journals(output / "journal") == []
    assert client.get_run(run.info.run_id).info.status == "FINISHED"
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "rollout/pass_rate")]
    assert sorted(steps) == [1, 2, 3, 4]
    assert list(output.glob("report-*/report.html"))


def _until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
