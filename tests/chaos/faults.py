"""The faults, each done to a job from outside: by signals, limits, a full disk, a dead server.

The one that needs to be inside, a NaN loss, comes over PYTHONPATH (injected/sitecustomize.py).
"""

from __future__ import annotations

import contextlib
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.processes import children, send, titled
from tests.chaos.scene import Scene
from tests.chaos.schedule import Planned

AIM_S = 8.0
"""How long a fault waits for its target to be in the middle of the work that it shall be hit in."""

TRIAL, RANKS = "ray::ImplicitFunc", "ray::RayTrainWorker"
"""Titles of the processes that learn: of a Tune trial, and of Ray Train's workers."""


class Missed(Exception):
    """There is nothing to do the fault to."""


@dataclass(frozen=True)
class Applied:
    """What was hit, and what ends the fault (None: it was done at once)."""

    target: str
    undo: Callable[[], str] | None = None


@dataclass(frozen=True)
class Fault:
    """apply: does it.  seconds: shortest and longest time that it lasts.  place: two of one place never overlap.

    ends_job: the job may end by it; the same command is then given again.
    """

    what: str
    apply: Callable[[Scene, Planned], Applied]
    place: str
    seconds: tuple[float, float] = (0.0, 0.0)
    ends_job: bool = False


def _kill(best: tuple[str, ...], otherwise: tuple[str, ...] = ()) -> Callable[[Scene, Planned], Applied]:
    """Kill a process with one of these titles: for `AIM_S` the best moment is waited for, then any will do."""

    def apply(scene: Scene, planned: Planned) -> Applied:
        process, title = _aim(scene, planned.pick, best, otherwise)
        send([process], signal.SIGKILL)
        return Applied(f"{title} (pid {process})")

    return apply


def _freeze(best: tuple[str, ...], otherwise: tuple[str, ...] = ()) -> Callable[[Scene, Planned], Applied]:
    def apply(scene: Scene, planned: Planned) -> Applied:
        process, title = _aim(scene, planned.pick, best, otherwise)
        send([process], signal.SIGSTOP)

        def undo() -> str:
            send([process], signal.SIGCONT)
            return "goes on"

        return Applied(f"{title} (pid {process}) for {planned.seconds} s", undo)

    return apply


def _at_verifier(number: signal.Signals) -> Callable[[Scene, Planned], Applied]:
    """Kill the process that scores answers, or stop it for ever: who waits for it must give it up."""

    def apply(scene: Scene, planned: Planned) -> Applied:
        begun, found = time.monotonic(), list[int]()
        while not found:
            if time.monotonic() - begun > AIM_S:
                raise Missed("no process that scores answers")
            learners = [process for title in (TRIAL, RANKS) for process in titled(scene.mark, title)]
            found = [child for learner in learners for child in children(learner, "ductile.domains.scorer")]
            time.sleep(0.02)
        process = _pick(found, planned.pick)
        send([process], number)
        return Applied(f"scoring process (pid {process})")

    return apply


def _kill_driver(scene: Scene, planned: Planned) -> Applied:
    process = scene.job.pid
    scene.job.kill()
    scene.job.start()
    return Applied(f"driver (pid {process}); the same command again")


def _arm_nan(scene: Scene, planned: Planned) -> Applied:
    scene.nan.touch()
    deadline = time.monotonic() + AIM_S * 4
    while scene.nan.exists():
        if time.monotonic() > deadline:
            scene.nan.unlink(missing_ok=True)
            raise Missed("no learner made an update")
        time.sleep(0.01)
    (taken, *_) = sorted(scene.nan.parent.glob(f"{scene.nan.name}.taken-*"), key=lambda path: path.stat().st_ctime)[-1:]
    return Applied(f"loss of the learner (pid {taken.name.rpartition('-')[2]})")


def _kill_server(scene: Scene, planned: Planned) -> Applied:
    scene.server.kill()

    def undo() -> str:
        scene.server.begin()
        return "MLflow is started again"

    return Applied(f"MLflow server for {planned.seconds} s", undo)


def _freeze_server(scene: Scene, planned: Planned) -> Applied:
    scene.server.freeze()

    def undo() -> str:
        scene.server.thaw()
        return "MLflow goes on"

    return Applied(f"MLflow server for {planned.seconds} s", undo)


def _fill_disk(scene: Scene, planned: Planned) -> Applied:
    """The output's own disk, filled to its last byte; without one, a limit on the size of what learners write."""
    if not scene.disk:
        return _limit_files(scene, planned)
    filler = scene.output / ".full"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 20))
        except OSError:
            pass
        for size in (4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue

    def undo() -> str:
        filler.unlink(missing_ok=True)
        return "room again"

    return Applied(f"disk of the output, full for {planned.seconds} s", undo)


def _limit_files(scene: Scene, planned: Planned) -> Applied:
    """Files of the learners' processes may not grow past 4 KiB: writes fail with EFBIG, as on a full disk."""
    learners = [process for title in (TRIAL, RANKS) for process in titled(scene.mark, title)]
    if not learners:
        raise Missed("no learner")
    for process in learners:
        _limit(process, 4096)

    def undo() -> str:
        for process in learners:
            _limit(process, resource.RLIM_INFINITY)
        return "no limit"

    return Applied(f"files of {len(learners)} learners at most 4 KiB for {planned.seconds} s", undo)


def _limit(process: int, size: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(process, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _remove_node(scene: Scene, planned: Planned) -> Applied:
    if scene.cluster is None or len(scene.cluster.nodes) < 3:
        raise Missed("no node that another could stand in for")
    cluster, node = scene.cluster, scene.cluster.nodes[1:][int(planned.pick * len(scene.cluster.nodes[1:]))]
    cluster.remove(node.name, kill=True)
    return Applied(f"{node.name}", lambda: f"{cluster.add(node.cpus)} joined")


def _aim(scene: Scene, pick: float, best: tuple[str, ...], otherwise: tuple[str, ...]) -> tuple[int, str]:
    """A process with one of the best titles, after `AIM_S` with one of the others too; `Missed` after twice as long."""
    begun = time.monotonic()
    while (waited := time.monotonic() - begun) < 2 * AIM_S:
        titles = best if waited < AIM_S else (*best, *otherwise)
        if found := [(process, title) for title in titles for process in titled(scene.mark, title)]:
            process, title = found[int(pick * len(found))]
            return process, title.removeprefix("ray::")
        time.sleep(0.005)
    raise Missed(f"no process titled {' or '.join((*best, *otherwise))}")


def _pick(processes: list[int], pick: float) -> int:
    return processes[int(pick * len(processes))]


FAULTS: dict[str, Fault] = {
    "rollout actor killed": Fault(
        "SIGKILL of a rollout actor in the middle of generating",
        _kill(("ray::RolloutActor.generate",), ("ray::RolloutActor",)),
        "rollout",
    ),
    "straggler": Fault(
        "a rollout actor is stopped (SIGSTOP) and goes on later",
        _freeze(("ray::RolloutActor.generate",), ("ray::RolloutActor",)),
        "rollout",
        (2.0, 6.0),
    ),
    "learner killed": Fault(
        "SIGKILL of a process that learns: a rank of Ray Train's, or the trial", _kill((RANKS, TRIAL)), "learner"
    ),
    "difficulty table killed": Fault(
        "SIGKILL of the difficulty actor, in the middle of a call where it is caught in one",
        _kill(("ray::DifficultyActor.call",), ("ray::DifficultyActor",)),
        "difficulty",
    ),
    "tracker killed": Fault("SIGKILL of the tracker actor", _kill(("ray::TrackerActor",)), "tracker"),
    "small actor killed": Fault(
        "SIGKILL of an actor that only hands out numbers, stop requests or news of nodes",
        _kill(("ray::Slots", "ray::StopActor", "ray::Roster")),
        "small",
    ),
    "driver killed": Fault("kill -9 of the job, then the same command", _kill_driver, "driver", ends_job=True),
    "NaN loss": Fault("one backward pass has NaN advantages", _arm_nan, "loss"),
    "verifier killed": Fault("SIGKILL of the process that scores answers", _at_verifier(signal.SIGKILL), "verifier"),
    "verifier frozen": Fault("it stops for ever (SIGSTOP)", _at_verifier(signal.SIGSTOP), "verifier"),
    "MLflow killed": Fault("the MLflow server is killed, and started again", _kill_server, "mlflow", (8.0, 20.0)),
    "MLflow frozen": Fault("the MLflow server accepts and never answers", _freeze_server, "mlflow", (4.0, 10.0)),
    "disk full": Fault("the disk of the output is full", _fill_disk, "disk", (2.0, 5.0)),
    "files limited": Fault("what learners write fails with EFBIG", _limit_files, "disk", (1.0, 3.0)),
    "node removed": Fault(
        "every process of a node is killed; later a new node joins", _remove_node, "node", (4.0, 10.0)
    ),
}
