"""Answers and worked solutions of the symbolic domains: by hand, and by another computation."""

from __future__ import annotations

from typing import Any

import pytest

from ductile.domains import DOMAINS, WorkedDomain, make_domain
from ductile.domains.symbolic import ALPHABET
from ductile.problem import DIRECT, Problem

VARIANTS: list[dict[str, Any]] = [
    {"name": "chain_sum"},
    {"name": "chain_sum", "guess_space": 0},
    {"name": "chain_sum", "modulus": 7, "guess_space": 49},
    {"name": "chain_sum", "label_noise": 0.5, "lenient": True},
    {"name": "sort_digits"},
    {"name": "sort_digits", "guess_space": 100},
    {"name": "strings", "operation": "reverse"},
    {"name": "strings", "operation": "rotate", "guess_space": 10},
    {"name": "base_conversion"},
    {"name": "base_conversion", "guess_space": 4, "lenient": True},
]


def worked(values: dict[str, Any]) -> WorkedDomain:
    domain = make_domain(values, "domain")
    assert isinstance(domain, WorkedDomain)
    return domain


def ask(values: dict[str, Any], level: int, split: str = "train", count: int = 200, seed: int = 0) -> list[Problem]:
    return make_domain(values, "domain").problems(level, split, count, seed)  # type: ignore[arg-type]


def by_arguments(values: dict[str, Any], level: int, arguments: str) -> Problem:
    """The problem with these arguments, from whichever split has it."""
    every = [problem for split in ("train", "eval") for problem in ask(values, level, split, 200_000)]
    return next(problem for problem in every if problem.data["arguments"] == arguments)


@pytest.mark.parametrize(
    ("values", "level", "arguments", "prompt", "solutions"),
    [
        (
            {"name": "chain_sum"},
            4,
            "3458",
            "s3458>1:",
            {"running": "720#0", "trace": "3+4=7;7+5=2;2+8=0#0", "direct": "#0"},
        ),
        (
            {"name": "chain_sum", "modulus": 7, "guess_space": 0},
            4,
            "3412%7",
            "s3412%7>*:",
            {"running": "013#013", "trace": "3+4=0;0+1=1;1+2=3#013", "direct": "#013"},
        ),
        (
            {"name": "sort_digits"},
            4,
            "4827",
            "o4827>*:",
            {"insertion": "4;48;248;2478#2478", "counts": "2,1;4,1;7,1;8,1#2478", "direct": "#2478"},
        ),
        (
            {"name": "sort_digits", "guess_space": 100},
            4,
            "7277",
            "o7277>2:",
            {"insertion": "7;27;277;2777#77", "counts": "2,1;7,3#77", "direct": "#77"},
        ),
        (
            {"name": "strings", "operation": "reverse"},
            4,
            "4827",
            "r4827>*:",
            {"peel": "7;72;728;7284#7284", "indexed": "4.7;3.2;2.8;1.4#7284", "direct": "#7284"},
        ),
        (
            {"name": "strings", "operation": "rotate"},
            4,
            "4827,2",
            "t4827,2>*:",
            {"turns": "8274;2748#2748", "split": "27|48#2748", "direct": "#2748"},
        ),
        (
            {"name": "base_conversion", "guess_space": 4},
            4,
            "13",
            "b13>2:",
            {"halving": "13.1;6.0;3.1;1.1#01", "powers": "8+4+1#01", "direct": "#01"},
        ),
    ],
)
def test_solutions_written_by_hand(
    values: dict[str, Any], level: int, arguments: str, prompt: str, solutions: dict[str, str]
) -> None:
    problem = by_arguments(values, level, arguments)
    assert problem.prompt == prompt
    assert {name: worked(values).solution(problem, name) for name in worked(values).formats} == solutions


@pytest.mark.parametrize("modulus", [2, 7, 10])
def test_chain_sums_end_in_the_sum_of_all_terms(modulus: int) -> None:
    for problem in ask({"name": "chain_sum", "modulus": modulus, "guess_space": modulus}, 9):
        terms = [int(digit) for digit in problem.data["arguments"].split("%")[0]]
        assert len(terms) == 9
        assert max(terms) < modulus
        assert problem.answer == str(sum(terms) % modulus)
        assert problem.data["result"] == "".join(str(sum(terms[:end]) % modulus) for end in range(2, 10))


def test_other_results_agree_with_sorted_int_and_slices() -> None:
    for problem in ask({"name": "sort_digits"}, 12):
        assert list(problem.answer) == sorted(problem.prompt[1:13])
    for problem in ask({"name": "strings"}, 12):
        assert problem.answer == "".join(reversed(problem.prompt[1:13]))
    for problem in ask({"name": "strings", "operation": "rotate"}, 12):
        string, places = problem.prompt[1:-3].split(",")
        assert 1 <= int(places) <= 11
        assert problem.answer == (string * 2)[int(places) : int(places) + 12]
    for problem in ask({"name": "base_conversion"}, 12):
        assert f"0b{problem.answer}" == bin(int(problem.prompt[1:-3]))
        assert len(problem.answer) == 12


@pytest.mark.parametrize("values", VARIANTS, ids=str)
def test_every_solution_passes_in_its_format_and_only_the_direct_one_is_a_shortcut(values: dict[str, Any]) -> None:
    domain = worked(values)
    for level in (domain.levels[0], 5, domain.levels[-1]):
        for split in ("train", "eval"):
            for problem in ask(values, level, split, 40):
                for name in domain.formats:
                    verdict = domain.judge(problem, domain.solution(problem, name))
                    assert (verdict.reward, verdict.format, verdict.shortcut) == (1.0, name, name == DIRECT)


@pytest.mark.parametrize("values", VARIANTS, ids=str)
def test_prompts_and_solutions_use_the_declared_characters_alone(values: dict[str, Any]) -> None:
    domain = worked(values)
    texts = [p.prompt + "".join(domain.solution(p, f) for f in domain.formats) for p in ask(values, 6, count=50)]
    assert set("".join(texts)) <= set(ALPHABET)


@pytest.mark.parametrize("values", VARIANTS, ids=str)
def test_the_answer_is_the_last_symbols_of_the_result(values: dict[str, Any]) -> None:
    clean = {**values, "label_noise": 0.0}
    for problem in ask(clean, 6):
        symbols = {"chain_sum": values.get("modulus", 10), "base_conversion": 2}.get(values["name"], 10)
        space = clean.get("guess_space", 10 if values["name"] == "chain_sum" else 0)
        assert problem.data["result"].endswith(problem.answer)
        assert symbols ** len(problem.answer) == (space or symbols ** len(problem.data["result"]))


def test_answers_of_chain_sums_fill_the_guess_space_evenly() -> None:
    answers = [problem.answer for problem in ask({"name": "chain_sum", "guess_space": 100}, 8, count=20_000)]
    counts = [answers.count(f"{value:02d}") for value in range(100)]
    # 200 expected each; five standard deviations of a binomial count are 70.
    assert 130 < min(counts) <= max(counts) < 270


def test_the_guess_space_leaves_the_work_as_it_is() -> None:
    guessable, honest = {"name": "chain_sum", "guess_space": 10}, {"name": "chain_sum", "guess_space": 10_000}
    pairs = list(zip(ask(guessable, 9), ask(honest, 9), strict=True))
    assert all(a.data == b.data for a, b in pairs)
    for a, b in pairs:
        work = worked(guessable).solution(a, "trace").partition("#")[0]
        assert worked(honest).solution(b, "trace").partition("#")[0] == work


def test_a_format_that_the_domain_does_not_have_is_named_with_those_it_has() -> None:
    problem = ask({"name": "chain_sum"}, 4)[0]
    with pytest.raises(ValueError, match=r"'traces'; allowed: direct, running, trace \(did you mean trace\?\)"):
        worked({"name": "chain_sum"}).solution(problem, "traces")


def test_the_family_is_the_one_in_the_documentation() -> None:
    symbolic = {"chain_sum", "sort_digits", "strings", "base_conversion"}
    assert set(DOMAINS) == symbolic | {"running_sum", "heuristic", "gym", "jsonl"}
