"""The ports of a run without Ray: everything in this process."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ductile.ahead import make_ahead
from ductile.branch import LocalBrancher
from ductile.checkpoint import FolderStore
from ductile.config import RunSettings
from ductile.contexts import make_contexts
from ductile.course import Course
from ductile.difficulty.service import DifficultyTable
from ductile.judge import LocalJudge
from ductile.learner import PolicyLearner, branch_learner
from ductile.ports import Tracker
from ductile.reestimation import Reestimation
from ductile.rollouts import Rollouts
from ductile.sampling.worker import LocalPool
from ductile.step import Ports
from ductile.variants.base import Variant


def local_ports(
    settings: RunSettings, variant: Variant, learner: PolicyLearner, tracker: Tracker, folder: Path, memory: Path
) -> Ports:
    """Ports around a learner. folder: of the run's checkpoints; memory: of measurements of the base."""
    judge, pool = LocalJudge(), LocalPool(settings.model.dtype)
    difficulty, contexts = DifficultyTable(settings.difficulty), make_contexts(settings, pool, judge)
    store = FolderStore(folder, memory, settings=settings.checkpoint)
    make = partial(branch_learner, settings, variant, learner.origin, models=learner.models)
    return Ports(
        pool=pool,
        learner=learner,
        difficulty=difficulty,
        judge=judge,
        course=Course(settings, difficulty, judge.domain),
        contexts=contexts,
        reestimation=Reestimation(
            settings, difficulty, Rollouts(settings, pool, judge, contexts, learner), pool, store
        ),
        ahead=make_ahead(pool, settings.rollout.staleness),
        tracker=tracker,
        store=store,
        resolve=judge.domain,
        brancher=LocalBrancher(settings, variant, make, pool, judge, judge.domain),
    )
