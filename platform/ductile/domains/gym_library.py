"""reasoning-gym, as the scoring process calls it: problems by number, levels and scores.

A problem is made again wherever it is scored, from its data set, level, seed and index, since some scorers compare
tuples and other values that JSON would change. `fingerprint` of the question guards against another version's problem.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from reasoning_gym.coaching.base_curriculum import BaseCurriculum
from reasoning_gym.composite import CompositeDataset
from reasoning_gym.dataset import ProceduralDataset
from reasoning_gym.factory import DATASETS, create_curriculum, has_curriculum

from ductile.domains.base import content_hash

SIZE = 64
"""Problems of a data set at one seed. Small, since a few data sets make all of theirs at once."""


def names() -> list[str]:
    """The data sets; not the composite one, which has no problems of its own."""
    return sorted(name for name, (cls, _) in DATASETS.items() if not issubclass(cls, CompositeDataset))


def levels(dataset: str) -> list[int]:
    """The curriculum's levels that the data set accepts; 0 alone, the data set's defaults, where there is none."""
    return list(_curriculum_levels(dataset)) or [0]


def item(dataset: str, level: int, seed: int, index: int) -> dict[str, str]:
    """Question, fingerprint, and the answer, empty where many are right and the data set gives none."""
    entry = _entry(dataset, level, seed, index)
    question, answer = str(entry["question"]), entry["answer"]
    return {
        "question": question,
        "answer": "" if answer is None else str(answer),
        "fingerprint": fingerprint_of(question),
    }


def score(dataset: str, level: int, seed: int, index: int, fingerprint: str, answer: str) -> float:
    """The data set's own score of an answer, in [0, 1]; raises ValueError when the problem is another one here."""
    entry = _entry(dataset, level, seed, index)
    if fingerprint_of(entry["question"]) != fingerprint:
        raise ValueError("the installed reasoning-gym makes another problem; is it another version?")
    return float(_dataset(dataset, level, seed).score_answer(answer, entry))


def fingerprint_of(question: str) -> str:
    """16 hexadecimal digits that depend on the question alone."""
    return f"{content_hash(question):016x}"


@lru_cache(maxsize=4096)
def _entry(dataset: str, level: int, seed: int, index: int) -> Any:
    return _dataset(dataset, level, seed)[index]


@lru_cache(maxsize=64)
def _dataset(name: str, level: int, seed: int) -> ProceduralDataset:
    if _curriculum_levels(name):
        return _at_level(name, level, seed)
    cls, settings = DATASETS[name]
    return cls(settings(seed=seed, size=SIZE))


@lru_cache(maxsize=256)
def _curriculum_levels(name: str) -> tuple[int, ...]:
    if not has_curriculum(name):
        return ()
    curriculum = create_curriculum(name)
    steps = max((_rises(curriculum, attribute) for attribute in curriculum.attributes), default=0)
    return tuple(level for level in range(steps + 1) if _accepted(name, level))


def _rises(curriculum: BaseCurriculum, attribute: str) -> int:
    return len(curriculum.get_attribute(attribute).levels) - 1 - curriculum.get_attr_level(attribute)


def _accepted(name: str, level: int) -> bool:
    try:
        _at_level(name, level, seed=0)
    except (
        AssertionError,
        ValueError,
    ):  # how the data sets refuse settings that a curriculum offers
        return False
    return True


def _at_level(name: str, level: int, seed: int) -> ProceduralDataset:
    """Every attribute of the curriculum raised `level` times from its default, those that end before at their end."""
    curriculum = create_curriculum(name)
    for attribute in curriculum.attributes:
        for _ in range(level):
            curriculum.increment_attr_level(attribute)
    return DATASETS[name][0](curriculum.generate_configuration({"seed": seed, "size": SIZE}))
