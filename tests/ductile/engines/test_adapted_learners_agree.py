"""Adapters and prefixes learn, are merged, swapped and resumed alike on every engine, and on two ranks as on one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.ductile.engines.processes import written_by

pytestmark = pytest.mark.engines

PARTS = ("lora", "fast_lora", "fast_prefix")
WHERE = [("alone", f"zero{stage}") for stage in range(4)] + [("rank-0", "zero2"), ("rank-1", "zero2")]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, tiny_folder: str) -> dict[str, Any]:
    """What `adapted.py` wrote, by file."""
    return written_by("adapted.py", tiny_folder, folder=tmp_path_factory.mktemp("adapted"))


@pytest.mark.parametrize(("process", "engine"), WHERE)
@pytest.mark.parametrize("part", PARTS)
def test_every_engine_and_rank_publishes_the_weights_of_plain_pytorch(
    answers: dict[str, Any], part: str, process: str, engine: str
) -> None:
    found, expected = answers[process][part][engine], answers["alone"][part]["torch"]
    assert found["norms"] == pytest.approx(expected["norms"], rel=1e-4)
    for name in ("saved", "weights"):
        assert np.array(found[name]) == pytest.approx(np.array(expected[name]), abs=2e-5), name
    assert not np.allclose(found["saved"], found["weights"], atol=1e-3)


@pytest.mark.parametrize(("process", "engine"), [("alone", "torch"), *WHERE])
@pytest.mark.parametrize("part", PARTS)
def test_a_resumed_learner_is_bit_for_bit_the_one_that_went_on(
    answers: dict[str, Any], part: str, process: str, engine: str
) -> None:
    assert answers[process][part][engine]["differences"] == [0.0, 0.0, 0.0]
