"""The number of rollout actors changes no bit of what a run ends with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.cluster.tiny import finish, measured

pytestmark = pytest.mark.cluster


def test_run_on_1_2_and_4_actors_ends_with_the_same_bits(command: Callable[..., list[str]], tmp_path: Path) -> None:
    ended = []
    for actors in (1, 2, 4):
        output = tmp_path / str(actors)
        settings = (
            "variant=parameter_only",
            "plan=guessable",
            "difficulty.reestimate=0.3",
            "probe.probes=[retention,drift]",
        )
        finish(command("run", output, *settings, f"rollout.actors={actors}"))
        (folder,) = [path.parent for path in output.glob("*/settings.json")]
        latest = sorted(folder.glob("checkpoint-*"))[-1]
        weights = load_file(latest / "learner" / "weights.safetensors")
        ended.append(({name: array.tobytes() for name, array in weights.items()}, measured(folder)))
    assert ended[1] == ended[0] and ended[2] == ended[0]
