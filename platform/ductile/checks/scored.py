"""Static scores: whether the file can be read and holds the score that is named, before any work starts."""

from __future__ import annotations

from collections.abc import Iterator

from ductile.config import RunSettings
from ductile.difficulty.static import ScoreFile
from ductile.settings import SettingsError


def static_score_mistakes(settings: RunSettings) -> Iterator[str]:
    """`difficulty.scores` and `difficulty.score`; whether the file has the pools' problems, `make_plan` finds out."""
    if not settings.difficulty.scores:
        return
    try:
        ScoreFile.read(settings.difficulty)
    except SettingsError as error:
        yield from error.problems
