"""A run that loses an actor for good goes back to its checkpoint, so many times without coming further and no more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import actors.learner as learner
from actors.learner import RunSpec, run_spec
from actors.rollout import LostCall
from actors.tries import FILE, NoProgress, begin_try, first_divergence, note_error
from ductile.config import LearnerSettings, RunSettings
from ductile.identity import Identity
from ductile.learner import Diverged


def spec(folder: Path, failures: int) -> RunSpec:
    settings = RunSettings(learner=LearnerSettings(max_failures=failures))
    return RunSpec(settings, Identity("run", "start"), Path(), Path(), folder, pool=None, tracker=None, job="job")  # type: ignore[arg-type]


def failing(monkeypatch: pytest.MonkeyPatch, *acts: Callable[[], None]) -> list[int]:
    """Make the run's tries do these things in turn; then it ends."""
    tries: list[int] = []

    def work(spec: RunSpec, rank: int, world: int) -> None:
        tries.append(1)
        if len(tries) <= len(acts):
            acts[len(tries) - 1]()

    monkeypatch.setattr(learner, "_work", work)
    return tries


def lose() -> None:
    raise LostCall("gone")


@pytest.mark.parametrize(("lost", "allowed", "ends"), [(0, 0, True), (2, 2, True), (3, 2, False)])
def test_lost_actors_up_to_the_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lost: int, allowed: int, ends: bool
) -> None:
    tries = failing(monkeypatch, *[lose] * lost)
    if ends:
        run_spec(spec(tmp_path, allowed))
        assert len(tries) == lost + 1
    else:
        with pytest.raises(
            NoProgress, match=r"failed 3 times \(learner.max_failures=2\).*its beginning.*LostCall: gone"
        ):
            run_spec(spec(tmp_path, allowed))
        assert len(tries) == allowed + 1
    assert not (tmp_path / FILE).exists()


def test_run_that_comes_further_may_fail_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def lose_further() -> None:
        (tmp_path / f"checkpoint-{len(list(tmp_path.glob('checkpoint-*'))):06}").mkdir()
        lose()

    tries = failing(monkeypatch, *[lose_further] * 9)
    run_spec(spec(tmp_path, 1))
    assert len(tries) == 10


def test_tries_of_a_process_that_died_are_counted_by_the_next_one_of_the_same_job(tmp_path: Path) -> None:
    begin_try(tmp_path, "job", 1)
    begin_try(tmp_path, "job", 1)
    with pytest.raises(NoProgress, match="its process died"):
        begin_try(tmp_path, "job", 1)
    begin_try(tmp_path, "the same command again", 1)


def test_checkpoint_that_is_being_written_is_no_progress(tmp_path: Path) -> None:
    begin_try(tmp_path, "job", 0)
    (tmp_path / "checkpoint-000001.tmp").mkdir()
    with pytest.raises(NoProgress):
        begin_try(tmp_path, "job", 0)


def test_error_of_another_job_is_not_told(tmp_path: Path) -> None:
    note_error(tmp_path, "job", ValueError("old"))
    begin_try(tmp_path, "other", 0)
    with pytest.raises(NoProgress, match="its process died"):
        begin_try(tmp_path, "other", 0)


def diverge() -> None:
    raise Diverged("update 7: the gradient is not finite (norm nan, loss nan); lower learner.lr")


def test_flipped_bit_is_gone_when_the_run_goes_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tries = failing(monkeypatch, diverge)
    run_spec(spec(tmp_path, 3))
    assert len(tries) == 2


def test_same_update_diverging_again_fails_with_its_own_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tries = failing(monkeypatch, diverge, diverge)
    with pytest.raises(Diverged, match=r"update 7.*lower learner.lr"):
        run_spec(spec(tmp_path, 3))
    assert len(tries) == 2


def test_another_update_may_diverge_once_too(tmp_path: Path) -> None:
    assert [first_divergence(tmp_path, "job", update) for update in ("update 7", "update 9", "update 9")] == [
        True,
        True,
        False,
    ]


def test_other_errors_are_not_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def wrong() -> None:
        raise ValueError("wrong")

    tries = failing(monkeypatch, wrong)
    with pytest.raises(ValueError, match="wrong"):
        run_spec(spec(tmp_path, 5))
    assert len(tries) == 1
