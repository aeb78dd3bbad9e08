"""Any of reasoning-gym's data sets by name, with its own scorer; the level is that of its curriculum.

Level k is the curriculum with every attribute raised k times. A data set without a curriculum has level 0 alone, its
defaults. See https://github.com/open-thought/reasoning-gym (Stojanovski et al. 2025, arXiv 2505.24760).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ductile.domains.base import content_hash, domain_key, domain_label, require_level, split_of
from ductile.domains.free_text import ANSWER, WORKED, stated
from ductile.domains.timed import SCORER, LibraryError, NotAnswered
from ductile.problem import DIRECT, Problem, Split, Verdict
from ductile.settings import SettingsError, build, one_of, setting

PROMPT = "{question}\n\nWork it out step by step, then end with `" + ANSWER + "` and the final answer.\n"

ITEM_LIMIT_S = 120.0
"""For making one problem; a few data sets search for minutes at their highest levels."""

ITEMS_PER_SEED = 64
"""Problems that `gym_library` makes at one of its seeds."""


@dataclass(frozen=True)
class GymOptions:
    """Options of `gym`."""

    dataset: str = setting("", "name of the reasoning-gym data set")
    pass_score: float = setting(1.0, "lowest score of the data set's scorer that counts as right", above=0, high=1)
    timeout_s: float = setting(10.0, "longest time to score an answer; one that takes longer is not judged", above=0)


@dataclass(frozen=True)
class Gym:
    """A data set of reasoning-gym. `levels`: those that its settings accept."""

    options: GymOptions
    levels: tuple[int, ...]
    formats: tuple[str, ...] = (WORKED, DIRECT)

    @cached_property
    def key(self) -> str:
        """See `Domain.key`."""
        return domain_key("gym", self.options)

    def problems(self, level: int, split: Split, count: int, seed: int) -> list[Problem]:
        """See `Domain.problems`. Draws at most 500 problems more than 20 times the count.

        Raises RuntimeError when a problem takes longer than `ITEM_LIMIT_S` to make.
        """
        require_level(self, level)
        found: dict[str, Problem] = {}
        for source in self._sources(level, seed, draws=20 * count + 500):
            if len(found) >= count:
                break
            item = self._item(level, source)
            if item is not None and split_of(item["question"]) == split:
                problem = self._problem(item, level, split, source)
                found.setdefault(problem.id, problem)
        return list(found.values())

    def judge(self, problem: Problem, text: str) -> Verdict:
        """See `Domain.judge`. Without `Answer:` the reward is 0; after it, everything is the answer."""
        said = stated(text)
        reward, note = 0.0, ""
        if said.answer:
            try:
                score = self._call("score", problem.level, {**problem.data, "answer": said.answer})
            except NotAnswered as reason:
                return Verdict(None, said.format, said.shortcut_kind, said.answer, f"not judged: {reason}")
            reward, note = float(score >= self.options.pass_score), f"score {score:g}"
        return Verdict(reward, said.format, said.shortcut_kind, said.answer or None, note)

    def _sources(self, level: int, seed: int, draws: int) -> Iterator[dict[str, int]]:
        for draw in range(draws):
            block, index = divmod(draw, ITEMS_PER_SEED)
            yield {"seed": content_hash(f"{self.options.dataset} {level} {seed} {block}") % 2**31, "index": index}

    def _item(self, level: int, source: Mapping[str, int]) -> dict[str, str] | None:
        """Question, answer and fingerprint; None where the data set fails to make a problem, as it would again."""
        try:
            item: dict[str, str] = self._call("item", level, source)
        except LibraryError:
            return None
        except NotAnswered as reason:
            raise RuntimeError(f"{self.key}: no problem of level {level} could be made: {reason}") from None
        return item

    def _problem(self, item: Mapping[str, str], level: int, split: Split, source: Mapping[str, int]) -> Problem:
        return Problem(
            id=f"{domain_label('gym', self.options)}/L{level}/{split}/{item['fingerprint']}",
            domain=self.key,
            level=level,
            prompt=PROMPT.replace("{question}", item["question"]),
            answer=item["answer"],
            data={**source, "fingerprint": item["fingerprint"]},
        )

    def _call(self, function: str, level: int, arguments: Mapping[str, Any]) -> Any:
        values = {"dataset": self.options.dataset, "level": level, **arguments}
        return SCORER.call("gym", function, values, self.options.timeout_s if function == "score" else ITEM_LIMIT_S)


def make(values: Mapping[str, Any], path: str) -> Gym:
    """The domain of these options; raises `SettingsError`, also when reasoning-gym does not load."""
    options = build(GymOptions, values, path)
    try:
        names = SCORER.call("gym", "names", {}, ITEM_LIMIT_S)
        if options.dataset not in names:
            raise SettingsError([one_of(f"{path}.dataset", options.dataset, names, "data set")])
        levels = SCORER.call("gym", "levels", {"dataset": options.dataset}, ITEM_LIMIT_S)
    except NotAnswered as reason:
        line = f"{path}.dataset: reasoning-gym could not be asked about {options.dataset!r}: {reason}"
        raise SettingsError([line]) from None
    return Gym(options, tuple(levels))
