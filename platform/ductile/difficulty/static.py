"""Static scores by problem id, as `jobs.scores` writes them, and the static difficulty that follows from them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy  # its parts are imported where they are first used

from ductile.config import DifficultySettings
from ductile.settings import SettingsError, one_of

SCHEMA = 2
"""Raised when the file changes its shape."""


@dataclass(frozen=True)
class ScoreFile:
    """The file {"schema", "provenance", "hardness", "scores"}.

    provenance: what the scores depend on: model, seeds, steps, versions and the rest
    scores:     name of a score -> id of every problem of the pools -> number; NaN, null in the file: it is not known
    hardness:   name of a score -> whether high is hard
    named:      the one of them that is asked for; empty: the first
    """

    provenance: Mapping[str, Any]
    scores: Mapping[str, Mapping[str, float]]
    hardness: Mapping[str, bool]
    named: str = ""

    @classmethod
    def read(cls, settings: DifficultySettings) -> ScoreFile:
        """The file of a run; raises `SettingsError` when `scores` holds none or lacks the `score` that is named."""
        found = read_scores(settings.scores)
        if settings.score and settings.score not in found.scores:
            raise SettingsError([one_of("difficulty.score", settings.score, found.scores, "score")])
        return replace(found, named=settings.score)

    @property
    def name(self) -> str:
        """Of the score that is asked for."""
        return self.named or next(iter(self.scores))

    @property
    def score(self) -> Mapping[str, float]:
        """Problem id -> number or NaN, of the score that is asked for."""
        return self.scores[self.name]

    @property
    def hard(self) -> bool:
        """Whether a high value of the score that is asked for means a hard problem."""
        return self.hardness[self.name]

    def static_difficulty(self, ids: Sequence[str]) -> list[float]:
        """See `static_difficulty`, of the score that is asked for."""
        return static_difficulty(ids, self.score)

    def as_json(self) -> str:
        """What `read_scores` reads."""
        plain = {
            name: {id: None if math.isnan(value) else value for id, value in values.items()}
            for name, values in self.scores.items()
        }
        document = {
            "schema": SCHEMA,
            "provenance": dict(self.provenance),
            "hardness": {name: self.hardness[name] for name in plain},
            "scores": plain,
        }
        return json.dumps(document, indent=1, allow_nan=False)


def read_scores(file: str, path: str = "difficulty.scores") -> ScoreFile:
    """All scores in a file; raises `SettingsError` with one line that starts with `path` when it holds none."""
    try:
        document = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingsError([f"{path}: {file!r} cannot be read: {reason}; jobs.scores writes such a file"]) from error
    except ValueError as error:
        raise SettingsError([f"{path}: {file!r} is no JSON: {error}"]) from error
    wrong = _mistake(document)
    if wrong:
        raise SettingsError([f"{path}: {file!r} {wrong}; give a file that jobs.scores wrote"])
    scores = {
        name: {id: math.nan if value is None else float(value) for id, value in values.items()}
        for name, values in document["scores"].items()
    }
    return ScoreFile(document["provenance"], scores, document["hardness"])


def static_difficulty(ids: Sequence[str], score: Mapping[str, float]) -> list[float]:
    """Static difficulty of each problem in [0, 1], 1 the hardest: its rank among the ids that the score knows.

    score: problem id -> number, high is hard, or NaN. Equal scores share their mean rank, a single known problem has
    0.5, and NaN stands for what is not known. Scores of any scale become comparable this way; the distances between
    them are lost.
    """
    known = [place for place, id in enumerate(ids) if not math.isnan(score.get(id, math.nan))]
    found = np.full(len(ids), np.nan)
    if known:
        ranks = scipy.stats.rankdata([score[ids[place]] for place in known])
        found[known] = (ranks - 1) / (len(known) - 1) if len(known) > 1 else 0.5
    values: list[float] = found.tolist()
    return values


def _mistake(document: Any) -> str:
    """What is wrong with the document, or nothing."""
    if not isinstance(document, dict) or "schema" not in document:
        return "is no file of static scores"
    if document["schema"] != SCHEMA:
        return f"has schema {document['schema']!r}, not {SCHEMA}"
    scores, hardness = document.get("scores"), document.get("hardness")
    if not isinstance(document.get("provenance"), dict) or not isinstance(scores, dict) or not scores:
        return "has no provenance or no scores"
    for name, values in scores.items():
        if not isinstance(values, dict) or not all(map(_number, values.values())):
            return f"has something else than numbers by problem id in score {name!r}"
        if not isinstance(hardness, dict) or not isinstance(hardness.get(name), bool):
            return f"does not say by true or false in hardness whether a high {name} is hard"
    return ""


def _number(value: Any) -> bool:
    """A number, or null for what is not known."""
    if isinstance(value, bool):
        return False
    return value is None or (isinstance(value, int | float) and math.isfinite(value))
