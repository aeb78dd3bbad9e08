"""How the policy answers: formats and their diversity, completion length, and answers given without the work.

Read off the same completions as retention. Diversity is the entropy H of a skill's format shares in nats, and exp(H),
the effective number of formats (Hill number of order 1). Echo Chamber (arXiv 2504.07912) follows the same shares, and
the pass rate within each format, over the first pass over the data. Length and shortcuts are averaged like pass rates:
over the completions of a cell, then over cells. A shortcut is of one of three kinds: no work, a repeated answer, or
skipped steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ductile.metrics import segment
from ductile.probes.base import ProbeContext, ProbeResult
from ductile.probes.evaluation import Cell, Outcomes, evaluate, macro_mean, present
from ductile.problem import OTHER, SHORTCUTS


class FormatsProbe:
    """`format/*` and `shortcut/*`."""

    name = "formats"
    version = 2

    def measure(self, context: ProbeContext) -> ProbeResult:
        measured = evaluate(context)
        rows = [row for skill in _by_skill(measured) for row in _format_rows(skill)]
        prior = [skill for skill in _by_skill(measured) if skill[0][0].kind == "prior"]
        shares = [share for skill in prior if (share := format_shares(_formats(skill)))]
        metrics: dict[str, float | None] = {
            f"format/{row['skill']}/{segment(row['format'])}": row["share"] for row in rows if row["kind"] == "prior"
        }
        metrics |= {
            f"format_pass_rate/{row['skill']}/{segment(row['format'])}": row["pass_rate"]
            for row in rows
            if row["kind"] == "prior"
        }
        metrics["format/entropy_prior"] = macro_mean([entropy(share) for share in shares])
        metrics["format/effective_prior"] = macro_mean([effective_formats(share) for share in shares])
        lengths = [_length_row(cell, outcome) for cell, outcome in measured]
        for kind in ("prior", "new"):
            of_kind = [row for row in lengths if row["kind"] == kind]
            metrics[f"format/length_{kind}"] = macro_mean([row["length_mean"] for row in of_kind])
            metrics[f"shortcut/{kind}"] = macro_mean([row["shortcut_share"] for row in of_kind])
            for name in SHORTCUTS:
                metrics[f"shortcut/{kind}/{name}"] = macro_mean([row[name] for row in of_kind])
        return ProbeResult(present(metrics), {"formats": rows, "lengths": lengths})


def format_shares(formats: Sequence[str]) -> dict[str, float]:
    """Format -> share of the completions; empty for no completions."""
    return {name: count / len(formats) for name, count in Counter(formats).items()}


def entropy(shares: Mapping[str, float]) -> float:
    """Entropy of the shares in nats, 0 for a single format."""
    return float(sum(-share * np.log(share) for share in shares.values() if share > 0))


def effective_formats(shares: Mapping[str, float]) -> float:
    """exp(entropy): how many equally common formats would be as diverse."""
    return float(np.exp(entropy(shares)))


Skill = list[tuple[Cell, Outcomes]]
"""The cells of one skill, one for each of its levels."""


def _by_skill(measured: Skill) -> list[Skill]:
    skills: dict[tuple[str, str], Skill] = {}
    for cell, outcome in measured:
        skills.setdefault((cell.kind, cell.skill), []).append((cell, outcome))
    return list(skills.values())


def _formats(skill: Skill) -> list[str]:
    return [name for _, outcome in skill for name in outcome.formats]


def _format_rows(skill: Skill) -> list[dict[str, Any]]:
    """A row for each format that the domain has, used or not, and one for completions in none of them."""
    cell = skill[0][0]
    formats = np.array(_formats(skill), np.str_)
    if not len(formats):
        return []
    passed = np.concatenate([outcome.passed for _, outcome in skill])
    shares = format_shares(formats.tolist())
    rows = []
    for name in dict.fromkeys([*cell.domain.formats, OTHER, *shares]):
        chosen = passed[formats == name]
        rows.append(
            {
                "kind": cell.kind,
                "skill": cell.skill,
                "format": name,
                "share": shares.get(name, 0.0),
                "completions": len(chosen),
                "pass_rate": float(chosen.mean()) if len(chosen) else None,
            }
        )
    return rows


def _length_row(cell: Cell, outcome: Outcomes) -> dict[str, Any]:
    some = len(outcome.length) > 0
    return {
        "kind": cell.kind,
        "skill": cell.skill,
        "level": cell.level,
        "completions": len(outcome.length),
        "length_mean": float(outcome.length.mean()) if some else None,
        "shortcut_share": float(np.mean([kind != "" for kind in outcome.shortcuts])) if some else None,
        **{name: outcome.shortcuts.count(name) / len(outcome.shortcuts) if some else None for name in SHORTCUTS},
        "truncated_share": float((~outcome.finished).mean()) if some else None,
    }
