"""The judge: gives every completion its verdict, through the domain that asked the problem."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ductile.domains import make_domain
from ductile.domains.base import Domain
from ductile.problem import Group, JudgedGroup, Verdict


class LocalJudge:
    """Judges in this process. It knows the domains that were made through it, by key."""

    def __init__(self) -> None:
        self._domains: dict[str, Domain] = {}

    def domain(self, values: Mapping[str, Any], path: str = "domain") -> Domain:
        """The domain of these settings, made once; raises `SettingsError` that starts with `path`."""
        domain = make_domain(values, path)
        return self._domains.setdefault(domain.key, domain)

    def judge(self, groups: Sequence[Group]) -> list[JudgedGroup]:
        """One verdict per completion; where it could not be judged, or its reward is no number, the reward is None."""
        judged = []
        for group in groups:
            domain = self._domains[group.problem.domain]
            verdicts = tuple(
                _finite(domain.judge(group.problem, group.problem.hint + completion.text))
                for completion in group.completions
            )
            judged.append(JudgedGroup(group, verdicts))
        return judged


def _finite(verdict: Verdict) -> Verdict:
    """The verdict itself, or unjudged: a NaN would count as wrong in some means and spoil the others."""
    if verdict.reward is None or math.isfinite(verdict.reward):
        return verdict
    return replace(verdict, reward=None, note=f"reward {verdict.reward}: not judged")
