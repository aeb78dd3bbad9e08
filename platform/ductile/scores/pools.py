"""The problems that a plan's runs may ask, over several seeds: what static scores are computed for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ductile.config import RunSettings, ScoresSettings
from ductile.domains import WorkedDomain
from ductile.domains.base import Domain
from ductile.plan import ResolveDomain, make_phase
from ductile.problem import Problem
from ductile.scores import SCORES
from ductile.scores.base import HISTORY, WORKED
from ductile.settings import one_of


@dataclass(frozen=True)
class Pool:
    """The problems of one phase over all seeds, each once."""

    phase: str
    domain: Domain
    problems: Sequence[Problem]


def pools(settings: RunSettings, seeds: Sequence[int], resolve: ResolveDomain) -> list[Pool]:
    """The whole pool of each phase, before any pruning. A problem that two phases ask belongs to the first."""
    seen: set[str] = set()
    found = []
    for name, values in settings.phase.items():
        problems: dict[str, Problem] = {}
        for seed in seeds:
            phase = make_phase(name, values, seed, resolve, f"phase.{name}")
            problems |= {id: problem for id, problem in phase.pool.items() if id not in seen}
        seen |= problems.keys()
        found.append(Pool(name, resolve(values.domain, f"phase.{name}.domain"), list(problems.values())))
    return found


def score_mistakes(wanted: ScoresSettings, domains: Mapping[str, Domain]) -> Iterator[str]:
    """Scores that there are not, or that the phases' domains do not allow; one line each. domains: by phase."""
    if not domains:
        yield "plan: it has no phase, so that there are no problems to score; name a plan, as in plan=guessable"
    of_runs = [name for name, score in SCORES.items() if HISTORY in score.needs]
    if wanted.history and not set(of_runs) & set(wanted.scores):
        yield f"history: {wanted.history!r} would be read by nothing; allowed with the scores {', '.join(of_runs)}"
    for place, name in enumerate(wanted.scores):
        if name not in SCORES:
            yield one_of(f"scores[{place}]", name, SCORES, "score")
        elif name in of_runs and not wanted.history:
            yield (
                f"scores[{place}]: {name} is read from a finished run; set history to its artifact audits.json, which "
                f"a run with difficulty.audit.every above 0 writes"
            )
        elif WORKED in SCORES[name].needs:
            for phase, domain in domains.items():
                if not isinstance(domain, WorkedDomain):
                    allowed = ", ".join(each for each, score in SCORES.items() if WORKED not in score.needs)
                    yield (
                        f"scores[{place}]: {name} trains on worked solutions, and {domain.key} of phase.{phase} has "
                        f"none; allowed: {allowed}"
                    )
    for phase, domain in domains.items():
        if wanted.format and wanted.format not in domain.formats:
            yield one_of("format", wanted.format, domain.formats, f"format of phase.{phase}")
