"""pass@k, maj@k and distinct solutions against enumeration of every subset, and what the probe asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ductile.config import DiversitySettings, PhaseSettings, ProbeSettings, SkillSettings
from ductile.metrics import check_declared
from ductile.ports import PolicyRef
from ductile.probes import diversity
from ductile.probes.diversity import DiversityProbe, majority_at_k, pass_at_k
from ductile.problem import Group
from tests.ductile.probes.fakes import FakePool, context


@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(completions: int, data: st.DataObject) -> None:
    right, k = data.draw(st.integers(0, completions)), data.draw(st.integers(1, completions))
    subsets = list(combinations([i < right for i in range(completions)], k))
    assert pass_at_k(completions, right, k) == pytest.approx(np.mean([any(subset) for subset in subsets]))


def test_pass_at_k_of_many_completions_does_not_overflow() -> None:
    # 1 - C(900, 100) / C(1000, 100) as the product over the 100 draws of (900 - i) / (1000 - i)
    expected = 1 - np.prod([(900 - i) / (1000 - i) for i in range(100)])
    assert pass_at_k(1000, 100, 100) == pytest.approx(expected)


@pytest.mark.parametrize("function", [lambda: pass_at_k(4, 1, 5), lambda: majority_at_k(["1"], [True], 2, 0)])
def test_more_than_all_completions_is_refused(function) -> None:
    with pytest.raises(ValueError, match="is not defined"):
        function()


def enumerated(answers: Sequence[str | None], right: Sequence[bool], k: int) -> float:
    """maj@k over all subsets; ties are shared out among the completions of the tied answers."""
    rates = []
    for chosen in combinations(range(len(answers)), k):
        votes = Counter(answers[i] for i in chosen if answers[i] is not None)
        winners = [a for a, n in votes.items() if n == max(votes.values())]
        rates.append(np.mean([right[i] for i in chosen if answers[i] in winners]) if winners else 0.0)
    return float(np.mean(rates))


ANSWERS: list[str | None] = ["7", "7", "3", None, "3", "7", "1", None]
RIGHT = [True, True, False, False, False, True, False, False]


@pytest.mark.parametrize("k", [1, 2, 4])
def test_majority_vote_agrees_with_every_subset(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversity, "DRAWS", 4000)  # standard error below 0.008
    assert majority_at_k(ANSWERS, RIGHT, k, seed=3) == pytest.approx(enumerated(ANSWERS, RIGHT, k), abs=0.03)


def test_majority_of_all_completions_is_one_vote() -> None:
    assert majority_at_k(ANSWERS, RIGHT, 8, seed=0) == 1.0  # 7 has three votes, 3 has two
    assert majority_at_k(["7", "3", None], [True, False, False], 3, seed=0) == 0.5  # a tie is shared out
    assert majority_at_k([None, None], [False, False], 2, seed=0) == 0.0


TEXTS = {
    "s/2/0": ["1 steps =7", "1 other =7", "1 steps =7", "0 steps =3"],
    "s/2/1": ["0 steps =1", "0 steps =1", "? other", "1 steps =2"],
    "h/9/0": ["0 steps =1"] * 4,
    "h/9/1": ["0 steps =1"] * 4,
}
SETTINGS = ProbeSettings(
    prior={"sums": SkillSettings({"name": "s"}, (2,))}, problems=8, diversity=DiversitySettings(problems=2, samples=4)
)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch):
    def entropy(given, groups: Sequence[Group]) -> float:
        return float(sum(len(group.completions) for group in groups))

    monkeypatch.setattr(diversity, "token_entropy", entropy)
    pool = FakePool(lambda problem, sample: TEXTS[problem.id][sample])
    return pool, DiversityProbe().measure(context(pool, SETTINGS, {"hard": PhaseSettings({"name": "h"}, (9,))}))


def test_probe_averages_over_the_problems_with_enough_judged_completions(measured) -> None:
    _, result = measured
    metrics = result.metrics
    assert metrics["diversity/prior/pass_at_1"] == pytest.approx((3 / 4 + 1 / 3) / 2)
    assert metrics["diversity/prior/pass_at_2"] == pytest.approx((1 + (1 - 1 / 3)) / 2)
    assert metrics["diversity/prior/pass_at_4"] == 1.0  # of the first problem alone: the second has three judged
    assert metrics["diversity/prior/maj_at_4"] == 1.0
    assert metrics["diversity/new/pass_at_4"] == metrics["diversity/new/maj_at_1"] == 0.0
    assert metrics["diversity/prior/token_entropy"] == 8
    check_declared(metrics)


def test_distinct_solutions_are_different_right_texts(measured) -> None:
    _, result = measured
    assert result.metrics["diversity/prior/distinct_right"] == pytest.approx((2 + 1) / 2)
    assert result.metrics["diversity/prior/distinct_share"] == pytest.approx((2 / 3 + 1) / 2)
    assert result.metrics["diversity/new/distinct_right"] == 0.0
    assert "diversity/new/distinct_share" not in result.metrics  # nothing was solved


def test_probe_asks_for_its_own_number_of_problems_and_samples(measured) -> None:
    pool, _ = measured
    [(policy, ids, sampling)] = pool.generated
    assert isinstance(policy, PolicyRef)
    assert ids == ["s/2/0", "s/2/1", "h/9/0", "h/9/1"]
    assert (sampling.samples, sampling.stream) == (4, "probe/diversity")
