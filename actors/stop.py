"""How the runs of a job are asked to stop: a flag in an actor that the job's driver owns and every run looks at."""

from __future__ import annotations

from dataclasses import dataclass

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

STOPPED_S = 60.0
"""Most that a run that was asked to stop tries to write its checkpoint, and its job then waits for MLflow. `ray job
stop` kills the job after 300 s (RAY_JOB_STOP_WAIT_TIME_S); what MLflow lacks by then is in the journal."""


@ray.remote(num_cpus=0, max_restarts=-1)
class StopActor:
    """The flag. Restarted it is down again, so the driver goes on asking until the runs have ended."""

    def __init__(self) -> None:
        self._asked = False

    def ask(self) -> None:
        """Ask every run to stop."""
        self._asked = True

    def asked(self) -> bool:
        """Whether they are asked to."""
        return self._asked


@dataclass(frozen=True)
class StopFlag:
    """The flag as runs see it, small enough to be sent to them."""

    actor: ActorHandle

    def asked(self) -> bool:
        """Whether to stop. A flag that is being restarted says no: the next step asks again."""
        try:
            asked: bool = ray.get(self.actor.asked.remote())
        except RayActorError:
            return False
        return asked


class NeverAsked:
    """The flag of a run that nobody can ask to stop."""

    def asked(self) -> bool:
        """No."""
        return False
