"""What is measured of a policy: one file a probe, and the dict that names them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ductile.probes.alphas import AlphasProbe
from ductile.probes.base import Probe, ProbeContext, ProbeResult
from ductile.probes.branch import BranchProbe
from ductile.probes.channels import ChannelsProbe
from ductile.probes.cost import Meter, MeteredPool
from ductile.probes.diversity import DiversityProbe
from ductile.probes.drift import DriftProbe
from ductile.probes.formats import FormatsProbe
from ductile.probes.gradients import GradientsProbe
from ductile.probes.heuristics import HeuristicsProbe
from ductile.probes.retention import RetentionProbe
from ductile.probes.self_conditioning import SelfConditioningProbe
from ductile.probes.sparsity import SparsityProbe
from ductile.probes.spectrum import SpectrumProbe
from ductile.probes.units import UnitsProbe
from ductile.probes.weights import WeightsProbe

PROBES: dict[str, Probe] = {
    probe.name: probe
    for probe in (
        RetentionProbe(),
        DriftProbe(),
        FormatsProbe(),
        DiversityProbe(),
        UnitsProbe(),
        SpectrumProbe(),
        WeightsProbe(),
        SparsityProbe(),
        GradientsProbe(),
        SelfConditioningProbe(),
        HeuristicsProbe(),
        ChannelsProbe(),
        AlphasProbe(),
        BranchProbe(),
    )
}

ALL = "all"
"""Stands for every probe in a list of names."""

__all__ = ["ALL", "PROBES", "Probe", "ProbeContext", "ProbeResult", "expand", "run_probes"]


def expand(names: Sequence[str]) -> tuple[str, ...]:
    """The names with `ALL` replaced by every probe, each once."""
    return tuple(dict.fromkeys(each for name in names for each in (PROBES if name == ALL else [name])))


def run_probes(
    context: ProbeContext, names: Sequence[str], begin: Callable[[str], None] = lambda _: None
) -> ProbeResult:
    """Run the named probes; one result with all their metrics and tables, their versions and what each cost.

    begin: called with a probe's name before it runs.
    """
    pool, bare = MeteredPool(context.pool), MeteredPool(context.bare)
    context, meter = replace(context, pool=pool, bare_pool=bare), Meter(pool, bare)
    metrics: dict[str, float] = {}
    tables: dict[str, list[dict[str, Any]]] = {
        "probes": [{"name": name, "version": PROBES[name].version} for name in names]
    }
    for name in names:
        begin(name)
        result = meter.run(name, partial(PROBES[name].measure, context))
        metrics |= result.metrics
        tables |= result.tables
    return ProbeResult(meter.metrics | metrics, tables)  # a branch knows its own cost, wherever it ran
