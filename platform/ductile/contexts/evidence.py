"""What the policy has shown of a domain in the present phase: how each format did, and answers of its own to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ductile.problem import OTHER, SUCCESS, JudgedGroup, Problem

KEPT = 8
"""Right answers kept of each format: the shortest, since a context has little room."""

Example = tuple[str, str]
"""What was asked, and a right answer with the newline that ends a turn."""


@dataclass
class Evidence:
    """formats: format -> (successes, judged completions). examples: format -> right answers, the shortest first."""

    formats: dict[str, tuple[int, int]] = field(default_factory=dict)
    examples: dict[str, list[Example]] = field(default_factory=dict)

    def observe(self, problem: Problem, judged: JudgedGroup) -> None:
        """Count a group's completions. problem: as it is asked without a context."""
        for completion, verdict in zip(judged.group.completions, judged.verdicts, strict=True):
            if verdict.reward is None or verdict.format == OTHER:
                continue
            right = verdict.reward > SUCCESS
            passed, count = self.formats.get(verdict.format, (0, 0))
            self.formats[verdict.format] = (passed + right, count + 1)
            if right and completion.finished:
                self._keep(verdict.format, (problem.transcript, completion.text + "\n"))

    def _keep(self, format: str, example: Example) -> None:
        kept = {asked: (asked, answered) for asked, answered in [*self.examples.get(format, []), example]}
        ordered = sorted(kept.values(), key=lambda pair: (len(pair[0]) + len(pair[1]), pair))
        self.examples[format] = ordered[:KEPT]

    def snapshot(self) -> dict[str, Any]:
        """Plain values that `restored_evidence` takes."""
        return {
            "formats": {name: list(counts) for name, counts in self.formats.items()},
            "examples": {name: [list(pair) for pair in pairs] for name, pairs in self.examples.items()},
        }


def restored_evidence(snapshot: Mapping[str, Mapping[str, Sequence[Any]]]) -> Evidence:
    """What `Evidence.snapshot` returned, as it was."""
    formats = {name: (int(counts[0]), int(counts[1])) for name, counts in snapshot["formats"].items()}
    examples = {name: [(pair[0], pair[1]) for pair in pairs] for name, pairs in snapshot["examples"].items()}
    return Evidence(formats, examples)
