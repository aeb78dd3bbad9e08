"""What is measured of a policy: one file a probe, and the dict that names them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ductile.probes.base import Probe, ProbeContext, ProbeResult
from ductile.probes.branch import BranchProbe
from ductile.probes.drift import DriftProbe
from ductile.probes.formats import FormatsProbe
from ductile.probes.heuristics import HeuristicsProbe
from ductile.probes.retention import RetentionProbe
from ductile.probes.self_conditioning import SelfConditioningProbe

PROBES: dict[str, Probe] = {
    probe.name: probe
    for probe in (
        RetentionProbe(),
        DriftProbe(),
        FormatsProbe(),
        BranchProbe(),
        SelfConditioningProbe(),
        HeuristicsProbe(),
    )
}

INSIDE_A_PHASE = ("retention", "formats")
"""The probes cheap enough to run between boundaries."""

__all__ = ["INSIDE_A_PHASE", "PROBES", "Probe", "ProbeContext", "ProbeResult", "run_probes"]


def run_probes(context: ProbeContext, names: Sequence[str]) -> ProbeResult:
    """Run the named probes; one result with all their metrics and tables, and the versions of the probes."""
    metrics: dict[str, float] = {}
    tables: dict[str, list[dict[str, Any]]] = {
        "probes": [{"name": name, "version": PROBES[name].version} for name in names]
    }
    for name in names:
        result = PROBES[name].measure(context)
        metrics |= result.metrics
        tables |= result.tables
    return ProbeResult(metrics, tables)
