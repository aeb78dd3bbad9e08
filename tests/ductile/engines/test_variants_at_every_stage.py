"""Every variant runs under every ZeRO stage and resumes exactly; a phase switch is the same under all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ductile
from ductile.variants import VARIANTS
from tests.ductile.variants.test_variants import OPTIONS

pytestmark = pytest.mark.engines

KINDS = ("zero0", "zero1", "zero2", "zero3")
MINIMAL = {name: OPTIONS.get(name, {}) for name in VARIANTS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Callable[[int], str]) -> Path:
    """Where `stages.py` wrote."""
    made, paths = tmp_path_factory.mktemp("stages"), Path(ductile.__file__).parents[1:3]
    finished = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).with_name("stages.py")),
            tiny_llama(0),
            tiny_llama(1),
            str(made),
            json.dumps(MINIMAL),
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return made


@pytest.fixture(scope="module")
def resumed(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "resumed.json").read_text())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_run_killed_between_phases_ends_bit_for_bit_as_the_whole_one(
    resumed: dict[str, Any], variant: str, kind: str
) -> None:
    found = resumed[variant][kind]
    assert found["resumed"] == found["whole"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_stages_train_alike(resumed: dict[str, Any], variant: str, kind: str) -> None:
    """On average over weights: Adam's first steps go by the gradient's sign, which rounding decides where it is 0."""
    found, expected = (np.array(resumed[variant][stage]["whole"]) for stage in (kind, "zero0"))
    assert np.abs(found - expected).mean() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_fusion_and_reset_between_phases_are_plain_pytorchs(folder: Path, kind: str) -> None:
    found = json.loads((folder / "switched.json").read_text())
    assert np.abs(np.array(found["torch"]) - np.array(found["carried"])).max() > 1e-3
    assert np.array(found[kind]) == pytest.approx(np.array(found["torch"]), abs=1e-5)
