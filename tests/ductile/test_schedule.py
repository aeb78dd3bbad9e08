"""Which probes run at which boundary, and after which steps of a phase."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ductile.config import PhaseSettings, ProbeSettings, RunSettings
from ductile.probes import PROBES, expand
from ductile.schedule import boundary_probes, due_steps

PHASES = {"a": PhaseSettings(), "b": PhaseSettings(probes=("drift",)), "c": PhaseSettings(probes=())}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((10, 4, 0, 100, 10), (4, 8)),
        ((8, 4, 0, 100, 10), (4,)),  # the last step is the boundary's
        ((10, 0, 0, 100, 10), ()),
        # 1, 10 ** 0.5 = 3.16 and 10: the first pass over 100 problems, 10 a step
        ((50, 0, 3, 100, 10), (1, 3, 10)),
        ((50, 0, 3, 95, 10), (1, 3, 10)),  # the last of the first pass is half a step
        ((50, 0, 1, 100, 10), (1,)),
        ((4, 0, 3, 100, 10), (1, 2)),  # a phase that ends before: 1, 2, 4, and the last is the boundary's
        ((50, 20, 3, 100, 10), (1, 3, 10, 20, 40)),
        ((50, 0, 5, 10, 10), (1,)),  # a pass of one step
        ((1, 1, 5, 100, 10), ()),
        # 15 points over 64 steps: 64 ** (i / 14), rounded; two fall on 1 and two on 2
        ((100, 0, 15, 1024, 16), (1, 2, 3, 4, 6, 8, 11, 14, 20, 26, 35, 48, 64)),
    ],
)
def test_due_steps_by_hand(arguments: tuple[int, int, int, int, int], expected: tuple[int, ...]) -> None:
    assert due_steps(*arguments) == expected


def test_every_boundary_has_the_probes_that_the_plan_names() -> None:
    settings = RunSettings(phase=PHASES, probe=ProbeSettings(probes=("retention",), start=("formats", "drift")))
    assert [boundary_probes(settings, k) for k in range(4)] == [("formats", "drift"), ("retention",), ("drift",), ()]
    unset = replace(settings, probe=replace(settings.probe, start=None))
    assert boundary_probes(unset, 0) == ("retention",)


def test_all_stands_for_every_probe_once() -> None:
    assert expand(("drift", "all")) == ("drift", *(name for name in PROBES if name != "drift"))
    assert expand(("formats", "nothing")) == ("formats", "nothing")
