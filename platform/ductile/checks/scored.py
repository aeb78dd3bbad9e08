"""Static scores: whether the file can be read, what reads it, and whether its score means that, before any work."""

from __future__ import annotations

from collections.abc import Iterator

from ductile.config import RunSettings
from ductile.difficulty import ALL, STATIC
from ductile.difficulty.pruning import HARDNESS, UNREAD
from ductile.difficulty.static import ScoreFile
from ductile.settings import SettingsError


def static_score_mistakes(settings: RunSettings) -> Iterator[str]:
    """`difficulty.scores` and `difficulty.score`; whether the file has the pools' problems, `make_plan` finds out."""
    difficulty = settings.difficulty
    if not difficulty.scores:
        return
    keep, ordered = difficulty.prune.keep, difficulty.selection in STATIC
    if keep in UNREAD and not ordered:
        yield (
            f"difficulty.scores: {difficulty.scores!r} would be read by nothing; set difficulty.prune.keep to a rule "
            f"that reads scores, or difficulty.selection to one of {', '.join(STATIC)}, or leave it out"
        )
    if ordered and difficulty.offline and not {difficulty.estimator, *difficulty.shadows} & {"frozen", ALL}:
        yield (
            f"difficulty.offline: {difficulty.offline} completions of every problem would be read by nothing: "
            f"{difficulty.selection} goes by difficulty.scores; allowed: 0, or the estimator frozen (also in "
            f"difficulty.shadows)"
        )
    if ordered and settings.data.ladder:
        yield (
            f"data.ladder: {list(settings.data.ladder)}: jobs.scores scores no problems of easier levels, which "
            f"{difficulty.selection} by difficulty.scores would have to order; allowed: an empty list"
        )
    try:
        file = ScoreFile.read(difficulty)
    except SettingsError as error:
        yield from error.problems
        return
    readers = []
    if keep in HARDNESS:
        readers.append(f"difficulty.prune.keep ({keep})")
    if ordered:
        readers.append(f"difficulty.selection ({difficulty.selection})")
    if readers and not file.hard:
        hard = [name for name in file.scores if file.hardness[name]]
        yield (
            f"difficulty.score: a high {file.name} is not a hard problem, which {' and '.join(readers)} would take it "
            f"for; allowed: {', '.join(hard) or 'a score of hardness, which this file lacks'}; "
            f"difficulty.prune.keep=high keeps the highest of any score"
        )
