"""Replay asks its share, each source as often, nothing of the phase itself, and the same for the same step."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from ductile.config import DataSettings, PhaseSettings, RolloutSettings, RunSettings, SkillSettings
from ductile.course.quota import quota
from ductile.course.replay import Replay, make_replay
from ductile.domains import make_domain
from ductile.plan import make_phase
from tests.ductile.course.asking import numbered

SOURCES = (list(numbered("a", 9).values()), list(numbered("b", 9).values()))


def test_quota_is_the_share_over_steps_in_whole_problems() -> None:
    assert [quota(0.1, 16, step) for step in range(5)] == [1, 2, 1, 2, 2]  # 1.6, 3.2, 4.8, 6.4, 8.0
    assert [quota(0.25, 16, step) for step in range(3)] == [4, 4, 4]
    assert sum(quota(0.1, 30, step) for step in range(1000)) == 3000  # 0.1 is not a binary fraction
    assert quota(0.0, 16, 3) == 0


def test_each_source_is_asked_as_often() -> None:
    replay = Replay(0.5, 6, 0, SOURCES)  # 3 a step, from 2 sources: 2 and 1, then 1 and 2
    asked = [Counter(problem.id[0] for problem in replay.ask(step, seed=0)) for step in range(4)]
    assert asked == [{"a": 2, "b": 1}, {"b": 2, "a": 1}] * 2


def test_problems_depend_on_seed_phase_and_step_alone() -> None:
    def ids(step: int, seed: int, phase: int) -> list[str]:
        return [problem.id for problem in Replay(0.5, 8, phase, SOURCES).ask(step, seed)]

    assert ids(3, 1, 0) == ids(3, 1, 0)
    assert len({tuple(ids(*key)) for key in ((3, 1, 0), (4, 1, 0), (3, 2, 0), (3, 1, 1))}) == 4


def test_no_problem_twice_and_a_short_source_is_made_up_by_the_others() -> None:
    short, shared = list(numbered("a", 2).values()), [*numbered("b", 5).values(), *numbered("a", 2).values()]
    asked = [problem.id for problem in Replay(1.0, 6, 0, (short, shared)).ask(0, seed=0)]
    assert len(asked) == len(set(asked)) == 6
    assert len(Replay(1.0, 9, 0, (short, shared)).ask(0, seed=0)) == 7  # all there are


def test_nothing_to_replay_asks_nothing() -> None:
    assert Replay(0.5, 8).ask(0, seed=0) == []
    assert Replay(0.0, 8, 0, SOURCES).ask(0, seed=0) == []


def test_sources_are_prior_skills_of_the_train_split_and_earlier_phases_without_the_phases_own() -> None:
    sums, words = {"name": "chain_sum"}, {"name": "strings", "operation": "reverse"}
    data = DataSettings(prior={"sum": SkillSettings(sums, (4, 6)), "words": SkillSettings(words, (5,))}, replay=0.5)
    settings = RunSettings(data=data, rollout=RolloutSettings(groups=4))
    first, second = (
        make_phase(name, PhaseSettings(domain=sums, levels=levels, pool=20), 0, make_domain, f"phase.{name}")
        for name, levels in (("first", (8,)), ("second", (4,)))
    )
    rung = {problem.id: problem for problem in first.domain.problems(6, "train", 5, 0)}
    replay = make_replay(settings, replace(second, rungs=(rung,)), [first], make_domain)
    assert replay.phase == 1
    prior, reverse, earlier = ({problem.id for problem in source} for source in replay.sources)
    assert earlier == set(first.pool)
    assert reverse == {p.id for p in make_domain(words, "w").problems(5, "train", 20, 0)}
    # of the 10 sums of level 4 and the 10 of level 6, those that neither the phase nor its rung asks
    assert prior == {p.id for p in first.domain.problems(6, "train", 10, 0)[5:]}
    assert make_replay(replace(settings, data=replace(data, replay=0.0)), second, [first], make_domain) == Replay()
