"""The contexts that a run's problems are asked in, and how they evolve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ductile.contexts.context import Context
from ductile.plan import Phase
from ductile.ports import PolicyRef
from ductile.problem import JudgedGroup, Problem

Evolved = tuple[dict[str, float], dict[str, int]]
"""Metrics of a round of evolution, and what it spent by budget name."""


class ContextPool(Protocol):
    """Which contexts a step asks its problems in. Its calls run on rank 0; all ranks get what they return."""

    def start_phase(self, phase: Phase) -> None:
        """The phase that begins; contexts of domains met before are kept."""

    def evolve(self, policy: PolicyRef, phase: Phase, step: int, stream: str) -> Evolved:
        """Before each step: a round of evolution where one is due."""

    def ask(self, problems: Sequence[Problem], stream: str) -> list[Problem]:
        """Each problem in `variant.contexts` contexts, one after another; they share its `rollout.group_size`."""

    def observe(self, judged: Sequence[JudgedGroup]) -> None:
        """What came of it."""

    def deployed(self) -> Mapping[str, Context]:
        """Domain key -> the context that its problems are asked in outside of training."""

    def snapshot(self) -> Mapping[str, Any]:
        """Everything, as plain values that `restore` takes."""

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Become what `snapshot` returned."""


class NoContexts:
    """Every problem is asked as it is."""

    def start_phase(self, phase: Phase) -> None:
        """Nothing begins."""

    def evolve(self, policy: PolicyRef, phase: Phase, step: int, stream: str) -> Evolved:
        """Nothing evolves."""
        return {}, {}

    def ask(self, problems: Sequence[Problem], stream: str) -> list[Problem]:
        """The problems themselves."""
        return list(problems)

    def observe(self, judged: Sequence[JudgedGroup]) -> None:
        """Nothing is kept."""

    def deployed(self) -> Mapping[str, Context]:
        """None."""
        return {}

    def snapshot(self) -> Mapping[str, Any]:
        """Nothing."""
        return {}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Nothing was kept."""
