"""A checkpoint is gone on from at any number of ranks and ZeRO stage, by either engine, as if nothing had been."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.ductile.engines.processes import written_by

pytestmark = pytest.mark.engines

KINDS = ("torch", "zero0", "zero1", "zero2", "zero3")
WORLDS = {"alone": 1, "rank-0": 2, "rank-1": 2}
BEFORE_THE_FIRST_STEP, AFTER_TWO = 0, 2


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `worlds.py` wrote, by file."""
    return written_by("worlds.py", folder=tmp_path_factory.mktemp("worlds"))


def whole(answers: dict[str, Any], process: str, precision: str, after: int, kind: str) -> list[list[float]]:
    """Weights after each step that follows the checkpoint, of a run without one."""
    steps: list[list[float]] = answers[process][f"{precision}-{after}"]["whole"][kind]
    return steps[after:]


@pytest.mark.parametrize("process", WORLDS)
@pytest.mark.parametrize("after", [BEFORE_THE_FIRST_STEP, AFTER_TWO])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_same_engine_on_as_many_ranks_goes_on_bit_for_bit(
    answers: dict[str, Any], precision: str, kind: str, after: int, process: str
) -> None:
    name = f"{kind}-of-{WORLDS[process]} by {kind}"
    _, *found = answers[process][f"{precision}-{after}"]["resumed"][name]
    assert found == whole(answers, process, precision, after, kind)


@pytest.mark.parametrize("process", WORLDS)
@pytest.mark.parametrize("after", [BEFORE_THE_FIRST_STEP, AFTER_TWO])
def test_every_engine_goes_on_from_every_other_world_and_engine(
    answers: dict[str, Any], after: int, process: str
) -> None:
    found = answers[process][f"fp32-{after}"]["resumed"]
    expected = np.array(whole(answers, "alone", "fp32", after, "torch"))
    assert len(found) == 20 and np.abs(expected[-1] - expected[0]).max() > 0.05
    for name, (_, *steps) in found.items():
        assert np.array(steps) == pytest.approx(expected, abs=1e-6, rel=1e-6), name


@pytest.mark.parametrize("process", WORLDS)
def test_what_is_loaded_is_what_was_saved_to_the_bit(answers: dict[str, Any], process: str) -> None:
    for name, (loaded, *_) in answers[process]["fp32-2"]["resumed"].items():
        kind, written = name.split(" by ")[0].split("-of-")
        saved = answers["alone" if written == "1" else "rank-0"]["fp32-2"]["whole"][kind][AFTER_TWO - 1]
        assert loaded == saved, name


@pytest.mark.parametrize("process", WORLDS)
def test_master_weights_of_bf16_are_whole_on_another_number_of_ranks(answers: dict[str, Any], process: str) -> None:
    """Rounded masters would leave each weight up to 2^-9 of it away, and the moments of two steps lost much more."""
    for name, (_, *steps) in answers[process]["bf16-2"]["resumed"].items():
        origin, kind = name.split(" by ")
        if "torch" not in name and kind == origin.split("-of-")[0]:
            expected = np.array(whole(answers, process, "bf16", AFTER_TWO, kind))
            assert np.array(steps) == pytest.approx(expected, rel=2.0**-6, abs=2.0**-6), name
