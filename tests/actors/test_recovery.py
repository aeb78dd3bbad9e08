"""A run that loses an actor for good goes back to its checkpoint, so many times and no more."""

from __future__ import annotations

from pathlib import Path

import pytest

import actors.learner as learner
from actors.learner import RunSpec, run_spec
from actors.rollout import LostCall
from ductile.config import LearnerSettings, RunSettings
from ductile.identity import Identity


def spec(failures: int) -> RunSpec:
    settings = RunSettings(learner=LearnerSettings(max_failures=failures))
    return RunSpec(settings, Identity("run", "start"), Path(), Path(), Path("run"), pool=None, tracker=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("lost", "allowed", "ends"), [(0, 0, True), (2, 2, True), (3, 2, False)])
def test_lost_actors_up_to_the_limit(monkeypatch: pytest.MonkeyPatch, lost: int, allowed: int, ends: bool) -> None:
    tries = []

    def work(spec: RunSpec, rank: int, world: int) -> None:
        tries.append(1)
        if len(tries) <= lost:
            raise LostCall("gone")

    monkeypatch.setattr(learner, "_work", work)
    if ends:
        run_spec(spec(allowed))
        assert len(tries) == lost + 1
    else:
        with pytest.raises(LostCall):
            run_spec(spec(allowed))
        assert len(tries) == allowed + 1


def test_other_errors_are_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def work(spec: RunSpec, rank: int, world: int) -> None:
        tries.append(1)
        raise ValueError("wrong")

    monkeypatch.setattr(learner, "_work", work)
    with pytest.raises(ValueError, match="wrong"):
        run_spec(spec(5))
    assert len(tries) == 1
