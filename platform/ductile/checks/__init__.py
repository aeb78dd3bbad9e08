"""Every name, level and combination that the typed settings cannot check on their own, before any work starts."""

from __future__ import annotations

from ductile.checks.asked import (
    data_mistakes,
    domain_mistakes,
    name_mistakes,
    pool_mistakes,
)
from ductile.checks.chosen import (
    allocation_mistakes,
    family_mistakes,
    hint_mistakes,
    screening_mistakes,
    static_mistakes,
    unseen_mistakes,
    watching_mistakes,
)
from ductile.checks.learned import (
    adapter_mistakes,
    context_mistakes,
    hold_mistakes,
    memory_mistakes,
    objective_mistakes,
    switch_mistakes,
)
from ductile.checks.measured import (
    branch_mistakes,
    probe_domain_mistakes,
    probe_mistakes,
)
from ductile.checks.scored import static_score_mistakes
from ductile.checks.stale import staleness_mistakes
from ductile.checks.stored import store_mistakes
from ductile.checks.written import secret_mistakes, tracking_mistakes, written_name_mistakes
from ductile.config import RunSettings


def check(settings: RunSettings) -> list[str]:
    """Every name and level that the typed settings cannot check on their own; one line for each mistake."""
    checks = (
        domain_mistakes,
        probe_domain_mistakes,
        memory_mistakes,
        family_mistakes,
        watching_mistakes,
        hint_mistakes,
        unseen_mistakes,
        static_mistakes,
        allocation_mistakes,
        screening_mistakes,
        probe_mistakes,
        branch_mistakes,
        name_mistakes,
        pool_mistakes,
        objective_mistakes,
        hold_mistakes,
        context_mistakes,
        data_mistakes,
        switch_mistakes,
        adapter_mistakes,
        static_score_mistakes,
        store_mistakes,
        written_name_mistakes,
        secret_mistakes,
        tracking_mistakes,
        staleness_mistakes,
    )
    return [mistake for mistakes in checks for mistake in mistakes(settings)]


__all__ = ["check"]
