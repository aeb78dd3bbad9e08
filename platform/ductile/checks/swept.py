"""What a search over difficulty thresholds asks for: the names in it, and every run that it could come to."""

from __future__ import annotations

from collections.abc import Iterator

from ductile.checks import check
from ductile.config import RunSettings, SweepSettings
from ductile.difficulty import ESTIMATORS
from ductile.schedule import due_steps
from ductile.settings import one_of
from ductile.sweep import corners, measured_inside, measured_objectives, total_steps, with_thresholds

WHY_NOT = {
    "retention": "needs prior skills and the retention probe at the last boundary: name some in probe.prior, or take "
    "probe=small",
    "new_skill": "needs the retention probe at the last boundary (probe.probes)",
    "plasticity": "needs a branch probe at the last boundary: probe.branch.domain, and branch in probe.probes",
}


def sweep_mistakes(sweep: SweepSettings, settings: RunSettings) -> list[str]:
    """One line for each mistake; those of single runs once, however many runs have them."""
    if not settings.phase:
        return ["plan: none has no phase, and without one no band is ever read; choose a plan with plan=..."]
    own = [*_name_mistakes(sweep, settings), *_objective_mistakes(sweep, settings)]
    if own:
        return own
    runs = [with_thresholds(settings, at, sweep.phases) for at in corners(sweep, settings)]
    found = dict.fromkeys(line for run in runs for line in check(run))
    return [*found] or [*_asha_mistakes(sweep, runs)]


def _name_mistakes(sweep: SweepSettings, settings: RunSettings) -> Iterator[str]:
    for position, name in enumerate(sweep.estimators):
        if name not in ESTIMATORS:
            yield one_of(f"sweep.estimators[{position}]", name, ESTIMATORS, "estimator")
    for position, name in enumerate(sweep.phases):
        if name not in settings.phase:
            yield one_of(f"sweep.phases[{position}]", name, settings.phase, "phase")
    if sweep.phases and not sweep.steps:
        yield f"sweep.phases: {list(sweep.phases)} is never read: sweep.steps is empty; name steps, or leave phases out"
    if settings.difficulty.selection != "band":
        yield (
            f"difficulty.selection: {settings.difficulty.selection} does not read difficulty.band, so that all trials "
            f"would ask alike; allowed: band"
        )


def _objective_mistakes(sweep: SweepSettings, settings: RunSettings) -> Iterator[str]:
    measured = measured_objectives(settings)
    path = f"sweep.objective: {sweep.objective}"
    if sweep.objective == "pareto":
        if sweep.search == "asha":
            yield (
                f"{path}: asha compares trials by one number and cannot stop on several; allowed: sweep.search=model, "
                f"or one objective"
            )
        elif len(measured) < 2:
            yield f"{path} needs two objectives; measured: {', '.join(measured) or 'none'}"
    elif sweep.objective not in measured:
        yield f"{path} {WHY_NOT[sweep.objective]}"
    elif sweep.objective == "plasticity" and sweep.search == "asha":
        yield f"{path}: asha stops on what is measured inside phases, branches are not; allowed: sweep.search=model"
    elif sweep.search == "asha" and not measured_inside(settings):
        yield (
            f"{path}: asha stops on what is measured inside phases; set probe.every, and have retention in probe.inside"
        )


def _asha_mistakes(sweep: SweepSettings, runs: list[RunSettings]) -> Iterator[str]:
    """A first rung that no trial ever stands on before its end."""
    if sweep.search == "asha" and not any(max(_measured_steps(run), default=0) >= sweep.grace for run in runs):
        longest = max(total_steps(run) for run in runs)
        yield (
            f"sweep.grace: {sweep.grace}: no trial ({longest} steps at most) is measured from that step on and before "
            f"its end, so that none would ever be stopped; lower it, or probe.every"
        )


def _measured_steps(run: RunSettings) -> list[int]:
    """The steps, counted over all phases and before the last, after which retention is measured."""
    probe, start, found = run.probe, 0, []
    for phase in run.phase.values():
        due = due_steps(phase.steps, probe.every, probe.log_spaced, phase.pool, run.rollout.groups)
        found += [start + step for step in (*due, phase.steps)]
        start += phase.steps
    return [step for step in found if step < start]
