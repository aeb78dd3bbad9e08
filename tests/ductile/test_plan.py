"""Phases draw their pools evenly over levels, and the check names every mistake before anything starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ductile.checks import check
from ductile.config import (
    BranchSettings,
    DataSettings,
    HeuristicsSettings,
    MixtureSettings,
    ModelSettings,
    ObjectiveSettings,
    PhaseSettings,
    ProbeSettings,
    RolloutSettings,
    RunSettings,
    SelfConditioningSettings,
    SkillSettings,
    VariantSettings,
)
from ductile.domains import jsonl, make_domain
from ductile.plan import make_phase, make_plan, require_problems
from ductile.settings import SettingsError, build

SUMS = {"name": "chain_sum"}
WORDS = {"name": "strings", "operation": "reverse"}
PHASE = PhaseSettings(domain=SUMS, levels=(4, 6, 8), steps=5, pool=20)
SETTINGS = RunSettings(
    plan="medium",
    phase={"first": PHASE, "second": replace(PHASE, levels=(12,), steps=7)},
    probe=ProbeSettings(
        prior={"words": SkillSettings(WORDS, (3,))}, branch=BranchSettings(domain={"name": "sort_digits"}, levels=(4,))
    ),
)


def test_each_level_has_its_share_of_the_pool() -> None:
    phase = make_phase("p", PHASE, 0, make_domain, "phase.p")
    assert Counter(problem.level for problem in phase.pool.values()) == {4: 7, 6: 7, 8: 6}
    assert all(id == problem.id for id, problem in phase.pool.items())


def test_pool_smaller_than_the_levels_leaves_the_last_ones_out() -> None:
    phase = make_phase("p", replace(PHASE, pool=2), 0, make_domain, "phase.p")
    assert [problem.level for problem in phase.pool.values()] == [4, 6]


def test_pool_holds_no_evaluation_problem() -> None:
    phase = make_phase("p", replace(PHASE, pool=300), 0, make_domain, "phase.p")
    asked = {problem.id for level in PHASE.levels for problem in phase.domain.problems(level, "eval", 300, 0)}
    assert phase.pool and not asked & set(phase.pool)


def test_pool_depends_on_the_seed_alone() -> None:
    def ids(seed: int) -> list[str]:
        return list(make_phase("p", PHASE, seed, make_domain, "phase.p").pool)

    assert ids(1) == ids(1) != ids(2)


def test_phases_keep_the_order_of_the_settings() -> None:
    plan = make_plan(SETTINGS, make_domain)
    assert [phase.name for phase in plan.phases] == ["first", "second"]
    assert (plan.name, plan.steps) == ("medium", 12)


def test_domains_are_resolved_at_the_path_of_their_setting() -> None:
    paths = []

    def resolve(values: Mapping[str, Any], path: str) -> Any:
        paths.append(path)
        return make_domain(values, path)

    make_plan(SETTINGS, resolve)
    assert paths == ["phase.first.domain", "phase.second.domain"]


def test_settings_without_mistakes_pass() -> None:
    assert check(SETTINGS) == []
    assert check(RunSettings()) == []


def changed(**parts: Any) -> list[str]:
    return check(replace(SETTINGS, **parts))


def test_unknown_probe_is_named_by_its_place() -> None:
    [line] = changed(probe=replace(SETTINGS.probe, probes=("retention", "drit")))
    assert line.startswith("probe.probes[1]: unknown probe 'drit'; allowed: all, alphas, branch, channels, diversity, ")
    assert line.endswith("(did you mean drift?)")


def test_every_place_that_names_a_domain_is_checked_at_once() -> None:
    wrong = {"name": "chain_sums"}
    skill = SkillSettings(wrong, (4,))
    lines = check(
        RunSettings(
            phase={"hard": PhaseSettings(domain=wrong, levels=(4,))},
            probe=ProbeSettings(
                prior={"a": skill},
                neutral={"b": skill},
                shift={"c": skill},
                branch=BranchSettings(domain=wrong, levels=(4,)),
            ),
            model=ModelSettings(mixture={"m": MixtureSettings(domain=wrong, levels=(4,))}),
        )
    )
    assert [line.split(".name: ")[0] for line in lines] == [
        "phase.hard.domain",
        "probe.prior.a.domain",
        "probe.neutral.b.domain",
        "probe.shift.c.domain",
        "probe.branch.domain",
        "model.mixture.m.domain",
    ]
    assert all("unknown domain 'chain_sums'" in line and "did you mean chain_sum?" in line for line in lines)


def test_mixture_is_not_checked_when_the_base_is_a_folder() -> None:
    model = ModelSettings(path="somewhere", mixture={"m": MixtureSettings(domain={"name": "none"})})
    assert changed(model=model) == []


def test_level_that_the_domain_lacks_is_named_by_its_place() -> None:
    [line] = changed(phase={"hard": replace(PHASE, levels=(4, 0))})
    assert line.startswith("phase.hard.levels[1]: 0 is not a level of chain_sum")


def test_empty_list_of_levels_is_a_mistake() -> None:
    [line] = changed(phase={"hard": replace(PHASE, levels=())})
    assert line == "phase.hard.levels: the list is empty; name at least one level"


@pytest.mark.parametrize("options", [{}, {"lenient": True}, {"label_noise": 0.2}])
def test_branch_on_a_domain_of_the_plan_is_a_mistake(options: dict[str, Any]) -> None:
    [line] = changed(
        phase={"hard": replace(PHASE, domain={**SUMS, **options})},
        probe=replace(SETTINGS.probe, branch=BranchSettings(domain=SUMS, levels=(4,))),
    )
    assert line.startswith("probe.branch.domain: chain_sum") and "is also asked in phase.hard" in line


def test_domain_of_a_branch_that_no_boundary_runs_may_be_a_phases() -> None:
    probe = replace(SETTINGS.probe, probes=("drift",), branch=BranchSettings(domain=SUMS, levels=(4,)))
    assert changed(phase={"hard": replace(PHASE, domain=SUMS)}, probe=probe) == []
    [line] = changed(phase={"hard": replace(PHASE, domain=SUMS, probes=("all",))}, probe=probe)
    assert "is also asked in phase.hard" in line


def test_empty_branch_is_no_mistake() -> None:
    assert changed(probe=replace(SETTINGS.probe, branch=BranchSettings())) == []


def test_pool_that_a_step_would_ask_twice_is_a_mistake() -> None:
    branch = replace(SETTINGS.probe.branch, pool=7)
    lines = changed(phase={"hard": replace(PHASE, pool=15)}, probe=replace(SETTINGS.probe, branch=branch))
    assert [line.split(":")[0] for line in lines] == ["phase.hard.pool", "probe.branch.pool"]
    assert lines[0].startswith("phase.hard.pool: 15 is less than rollout.groups (16)")
    assert lines[0].endswith("allowed: at least 16")
    assert changed(phase={"hard": replace(PHASE, pool=16)}) == []


def test_pool_of_a_branch_that_is_not_run_does_not_matter() -> None:
    assert changed(probe=replace(SETTINGS.probe, branch=BranchSettings(pool=1))) == []


def test_too_few_problems_for_a_step_are_counted_by_level() -> None:
    phase = make_phase("p", replace(PHASE, levels=(4, 6), pool=5), 0, make_domain, "phase.p")
    require_problems(phase, 5, "phase.p")
    with pytest.raises(SettingsError) as caught:
        require_problems(phase, 6, "phase.p")
    [line] = caught.value.problems
    assert line.startswith("phase.p: the train split of chain_sum")
    assert "gives 5 different problems (3 at level 4, 2 at level 6), but rollout.groups is 6" in line


LADDER = replace(SETTINGS, data=DataSettings(ladder=(2, 3, 5)))


def test_each_phase_climbs_the_levels_that_lie_below_its_own() -> None:
    first, second = make_plan(replace(LADDER, rollout=RolloutSettings(groups=8)), make_domain).phases
    assert [{problem.level for problem in rung.values()} for rung in first.rungs] == [{2}, {3}]
    assert [{problem.level for problem in rung.values()} for rung in second.rungs] == [{2}, {3}, {5}]
    assert {len(rung) for rung in (*first.rungs, *second.rungs)} == {20}  # as many as the phase's own
    plain = make_plan(SETTINGS, make_domain).phases
    assert [phase.rungs for phase in plain] == [(), ()] and first.pool == plain[0].pool


def test_rung_with_too_few_problems_is_refused() -> None:
    bits = {"name": "chain_sum", "modulus": 2, "guess_space": 2}
    settings = replace(LADDER, phase={"bits": replace(PHASE, domain=bits, levels=(12,))})
    with pytest.raises(SettingsError, match=r"^phase\.bits: the train split .*at level 2\), but rollout.groups is 16"):
        make_plan(settings, make_domain)


def data_lines(phase: Mapping[str, PhaseSettings] = SETTINGS.phase, **data: Any) -> list[str]:
    return changed(phase=phase, data=DataSettings(**data))


ONE = {"first": PHASE}
SKILLS = {"words": SkillSettings(WORDS, (5,))}


def test_replay_needs_something_to_replay_in_some_phase() -> None:
    (line,) = data_lines(ONE, replay=0.25)
    assert line.startswith("data.replay: 0.25: there is nothing to replay in any phase; name skills in data.prior")
    assert data_lines(replay=0.25) == data_lines(ONE, replay=0.25, prior=SKILLS) == data_lines({}, replay=0.25) == []


def test_replay_leaves_something_of_every_step_to_the_phase() -> None:
    (line,) = data_lines(replay=0.95)
    assert line.startswith("data.replay: 0.95 of rollout.groups=16 can leave none")
    assert line.endswith("allowed: at most 0.9375")
    assert data_lines(replay=0.9375) == []


def test_prior_skills_are_checked_as_those_of_the_probes_are() -> None:
    wrong = {"a": SkillSettings({"name": "chain_sums"}, (4,)), "b": SkillSettings(WORDS, (1, 3, 3))}
    lines = data_lines(prior=wrong)
    assert [line.split(": ")[0] for line in lines] == [
        "data.prior.a.domain.name",
        "data.prior.b.levels",
        "data.prior.b.levels[0]",
    ]
    (line,) = data_lines(prior=dict.fromkeys(("a b", "a_b"), SKILLS["words"]))
    assert line == "data.prior.a_b: it and data.prior.a b are both 'a_b' in metric names; rename one"


def test_domain_of_the_branch_is_not_replayed() -> None:
    prior = {"sorting": SkillSettings({"name": "sort_digits"}, (4,))}
    (line,) = data_lines(prior=prior, replay=0.25)
    assert line.startswith("data.prior.sorting.domain: sort_digits(") and "is also the domain of probe.branch" in line
    assert data_lines(prior=prior) == []


def test_hints_need_worked_solutions(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"question": "{n}?", "answer": "{n}"}}\n' for n in range(40)))
    rows = {"name": "jsonl", "path": str(tmp_path / "rows.jsonl")}
    (line,) = data_lines({**ONE, "rows": PhaseSettings(domain=rows, levels=(1,), pool=16)}, hint=0.5)
    assert line.startswith("data.hint: jsonl(") and "of phase.rows has no worked solutions" in line
    assert data_lines(hint=0.5) == []


def test_ladder_level_that_no_phase_can_climb_is_a_mistake() -> None:
    (line,) = data_lines(ladder=(1, 3, 5, 12))
    assert line == (
        "data.ladder: [1, 12]: no phase's domain has them below the phase's own; "
        "allowed: 2 to 3 in phase.first; 2 to 11 in phase.second"
    )
    assert data_lines(ladder=(3, 5)) == data_lines({}, ladder=(1,)) == []


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"replay": 0.6, "review": 0.5}, "data.replay: 0.6 and review (0.5) together are more than the whole step"),
        ({"hint": 0.2, "hint_end": 0.5}, "data.hint_end: 0.5 is more than hint (0.2): hints fall (did you swap them?)"),
        ({"hint_steps": 5}, "data.hint_steps: 5 is never read: hint is 0; set hint, or leave hint_steps out"),
        ({"ladder": [4, 2]}, "data.ladder: [4, 2] must rise from one level to the next"),
        ({"ladder": [2, 2]}, "data.ladder: [2, 2] must rise from one level to the next"),
    ],
)
def test_data_settings_that_contradict_each_other_are_a_mistake(data: dict[str, Any], line: str) -> None:
    with pytest.raises(SettingsError) as caught:
        build(RunSettings, {"data": data})
    assert caught.value.problems == (line,)


def test_level_listed_twice_is_a_mistake() -> None:
    lines = changed(
        phase={"hard": replace(PHASE, levels=(4, 6, 4))},
        probe=replace(SETTINGS.probe, prior={"words": SkillSettings(WORDS, (3, 3))}),
    )
    assert [line.split(" is listed")[0] for line in lines] == ["phase.hard.levels: 4", "probe.prior.words.levels: 3"]


@pytest.mark.parametrize("group", ["phase", "prior", "neutral", "shift"])
def test_names_that_would_write_to_the_same_metrics_are_a_mistake(group: str) -> None:
    names = ("a b", "a_b", "a c")
    if group == "phase":
        [line] = changed(phase=dict.fromkeys(names, PHASE))
        assert line == "phase.a_b: it and phase.a b are both 'a_b' in metric names; rename one"
    else:
        [line] = changed(probe=replace(SETTINGS.probe, **{group: dict.fromkeys(names, SkillSettings(WORDS, (3,)))}))
        assert line.startswith(f"probe.{group}.a_b: it and probe.{group}.a b")


def test_same_name_in_two_groups_is_no_mistake() -> None:
    skills = {"first": SkillSettings(WORDS, (3,))}
    assert changed(probe=replace(SETTINGS.probe, prior=skills, neutral=skills)) == []


@pytest.mark.parametrize(
    ("formats", "line"),
    [
        (
            {"trace": 0.5, "runing": 0.5},
            "model.mixture.m.formats.runing: unknown format 'runing'; allowed: direct, running, trace "
            "(did you mean running?)",
        ),
        ({}, "model.mixture.m.formats: {} gives no format a share; give at least one of: running, trace, direct"),
        (
            {"trace": 0.0},
            "model.mixture.m.formats: {'trace': 0.0} gives no format a share; give at least one of: "
            "running, trace, direct",
        ),
    ],
)
def test_formats_that_the_domain_cannot_write_are_a_mistake(formats: dict[str, float], line: str) -> None:
    mixture = {"m": MixtureSettings(domain=SUMS, levels=(4,), formats=formats)}
    assert changed(model=ModelSettings(mixture=mixture)) == [line]


def test_base_is_trained_on_worked_solutions_alone(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n')
    rows = {"name": "jsonl", "path": str(tmp_path / "rows.jsonl")}
    mixture = {"m": MixtureSettings(domain=rows, formats={"direct": 1.0})}
    [line] = changed(model=ModelSettings(mixture=mixture))
    assert line.startswith("model.mixture.m.domain: jsonl(") and "has no worked solutions" in line


def test_probes_are_checked_at_every_place_that_names_them() -> None:
    probe = replace(SETTINGS.probe, probes=("all",), start=("drit",), inside=("retention", "branch", "all", "x"))
    lines = changed(probe=probe, phase={"hard": replace(PHASE, probes=("formats", "nothing"))})
    assert [line.split(": ")[0] for line in lines] == [
        "probe.start[0]",
        "probe.inside[1]",
        "probe.inside[2]",
        "probe.inside[3]",
        "phase.hard.probes[1]",
    ]
    assert "'all': the branch probe runs at boundaries only; allowed: alphas, channels, diversity, drift, " in lines[2]


def test_optimizer_of_several_workers_can_be_carried_into_a_branch_beside_the_run() -> None:
    branch = replace(SETTINGS.probe.branch, optimizers=("reset", "carried"), beside=True)
    learner = replace(SETTINGS.learner, workers=2)
    assert changed(probe=replace(SETTINGS.probe, branch=branch), learner=learner) == []


def test_supervised_branch_needs_something_to_imitate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"question": "{n}?", "answer": "{n}"}}\n' for n in range(40)))
    branch = replace(SETTINGS.probe.branch, domain={"name": "jsonl", "path": str(tmp_path / "rows.jsonl")}, levels=(1,))
    probe = replace(SETTINGS.probe, branch=branch)
    assert changed(probe=probe) == []
    problems = jsonl.Jsonl.problems
    monkeypatch.setattr(
        jsonl.Jsonl, "problems", lambda *arguments: [replace(each, answer=" ") for each in problems(*arguments)]
    )
    [line] = changed(probe=probe)
    assert line.startswith("probe.branch.modes: sft needs something to imitate, but jsonl(")
    assert changed(probe=replace(probe, branch=replace(branch, modes=("rl",)))) == []


def lines_of_probes(**groups: Any) -> list[str]:
    return changed(probe=replace(SETTINGS.probe, **groups))


def test_domains_of_the_probes_that_need_more_of_one_are_of_the_right_kind() -> None:
    turns = SelfConditioningSettings({"name": "running_sum"})
    pairs = HeuristicsSettings({"name": "heuristic"})
    assert lines_of_probes(self_conditioning=turns, heuristics=pairs) == []
    (line,) = lines_of_probes(self_conditioning=replace(turns, domain={"name": "chain_sum"}))
    assert line.startswith("probe.self_conditioning.domain: chain_sum(")
    assert line.endswith("has no turns to ask one after another; allowed: running_sum")
    (line,) = lines_of_probes(heuristics=replace(pairs, domain={"name": "chain_sum"}))
    assert line.startswith("probe.heuristics.domain: chain_sum(")
    assert line.endswith("has no cue and constraint to take away; allowed: heuristic")


def test_turns_and_levels_that_these_probes_cannot_ask_are_named() -> None:
    turns = SelfConditioningSettings({"name": "running_sum"}, turns=41, injected_turn=99)
    assert lines_of_probes(self_conditioning=turns) == [
        "probe.self_conditioning.turns: 41 turns are too many; allowed: 1 to 40",
        "probe.self_conditioning.injected_turn: 99 turns are too many; allowed: 1 to 40",
    ]
    pairs = HeuristicsSettings({"name": "heuristic"}, levels=(1, 4))
    (line,) = lines_of_probes(heuristics=pairs)
    assert line.startswith("probe.heuristics.levels[1]: 4 is not a level of heuristic(")
    (line,) = lines_of_probes(heuristics=replace(pairs, levels=()))
    assert line == "probe.heuristics.levels: the list is empty; name at least one level"
    (line,) = lines_of_probes(heuristics=replace(pairs, domain={"name": "heuristics"}))
    assert line.startswith("probe.heuristics.domain.name: unknown domain 'heuristics'")


def test_more_successes_than_a_group_has_are_refused() -> None:
    objective = ObjectiveSettings(min_successes=9)
    (line,) = check(replace(SETTINGS, objective=objective))
    assert line.startswith("objective.min_successes: 9: a group has 8 completions")
    assert check(replace(SETTINGS, objective=replace(objective, min_successes=8))) == []


def test_refill_needs_problems_that_a_step_has_not_asked() -> None:
    settings = replace(SETTINGS, objective=ObjectiveSettings(dynamic_sampling="refill"))
    assert check(settings) == []
    whole = replace(settings, phase={"first": replace(PHASE, pool=16)})
    (line,) = check(whole)
    assert line.startswith("phase.first.pool: 16 problems are asked in every step") and "more than 16" in line
    assert check(replace(whole, objective=ObjectiveSettings())) == []


def test_expert_iteration_refuses_what_only_a_policy_gradient_reads() -> None:
    settings = replace(SETTINGS, variant=VariantSettings("expert_iteration"))
    (line,) = check(settings)
    assert line.startswith("objective.advantage: std: expert_iteration") and "allowed: psr" in line
    objective = ObjectiveSettings(advantage="psr", length_norm="completion")
    assert check(replace(settings, objective=objective)) == []
    objective = replace(objective, entropy=0.1, clip_high=0.28, dynamic_sampling="refill")
    lines = check(replace(settings, objective=objective))
    assert {line.partition(":")[0] for line in lines} == {
        "objective.entropy",
        "objective.clip_high",
        "objective.dynamic_sampling",
    }


@pytest.mark.parametrize(
    ("parts", "path"),
    [
        ({"learner": {"lora": {"switch": "merge"}}}, "learner.lora.switch"),
        ({"learner": {"lora": {"rank": 2}}, "switch": {"redo": 0.1}}, "switch.redo"),
        ({"learner": {"lora": {"rank": 2}}, "switch": {"utility_reset": 0.1}}, "switch.utility_reset"),
        ({"learner": {"lora": {"rank": 2}}, "variant": {"l2_init": 1.0}}, "variant.l2_init"),
        ({"learner": {"lora": {"rank": 2}}, "variant": {"fast_rank": 2}}, "learner.lora.rank"),
        ({"variant": {"fast_rank": 2}, "switch": {"fusion": 0.5}}, "switch.fusion"),
        (
            {"learner": {"lora": {"rank": 2, "switch": "reset"}}, "variant": {"memory": "sum", "name": "proxy"}},
            "learner.lora.switch",
        ),
    ],
)
def test_adapters_that_could_not_do_what_is_asked_are_a_mistake(parts: dict[str, Any], path: str) -> None:
    found = check(build(RunSettings, parts))
    assert [line.partition(": ")[0] for line in found] == [path]
