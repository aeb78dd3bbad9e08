"""One row for each plan and variant: what was kept, what was learned, how far the policy went, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ductile.report.text import NOTHING, TextTable, interval

_COLUMNS: tuple[tuple[str, str, int, float], ...] = (
    ("Prior skills\npass rate", "prior_after", 2, 1),
    ("New skill\npass rate", "newest_after", 2, 1),
    ("Plasticity\nRL, ratio", "branch_auc_ratio", 2, 1),
    ("Plasticity\nSFT, ratio", "branch_sft_auc_ratio", 2, 1),
    ("KL forward\nnats/token", "kl_forward_prior", 3, 1),
    ("KL reverse\nnats/token", "kl_reverse_prior", 3, 1),
    ("Formats\nentropy, nats", "entropy_prior_after", 2, 1),
    ("Training\nseconds", "training_s", 0, 1),
    ("Sampled\nthousand tokens", "sampled_tokens", 0, 1e-3),
    ("Forward passes\nthousand tokens", "forward_tokens", 0, 1e-3),
    ("Forward passes\na sampled token", "forward_per_token", 1, 1),
)
"""Head, measure, digits and scale of each column."""


def glance(summary: Mapping[str, Any]) -> TextTable:
    """The table; a row for each cell that has any of its numbers. summary: what `summarise` returned."""
    rows = []
    for cell in summary["cells"]:
        values = [interval(cell["measures"][name], digits, scale) for _, name, digits, scale in _COLUMNS]
        if any(value != NOTHING for value in values):
            rows.append((cell["plan"], cell["variant"], *values))
    return TextTable(
        "At a glance",
        ("Plan", "Variant", *(head for head, *_ in _COLUMNS)),
        tuple(rows),
        "After the last phase. New skill: the last phase's. Plasticity: area under the branch's curve over the fresh "
        "base's. KL to the base on prior-skill prompts. Seconds: RL steps alone. Forward passes: tokens sampled, "
        "prompts aside, to train on, times the models that each passed through; a sampled token: with updates and "
        "distillation, prompts of the updates included. ±: half of the 95% t interval over seeds.",
    )


def markdown(table: TextTable) -> str:
    """The table in Markdown, its note below it."""
    head = [name.replace("\n", "<br>") for name in table.columns]
    rule = ["---" if i < table.labels else "---:" for i in range(len(head))]
    lines = ["| " + " | ".join(row) + " |" for row in (head, rule, *table.rows)]
    return "\n".join(lines) + f"\n\n{table.note}\n"
