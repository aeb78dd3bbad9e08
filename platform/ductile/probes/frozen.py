"""The frozen probe set: sequences that no policy of the run changes, for looking inside policies.

The base's own completions of prior, new and neutral prompts, as the drift probe samples them. All boundaries see the
same tokens, so that a difference in what a network does with them is the network's.
"""

from __future__ import annotations

from ductile.inspected import Rows
from ductile.probes.base import ProbeContext
from ductile.probes.evaluation import cells, interleaved


def frozen_rows(context: ProbeContext) -> Rows:
    """(prompt, completion) tokens, `probe.drift_problems` problems of each kind, none twice; empty without any."""
    chosen = [
        problem
        for kind in ("prior", "new", "neutral")
        for problem in interleaved(cells(context, kind), context.settings.drift_problems)
    ]
    problems = list({problem.id: problem for problem in chosen}.values())
    if not problems:
        return []
    groups = context.completions(problems, context.sampling(top_p=1.0), of=context.base)
    return [
        (group.prompt_tokens, completion.tokens)
        for group in groups
        for completion in group.completions
        if len(completion.tokens)
    ]
