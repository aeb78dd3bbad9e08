"""What all probes share: fixed problems, honest domains, completions sampled and judged once."""

from __future__ import annotations

import numpy as np

from ductile.config import PhaseSettings, ProbeSettings, SkillSettings
from ductile.probes import run_probes
from ductile.probes.evaluation import Cell, cells, interleaved, macro_mean, outcomes, present
from ductile.problem import NO_WORK, Completion, Group, JudgedGroup, Problem
from tests.ductile.probes.fakes import BASE, POLICY, FakeDomain, FakePool, context, verdict

SETTINGS = ProbeSettings(prior={"sums": SkillSettings({"name": "s"}, (2, 3))}, problems=2, samples=2)


def right(problem: Problem, sample: int) -> str:
    return "1 steps"


def test_phases_are_measured_without_noise_and_leniency() -> None:
    domain = {"name": "s", "modulus": 10, "label_noise": 0.3, "lenient": True}
    given = context(FakePool(right), SETTINGS, {"hard one": PhaseSettings(domain, (9,))})
    [cell] = cells(given, "new")
    assert (cell.kind, cell.skill, cell.level, cell.domain.key) == ("new", "hard_one", 9, "smodulus=10")
    assert [problem.id for problem in cell.problems] == ["smodulus=10/9/0", "smodulus=10/9/1"]


def test_each_skill_has_a_cell_for_each_level() -> None:
    given = context(FakePool(right), SETTINGS)
    assert [(cell.skill, cell.level) for cell in cells(given, "prior")] == [("sums", 2), ("sums", 3)]
    assert cells(given, "neutral") == []


def test_probes_of_a_boundary_share_one_sample() -> None:
    pool = FakePool(right)
    given = context(pool, SETTINGS)
    run_probes(given, ["retention", "formats"])
    [(policy, ids, sampling)] = pool.generated
    assert policy is POLICY
    assert ids == ["s/2/0", "s/2/1", "s/3/0", "s/3/1"]
    assert (sampling.seed, sampling.samples, sampling.max_tokens, sampling.temperature) == (5, 2, 9, 0.7)
    assert given.judge.judged == ids  # type: ignore[attr-defined]


def test_base_and_policy_are_sampled_apart_with_the_same_keys() -> None:
    pool = FakePool(right)
    given = context(pool, SETTINGS)
    problems = FakeDomain("s").problems(2, "eval", 2, 0)
    for policy in (BASE, None, BASE):
        given.completions(problems, given.sampling(1.0), of=policy)
    assert [call[0] for call in pool.generated] == [BASE, POLICY]
    assert pool.generated[0][2] == pool.generated[1][2]


def test_problem_of_a_phase_and_a_prior_skill_counts_in_both() -> None:
    pool = FakePool(right)
    result = run_probes(context(pool, SETTINGS, {"again": PhaseSettings({"name": "s"}, (2,))}), ["retention"])
    assert [len(call[1]) for call in pool.generated] == [4]
    assert [(row["kind"], row["judged"]) for row in result.tables["retention"]] == [
        ("prior", 4),
        ("prior", 4),
        ("new", 4),
    ]


def test_outcomes_leave_out_what_could_not_be_judged() -> None:
    texts = ["1 steps", "? other", "0.5 direct !", "0.6 cut"]
    group = Group(
        Problem("p", "d", 1, "?", "!"),
        np.zeros(1, np.int32),
        tuple(
            Completion("p", i, np.zeros(i + 1, np.int32), np.zeros(i + 1, np.float32), text, i != 3, 0)
            for i, text in enumerate(texts)
        ),
    )
    found = outcomes([JudgedGroup(group, tuple(verdict(text) for text in texts))])
    assert found.passed.tolist() == [True, False, True]  # one half is no pass
    assert found.shortcuts == ("", NO_WORK, "")
    assert found.finished.tolist() == [True, True, False]
    assert found.length.tolist() == [1, 3, 4]
    assert found.formats == ("steps", "direct", "cut")
    assert found.unjudged == 1


def test_prompts_are_taken_from_each_cell_in_turn_and_once() -> None:
    def cell(key: str, count: int) -> Cell:
        domain = FakeDomain(key)
        return Cell("prior", key, 1, domain, tuple(domain.problems(1, "eval", count, 0)))

    chosen = [problem.id for problem in interleaved([cell("a", 3), cell("b", 1), cell("a", 2)], 4)]
    assert chosen == ["a/1/0", "b/1/0", "a/1/1", "a/1/2"]


def test_mean_over_cells_leaves_out_cells_without_a_value() -> None:
    assert macro_mean([1.0, None, 0.0, 0.5]) == 0.5
    assert macro_mean([None]) is None
    assert present({"a": None, "b": 0.0}) == {"b": 0.0}


def test_results_name_the_probes_and_their_versions() -> None:
    result = run_probes(context(FakePool(right), SETTINGS), ["formats", "retention"])
    assert [row["name"] for row in result.tables["probes"]] == ["formats", "retention"]
    assert all(row["version"] >= 1 for row in result.tables["probes"])
