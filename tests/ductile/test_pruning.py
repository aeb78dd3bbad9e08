"""Which part of a pool a rule keeps, and what a run does with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ductile.checks import check
from ductile.config import DifficultySettings, PhaseSettings, PruneSettings, RolloutSettings, RunSettings
from ductile.difficulty.pruning import RULES, keep
from ductile.difficulty.static import SCHEMA, ScoreFile, read_scores, static_difficulty
from ductile.domains import make_domain
from ductile.identity import identify
from ductile.plan import make_phase, make_plan, phase_of
from ductile.settings import SettingsError, build

SCORES = np.array([0.3, 0.9, 0.1, 0.7, 0.5, 0.2, 0.8, 0.4, 0.6, 0.0])  # ranks 3 9 1 7 5 2 8 4 6 0


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("rule", "fraction", "offset", "ranks"),
    [
        ("easy", 0.3, 0.0, {0, 1, 2}),
        ("hard", 0.3, 0.0, {7, 8, 9}),
        ("middle", 0.4, 0.0, {3, 4, 5, 6}),
        ("middle", 0.3, 0.0, {3, 4, 5}),  # seven go: three of the easiest, four of the hardest
        ("offset", 0.3, 0.2, {5, 6, 7}),
        ("offset", 0.3, 0.0, {7, 8, 9}),
        ("high", 0.3, 0.2, {7, 8, 9}),  # reads no offset
        ("offset", 0.8, 0.5, {0, 1, 2, 3, 4}),  # all that is left
        ("easy", 0.25, 0.0, {0, 1, 2}),  # 2.5 problems are 3
        ("easy", 0.01, 0.0, {0}),  # never none
        ("all", 0.3, 0.2, set(range(10))),
    ],
)
def test_each_rule_keeps_its_part_of_the_ranks(rule: str, fraction: float, offset: float, ranks: set[int]) -> None:
    kept = keep(SCORES, rule, fraction, offset, rng())
    assert {round(10 * SCORES[place]) for place in kept} == ranks


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.sampled_from(RULES), st.integers(0, 9))
def test_kept_positions_rise_and_their_number_is_the_fractions(values: list[int], rule: str, seed: int) -> None:
    kept = keep(np.array(values, np.float64), rule, 0.5, 0.1, rng(seed))
    expected = len(values) if rule == "all" else (len(values) + 1) // 2
    assert len(kept) == expected and (np.diff(kept) > 0).all() and set(kept) <= set(range(len(values)))


@given(st.lists(st.integers(0, 5), min_size=2, max_size=40), st.integers(0, 9))
def test_nothing_that_easy_leaves_out_is_easier_than_what_it_keeps(values: list[int], seed: int) -> None:
    scores = np.array(values, np.float64)
    for rule, sign in (("easy", 1), ("hard", -1)):
        kept = keep(scores, rule, 0.5, 0.0, rng(seed))
        left = np.setdiff1d(np.arange(len(scores)), kept)
        assert (sign * scores[kept]).max() <= (sign * scores[left]).min() if len(left) else True


@pytest.mark.parametrize("rule", ["easy", "hard", "middle", "offset", "high", "random"])
def test_ties_are_broken_evenly(rule: str) -> None:
    """400 draws of 3 of 6 equal problems: each is kept 200 times, standard deviation 10."""
    counts = np.zeros(6)
    for seed in range(400):
        counts[keep(np.zeros(6), rule, 0.5, 0.0, rng(seed))] += 1
    assert (abs(counts - 200) < 45).all()


def test_random_does_not_look_at_the_scores() -> None:
    unknown = np.full(10, np.nan)
    assert keep(SCORES, "random", 0.3, 0.0, rng(5)).tolist() == keep(unknown, "random", 0.3, 0.0, rng(5)).tolist()


def test_scores_that_are_not_known_and_rules_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 3 scores"):
        keep(np.array([0.0, np.nan, 1.0]), "easy", 0.5, 0.0, rng())
    with pytest.raises(ValueError, match="unknown rule 'hardest'"):
        keep(SCORES, "hardest", 0.5, 0.0, rng())


def test_static_difficulty_is_the_rank_from_0_to_1_and_unknown_is_nan() -> None:
    found = static_difficulty(["a", "b", "none", "c", "d"], {"a": 5.0, "b": -1.0, "c": 100.0, "d": 5.0, "e": 7.0})
    assert found[:2] == [0.5, 0.0] and np.isnan(found[2]) and found[3:] == [1.0, 0.5]  # ranks 1.5 0 3 1.5 of 3
    assert static_difficulty(["a"], {"a": 3.0}) == [0.5]
    assert np.isnan(static_difficulty(["a"], {})).all() and static_difficulty([], {}) == []


PHASE = PhaseSettings(domain={"name": "chain_sum"}, levels=(4, 6), steps=2, pool=40)


def settings_with(file: Path | str, **prune: Any) -> RunSettings:
    difficulty = DifficultySettings(scores=str(file), prune=PruneSettings(**prune))
    return RunSettings(phase={"hard": PHASE}, difficulty=difficulty, rollout=RolloutSettings(groups=8))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two scores of the pool at seed 0: `rank`, the position in the pool, and `back`, the same from the end."""
    ids = list(make_phase("hard", PHASE, 0, make_domain, "phase.hard").pool)
    rank = {id: float(place) for place, id in enumerate(ids)}
    scores = {"rank": rank, "back": {id: -value for id, value in rank.items()}}
    path = tmp_path / "scores.json"
    path.write_text(ScoreFile({"model": "m"}, scores, {"rank": True, "back": True}).as_json())
    return path


def test_file_is_read_as_it_was_written(file: Path) -> None:
    there = read_scores(str(file))
    assert list(there.scores) == ["rank", "back"] and there.provenance == {"model": "m"}
    assert there.score == there.scores["rank"]
    named = ScoreFile.read(DifficultySettings(scores=str(file), score="back"))
    assert named.score == there.scores["back"]
    last, first = list(there.scores["rank"])[-1], next(iter(there.scores["rank"]))
    assert named.static_difficulty([last, "none", first])[::2] == [0.0, 1.0]
    assert there.as_json() == file.read_text()


@pytest.mark.parametrize(("rule", "places"), [("easy", range(10)), ("hard", range(30, 40)), ("middle", range(15, 25))])
def test_run_asks_what_pruning_leaves_of_the_pool(file: Path, rule: str, places: range) -> None:
    settings = settings_with(file, keep=rule, fraction=0.25)
    whole = list(make_phase("hard", PHASE, 0, make_domain, "phase.hard").pool)
    [phase] = make_plan(settings, make_domain).phases
    assert list(phase.pool) == [whole[place] for place in places]
    assert phase_of(settings, "hard", make_domain) == phase
    assert check(settings) == []


def test_named_score_decides(file: Path) -> None:
    settings = settings_with(file, keep="easy", fraction=0.25)
    named = replace(settings, difficulty=replace(settings.difficulty, score="back"))
    hard = settings_with(file, keep="hard", fraction=0.25)
    assert make_plan(named, make_domain).phases[0].pool == make_plan(hard, make_domain).phases[0].pool


def test_ladder_stays_whole(file: Path) -> None:
    settings = settings_with(file, keep="easy", fraction=0.25)
    [phase] = make_plan(replace(settings, data=replace(settings.data, ladder=(3,))), make_domain).phases
    assert len(phase.rungs[0]) == 40 and len(phase.pool) == 10


def test_random_pruning_needs_no_file_and_depends_on_the_seed() -> None:
    settings = settings_with("", keep="random", fraction=0.5)
    one, again = (list(make_plan(settings, make_domain).phases[0].pool) for _ in range(2))
    assert one == again and len(one) == 20
    whole = list(make_phase("hard", PHASE, 0, make_domain, "phase.hard").pool)
    assert set(one) < set(whole) and one != whole[:20]


def test_scores_of_other_problems_are_told_with_their_number(file: Path) -> None:
    settings = replace(settings_with(file, keep="easy", fraction=0.5), seed=1)
    pool = make_phase("hard", PHASE, 1, make_domain, "phase.hard").pool
    missing = sum(id not in read_scores(str(file)).scores["rank"] for id in pool)
    with pytest.raises(SettingsError) as caught:
        make_plan(settings, make_domain)
    [line] = caught.value.problems
    assert (
        line.startswith("difficulty.scores: ") and f"lacks {missing} of the 40 problems of phase.hard at seed 1" in line
    )


def test_pool_too_small_for_a_step_after_pruning_says_so(file: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        make_plan(settings_with(file, keep="easy", fraction=0.1), make_domain)
    [line] = caught.value.problems
    assert line.startswith("difficulty.prune.fraction: 0.1 keeps 4 of the 40 problems of phase.hard, too few")
    assert "allowed: at least 0.2;" in line
    assert len(make_plan(settings_with(file, keep="easy", fraction=0.2), make_domain).phases[0].pool) == 8


def test_smallest_fraction_that_is_named_is_enough(file: Path) -> None:
    """7 of 40 is 0.175, and 13 of 40 is 0.325: neither is lost in rounding, nor is 1/3 of a pool of 21."""
    for pool, groups in ((40, 7), (40, 13), (21, 7), (37, 11)):
        small = replace(settings_with(file, keep="random", fraction=0.01), rollout=RolloutSettings(groups=groups))
        small = replace(small, phase={"hard": replace(PHASE, pool=pool)})
        with pytest.raises(SettingsError) as caught:
            make_plan(small, make_domain)
        named = float(str(caught.value).split("allowed: at least ")[1].split(";")[0])
        wide = replace(small, difficulty=replace(small.difficulty, prune=PruneSettings("random", named)))
        assert len(make_plan(wide, make_domain).phases[0].pool) == groups


def test_pool_that_no_fraction_helps_says_so(file: Path) -> None:
    settings = settings_with(file, keep="easy", fraction=0.5)
    with pytest.raises(SettingsError, match="allowed: none with so small a pool; or raise phase"):
        make_plan(replace(settings, rollout=RolloutSettings(groups=50)), make_domain)


@pytest.fixture
def partial_file(tmp_path: Path) -> Path:
    """Three scores of the pool: `coarse` is not known for two problems, `rank` is, and `spread` is no hardness."""
    ids = list(make_phase("hard", PHASE, 0, make_domain, "phase.hard").pool)
    rank = {id: float(place) for place, id in enumerate(ids)}
    coarse = rank | {ids[3]: float("nan"), ids[8]: float("nan")}
    scores = {"coarse": coarse, "rank": rank, "spread": {id: -value for id, value in rank.items()}}
    path = tmp_path / "scores.json"
    path.write_text(ScoreFile({}, scores, {"coarse": True, "rank": True, "spread": False}).as_json())
    return path


def test_problem_that_a_score_does_not_know_is_told_from_one_that_was_never_scored(partial_file: Path) -> None:
    settings = settings_with(partial_file, keep="easy", fraction=0.5)
    with pytest.raises(SettingsError) as caught:
        make_plan(settings, make_domain)
    [line] = caught.value.problems
    assert line.startswith("difficulty.score: coarse is not known for 2 of the 40 problems of phase.hard, as ")
    assert line.endswith("though they were scored; known for all of them: rank, spread")
    assert "null" in partial_file.read_text() and "NaN" not in partial_file.read_text()
    assert read_scores(str(partial_file)).as_json() == partial_file.read_text()


def with_(settings: RunSettings, **difficulty: Any) -> RunSettings:
    return replace(settings, difficulty=replace(settings.difficulty, **difficulty))


@pytest.mark.parametrize("rule", ["rising", "falling", "moving_target"])
@pytest.mark.parametrize("lost", [1, 40])
def test_selection_by_scores_that_lack_problems_is_refused(file: Path, rule: str, lost: int) -> None:
    there = read_scores(str(file))
    kept = {name: dict(list(values.items())[lost:]) | {"x": 1.0} for name, values in there.scores.items()}
    file.write_text(ScoreFile({}, kept, there.hardness).as_json())
    settings = with_(settings_with(file), selection=rule)
    assert check(settings) == []
    with pytest.raises(SettingsError, match=f"lacks {lost} of the 40 problems of phase.hard at seed 0"):
        make_plan(settings, make_domain)
    make_plan(with_(settings, scores=""), make_domain)  # by level


@pytest.mark.parametrize("rule", ["rising", "falling", "moving_target"])
def test_selection_by_a_score_that_knows_them_all_goes_through(partial_file: Path, rule: str) -> None:
    settings = with_(settings_with(partial_file), selection=rule, score="rank")
    assert check(settings) == [] and len(make_plan(settings, make_domain).phases[0].pool) == 40
    with pytest.raises(SettingsError, match="coarse is not known for 2 of the 40"):
        make_plan(with_(settings, score=""), make_domain)


@pytest.mark.parametrize("rule", ["easy", "hard", "middle", "offset"])
def test_pruning_by_a_score_that_is_no_hardness_is_refused(partial_file: Path, rule: str) -> None:
    settings = with_(settings_with(partial_file, keep=rule, fraction=0.5), score="spread")
    [line] = check(settings)
    assert line.startswith(
        f"difficulty.score: a high spread is not a hard problem, which difficulty.prune.keep ({rule})"
    )
    assert "allowed: coarse, rank;" in line


def test_selection_by_a_score_that_is_no_hardness_is_refused_once(partial_file: Path) -> None:
    settings = with_(settings_with(partial_file, keep="easy", fraction=0.5), score="spread", selection="rising")
    [line] = check(settings)
    assert "difficulty.prune.keep (easy) and difficulty.selection (rising) would take it for" in line


def test_highest_of_any_score_may_be_kept(partial_file: Path) -> None:
    settings = with_(settings_with(partial_file, keep="high", fraction=0.25), score="spread")
    assert check(settings) == []
    whole = list(make_phase("hard", PHASE, 0, make_domain, "phase.hard").pool)
    assert list(make_plan(settings, make_domain).phases[0].pool) == whole[:10]  # spread falls along the pool


@pytest.mark.parametrize("keep", ["all", "random"])
def test_scores_that_nothing_reads_are_refused(file: Path, keep: str) -> None:
    settings = settings_with(file, keep=keep, fraction=1.0 if keep == "all" else 0.5)
    [line] = check(settings)
    assert line.startswith(f"difficulty.scores: {str(file)!r} would be read by nothing; set difficulty.prune.keep")
    assert check(with_(settings, selection="falling")) == []


def test_base_rates_beside_scores_are_paid_for_nothing_unless_frozen_reads_them(file: Path) -> None:
    settings = with_(settings_with(file), selection="rising", offline=4)
    [line] = check(settings)
    assert line.startswith(
        "difficulty.offline: 4 completions of every problem would be read by nothing: rising goes by"
    )
    assert check(with_(settings, estimator="frozen")) == []
    assert check(with_(settings, scores="")) == []


def test_order_by_scores_over_a_ladder_is_refused(file: Path) -> None:
    settings = replace(settings_with(file), data=replace(settings_with(file).data, ladder=(3,)))
    [line] = check(with_(settings, selection="rising"))
    assert line.startswith("data.ladder: [3]: jobs.scores scores no problems of easier levels")


def test_score_that_the_file_lacks_names_the_nearest(file: Path) -> None:
    settings = settings_with(file, keep="easy", fraction=0.5)
    [line] = check(replace(settings, difficulty=replace(settings.difficulty, score="rnak")))
    assert line == "difficulty.score: unknown score 'rnak'; allowed: back, rank (did you mean rank?)"


def document(scores: dict[str, Any], hardness: Any = {"a": True}) -> str:  # noqa: B006
    return json.dumps({"schema": SCHEMA, "provenance": {}, "hardness": hardness, "scores": scores})


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is no JSON"),
        ("[1]", "is no file of static scores"),
        (json.dumps({"schema": SCHEMA + 1}), f"has schema {SCHEMA + 1}, not {SCHEMA}"),
        (json.dumps({"schema": SCHEMA, "provenance": {}, "scores": {}}), "has no provenance or no scores"),
        (document({"a": {"x": "1"}}), "in score 'a'"),
        (document({"a": {"x": float("nan")}}), "in score 'a'"),
        (document({"a": {"x": True}}), "in score 'a'"),
        (document({"a": {"x": 1.0}}, None), "does not say by true or false in hardness whether a high a is hard"),
        (document({"a": {"x": 1.0}}, {"b": True}), "does not say by true or false in hardness"),
        (document({"a": {"x": 1.0}}, {"a": 1}), "does not say by true or false in hardness"),
    ],
)
def test_file_that_holds_no_scores_is_one_line_before_any_work(tmp_path: Path, content: str | None, what: str) -> None:
    path = tmp_path / "scores.json"
    if content is not None:
        path.write_text(content)
    [line] = check(settings_with(path, keep="easy", fraction=0.5))
    assert line.startswith(f"difficulty.scores: {str(path)!r} ") and what in line


@pytest.mark.parametrize(
    ("difficulty", "line"),
    [
        ({"prune": {"keep": "easy", "fraction": 0.5}}, "difficulty.prune.keep: easy needs static scores"),
        ({"prune": {"keep": "random"}}, "difficulty.prune.fraction: 1.0 keeps all"),
        ({"prune": {"fraction": 0.5}}, "difficulty.prune.fraction: 0.5 is never read"),
        (
            {"scores": "x", "prune": {"keep": "offset", "fraction": 0.9, "offset": 0.2}},
            "difficulty.prune.offset: 0.2 leaves less than fraction (0.9)",
        ),
        ({"score": "el2n"}, "difficulty.score: 'el2n' is never read"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(difficulty: dict[str, Any], line: str) -> None:
    with pytest.raises(SettingsError) as caught:
        build(RunSettings, {"difficulty": difficulty})
    assert [problem for problem in caught.value.problems if problem.startswith(line)]


def test_other_scores_in_the_same_file_are_another_run(file: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    settings = settings_with(file, keep="easy", fraction=0.5)
    before = identify(settings, [model])
    assert identify(settings, [model]) == before
    file.write_text(ScoreFile({}, {"rank": {"x": 1.0}}, {"rank": True}).as_json())
    assert identify(settings, [model]).run != before.run
