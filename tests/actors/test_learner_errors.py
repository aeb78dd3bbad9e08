"""Which errors Ray Train is told of, and so starts the workers again for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from actors import learner
from ductile.checkpoint import CheckpointFailed
from jobs.driver import main


def test_checkpoint_that_could_not_be_written_is_not_waited_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = CheckpointFailed("the disk is full")

    def work(*_: Any) -> None:
        raise failure

    alone = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setattr("ray.train.get_context", lambda: alone)  # imports it, as a worker of Ray Train has
    monkeypatch.setattr(learner, "begin_try", lambda *_: None)
    monkeypatch.setattr(learner, "_work", work)
    spec = SimpleNamespace(folder=None, job="", max_failures=3)
    assert learner._train_worker({"spec": spec}) is failure


def test_checkpoint_that_could_not_be_written_is_told_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def job() -> int:
        raise CheckpointFailed("the disk is full")

    with pytest.raises(SystemExit) as ended:
        main(job)
    assert ended.value.code == 1
    assert capsys.readouterr().err == "the disk is full\n"
