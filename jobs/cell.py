"""One run of a job: its folder, its MLflow run, and how it ends."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import ray

from actors.gauges import SETTLED, labels_of
from actors.learner import RunSpec, run_spec
from actors.tracker import RunTracker
from ductile.checkpoint import write_text
from ductile.config import RunSettings
from ductile.identity import Identity, identify
from ductile.ports import Stopped
from ductile.settings import as_plain
from jobs.driver import Shared, needs_expert


@dataclass(frozen=True)
class Cell:
    """A run and where it is kept. `key` finds its MLflow run again; `parent`: MLflow's id of the comparison.

    label: what it is called, empty for the run's own name.  tags: more MLflow tags, short names.
    """

    settings: RunSettings
    identity: Identity
    folder: Path
    key: str
    parent: str | None
    label: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the display and MLflow call it."""
        return self.label or f"{self.settings.variant.called} {self.settings.plan} seed {self.settings.seed}"

    @property
    def finished(self) -> bool:
        """Whether it ran to its end before, under the same identity."""
        path = self.folder / "finished.json"
        return path.exists() and json.loads(path.read_text())["fingerprint"] == self.identity.run


def identity_of(settings: RunSettings, shared: Shared) -> Identity:
    """The identity of a run on the models that it uses."""
    return identify(settings, [shared.base, shared.expert] if needs_expert(settings) else [shared.base])


def execute(
    cell: Cell, shared: Shared, slot: int, watched: Callable[[RunTracker], RunTracker] = lambda tracker: tracker
) -> str:
    """Run it, or go on with it; returns its MLflow run's id. An error marks that run FAILED and is raised.

    watched: makes the run's tracker. One that stops the run raises `Stopped`: MLflow's run is then KILLED, and its tag
    `ductile.stopped_early` has the step where the run was not worth going on with.
    """
    if shared.stop.asked():  # before anything is begun: the next run of a job that is stopping
        raise Stopped(0, early=False)
    with _alone(cell.folder):
        write_text(cell.folder / "settings.json", json.dumps(as_plain(cell.settings), indent=1))
        run_id: str = ray.get(
            shared.tracker.begin.remote(
                kind="run",
                name=cell.name,
                settings=as_plain(cell.settings),
                key=cell.key,
                parent=cell.parent,
                tags={"folder": str(cell.folder), **cell.tags},
            )
        )
        known = labels_of(as_plain(cell.settings))
        labels = {name: known[name] for name in SETTLED}
        spec = RunSpec(
            settings=cell.settings,
            identity=cell.identity,
            base=shared.base,
            expert=shared.expert,
            folder=cell.folder,
            pool=shared.pool.at_home(slot),
            tracker=watched(RunTracker(shared.tracker, run_id, labels=labels)),
            placement=shared.placement,
            stop=shared.stop,
            job=shared.job,
        )
        try:
            run_spec(spec)
        except Stopped as stop:
            tags = {"ductile.stopped_early": str(stop.step)} if stop.early else {}
            ray.get(shared.tracker.finish.remote(run_id, "KILLED", tags))
            raise
        except Exception:
            ray.get(shared.tracker.finish.remote(run_id, "FAILED"))
            raise
        ray.get(shared.tracker.finish.remote(run_id, "FINISHED"))
        write_text(cell.folder / "finished.json", json.dumps({"fingerprint": cell.identity.run, "run_id": run_id}))
    return run_id


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the run's folder: after a kill -9, what the old job left alive must end before the new one writes there."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
