"""How the problems of a step are chosen: the difficulty families' names, and what they need of the other settings."""

from __future__ import annotations

from collections.abc import Iterator

from ductile.config import RunSettings
from ductile.difficulty import ALL, ALLOCATIONS, ESTIMATORS, SELECTORS, STATIC
from ductile.domains import make_domain
from ductile.plan import draw
from ductile.settings import SettingsError, one_of


def family_mistakes(settings: RunSettings) -> Iterator[str]:
    """Names of the difficulty families."""
    difficulty = settings.difficulty
    if difficulty.estimator not in ESTIMATORS:
        yield one_of("difficulty.estimator", difficulty.estimator, ESTIMATORS, "estimator")
    for position, name in enumerate(difficulty.shadows):
        if name not in ESTIMATORS and name != ALL:
            yield one_of(f"difficulty.shadows[{position}]", name, [*ESTIMATORS, ALL], "estimator")
    if difficulty.selection not in SELECTORS:
        yield one_of("difficulty.selection", difficulty.selection, SELECTORS, "selection rule")
    if difficulty.allocation not in ALLOCATIONS:
        yield one_of("difficulty.allocation", difficulty.allocation, ALLOCATIONS, "allocation")


def watching_mistakes(settings: RunSettings) -> Iterator[str]:
    """What would be measured for nobody: rollouts for estimators that nothing reads, shadows without an audit."""
    difficulty, contexts = settings.difficulty, settings.variant.contexts
    audit, watch = difficulty.audit, {difficulty.estimator, *difficulty.shadows}
    if difficulty.attention.reference and difficulty.estimator != "attention":
        yield (
            f"difficulty.attention.reference: {difficulty.attention.reference} problems would be rolled out anew for "
            f"attention, but selection reads {difficulty.estimator}; allowed: 0, where the step's own groups serve, or "
            f"difficulty.estimator=attention"
        )
    if difficulty.offline and not watch & {"frozen", ALL} and difficulty.selection not in STATIC:
        yield (
            f"difficulty.offline: {difficulty.offline} completions of every problem would be read by nothing; allowed: "
            f"0, the estimator frozen (also in difficulty.shadows), or a selection by static difficulty: "
            f"{', '.join(STATIC)}"
        )
    if difficulty.reestimate and (difficulty.estimator == "frozen" or difficulty.attention.reference):
        why = "never moves" if difficulty.estimator == "frozen" else "reads its reference set alone"
        yield (
            f"difficulty.reestimate: {difficulty.reestimate} would buy rollouts that the estimator "
            f"{difficulty.estimator} learns nothing from: it {why}; allowed: 0, or another difficulty.estimator"
        )
    if audit.unseen and not audit.every:
        yield (
            f"difficulty.audit.unseen: {audit.unseen} problems would never be audited; set difficulty.audit.every, or "
            f"leave it out"
        )
    if difficulty.shadows and not audit.every:
        yield (
            f"difficulty.shadows: {list(difficulty.shadows)} would be read by nothing without an audit; set "
            f"difficulty.audit.every, or leave them out"
        )
    if contexts and audit.every and audit.samples % contexts:
        yield (
            f"difficulty.audit.samples: {audit.samples} is no multiple of variant.contexts ({contexts}), and each "
            f"context gets as many completions; allowed: a multiple of {contexts}"
        )


def hint_mistakes(settings: RunSettings) -> Iterator[str]:
    """Hints change what a problem's pass rate is; what is measured without them would be another one's."""
    difficulty, hint = settings.difficulty, settings.data.hint
    if not hint:
        return
    watch = {difficulty.estimator, *difficulty.shadows}
    for name, value, on in (
        ("audit.every", difficulty.audit.every, bool(difficulty.audit.every)),
        ("offline", difficulty.offline, bool(difficulty.offline)),
        ("attention.reference", difficulty.attention.reference, bool(difficulty.attention.reference)),
        ("estimator", difficulty.estimator, "importance" in watch),
    ):
        if on:
            yield (
                f"difficulty.{name}: {value} measures problems as they are, and data.hint ({hint}) trains on them with "
                f"a part of the answer given, at another pass rate; allowed: without data.hint"
            )


def unseen_mistakes(settings: RunSettings) -> Iterator[str]:
    """Problems beside the pool that a phase's evaluation split does not have."""
    audit = settings.difficulty.audit
    if not (audit.every and audit.unseen):
        return
    for name, phase in settings.phase.items():
        try:
            domain = make_domain(phase.domain, f"phase.{name}.domain")
            drawn = len(draw(domain, phase.levels, "eval", audit.unseen, settings.seed))
        except (SettingsError, ValueError):
            continue  # told with the domains
        if drawn < 2:
            yield (
                f"difficulty.audit.unseen: {audit.unseen}: the evaluation split of {domain.key} at the levels of "
                f"phase.{name} has {drawn}, and an audit needs 2; allowed: 0, or other levels"
            )


def static_mistakes(settings: RunSettings) -> Iterator[str]:
    """Selection by a static difficulty that nothing says.

    It comes from the scores file, else from the base's pass rates, else from the problems' levels, which tell nothing
    apart in a phase that has one. A plan in which some phase has several levels is allowed.
    """
    difficulty = settings.difficulty
    if difficulty.selection not in STATIC or difficulty.scores or difficulty.offline or not settings.phase:
        return
    if all(len(set(phase.levels)) == 1 for phase in settings.phase.values()):
        others = ", ".join(sorted(SELECTORS.keys() - set(STATIC)))
        yield (
            f"difficulty.selection: {difficulty.selection} goes by a static difficulty, but the problems of each phase "
            f"are all of one level and nothing else tells them apart; allowed: with difficulty.scores, with "
            f"difficulty.offline above 0, with a phase of several levels; or {others}"
        )


def allocation_mistakes(settings: RunSettings) -> Iterator[str]:
    """Limits on a group's completions that the mean group does not lie between, and contexts that share them."""
    limits, size = settings.difficulty.knapsack, settings.rollout.group_size
    if settings.difficulty.allocation != "knapsack":
        return
    if settings.variant.contexts:
        yield (
            f"difficulty.allocation: knapsack gives a problem any number of completions, which variant.contexts "
            f"({settings.variant.contexts}) could not share alike; allowed: uniform"
        )
    if limits.low > size:
        yield (
            f"difficulty.knapsack.low: {limits.low}: a step has rollout.group_size ({size}) completions a problem to "
            f"share out; allowed: at most {size}"
        )
    if limits.high < size:
        yield (
            f"difficulty.knapsack.high: {limits.high}: a step has rollout.group_size ({size}) completions a problem to "
            f"share out; allowed: at least {size}"
        )


def screening_mistakes(settings: RunSettings) -> Iterator[str]:
    """Screening beside what does not go with it."""
    pilots, contexts = settings.difficulty.screen.pilots, settings.variant.contexts
    if not pilots:
        return
    if settings.objective.dynamic_sampling == "refill":
        yield (
            f"difficulty.screen.pilots: {pilots}: screening asks other problems until enough are mixed, and so does "
            f"objective.dynamic_sampling refill; allowed: 0, or dynamic_sampling off or drop"
        )
    if contexts and pilots % contexts:
        yield (
            f"difficulty.screen.pilots: {pilots} is no multiple of variant.contexts ({contexts}), and each context "
            f"gets as many completions; allowed: 0, or a multiple of {contexts}"
        )
