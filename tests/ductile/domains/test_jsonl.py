"""Questions from files: reading them, what is wrong in them, and grading by math-verify."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ductile.domains import check_levels, make_domain
from ductile.domains.timed import SCORER
from ductile.problem import Problem
from ductile.settings import SettingsError

GSM8K = Path(os.environ.get("DUCTILE_DATA", Path(__file__).parents[4] / "shared" / "data")) / "gsm8k" / "train.jsonl"

ROWS = [{"question": f"What is {n} + {n}?", "answer": f"{n} + {n} = {2 * n}\n#### {2 * n}"} for n in range(100)]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def make(path: str, **options: Any) -> Any:
    return make_domain({"name": "jsonl", "path": path, **options}, "phase.gsm8k.domain")


def mistake(path: str, **options: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        make(path, **options)
    (line,) = caught.value.problems
    return line


@pytest.fixture
def sums(tmp_path: Path) -> Any:
    return make(write(tmp_path / "sums.jsonl", ROWS), separator="####")


def problem(answer: str) -> Problem:
    return Problem("p", "d", 1, "?", answer)


def test_every_row_is_in_one_split_and_in_an_order_that_the_seed_decides(sums: Any) -> None:
    train, held_out = sums.problems(1, "train", 1000, 0), sums.problems(1, "eval", 1000, 0)
    assert {p.prompt.partition("?")[0] for p in train + held_out} == {f"What is {n} + {n}" for n in range(100)}
    assert len(train) + len(held_out) == 100
    assert 5 <= len(held_out) <= 40
    assert len({p.id for p in train + held_out}) == 100
    assert sums.problems(1, "train", 10, 0) == train[:10]
    other = sums.problems(1, "train", 1000, 1)
    assert other != train
    assert {p.id for p in other} == {p.id for p in train}


def test_the_answer_stands_after_the_separator_and_the_question_in_the_template(tmp_path: Path) -> None:
    domain = make(write(tmp_path / "one.jsonl", ROWS[7:8]), separator="####", template="Q: {question} {x}\nA:")
    (asked,) = domain.problems(1, "train", 5, 0) + domain.problems(1, "eval", 5, 0)
    assert asked.prompt == "Q: What is 7 + 7? {x}\nA:"
    assert asked.answer == "14"
    assert asked.domain == domain.key


def test_a_pattern_finds_the_last_answer(tmp_path: Path) -> None:
    rows = [{"problem": "?", "solution": r"so \boxed{3}, no, \boxed{\frac{1}{2}}."}]
    path = write(tmp_path / "maths.jsonl", rows)
    domain = make(path, question="problem", answer="solution", pattern=r"\\boxed\{(.*?)\}(?=[,.])")
    (asked,) = domain.problems(1, "train", 5, 0) + domain.problems(1, "eval", 5, 0)
    assert asked.answer == r"\frac{1}{2}"


def test_parquet_gives_the_same_problems_as_jsonl(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "sums.parquet")
    columnar = make(str(tmp_path / "sums.parquet"), separator="####").problems(1, "eval", 50, 3)
    lines = make(write(tmp_path / "sums.jsonl", ROWS), separator="####").problems(1, "eval", 50, 3)
    assert [(p.id, p.prompt, p.answer) for p in columnar] == [(p.id, p.prompt, p.answer) for p in lines]


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "sums.jsonl", ROWS[:3])
    make(path)
    write(tmp_path / "sums.jsonl", ROWS[:9])
    assert len(make(path).problems(1, "train", 99, 0) + make(path).problems(1, "eval", 99, 0)) == 9


def test_a_question_asked_twice_is_one_problem_with_its_first_answer(tmp_path: Path) -> None:
    rows = [{"question": "Q", "answer": 1}, {"question": "Q", "answer": 2.5}]
    domain = make(write(tmp_path / "twice.jsonl", rows))
    assert [p.answer for p in domain.problems(1, "train", 9, 0) + domain.problems(1, "eval", 9, 0)] == ["1"]


@pytest.mark.parametrize(
    ("expected", "text", "reward", "format", "shortcut"),
    [
        ("18", "9 + 9 = 18\nAnswer: 18", 1.0, "worked", False),
        ("18", "Answer: 18", 1.0, "direct", True),
        ("18", "Answer: 18\nAnswer: 18", 1.0, "direct", True),
        ("18", "It is 17. Answer: $18.00\nNext question: 5", 1.0, "worked", False),
        ("18", "It is 18. Answer: 17", 0.0, "worked", False),
        ("18", "9 + 9 = 18\n#### 18", 1.0, "worked", False),
        ("18", r"We get \boxed{18}.", 1.0, "worked", False),
        ("18", r"Answer: \boxed{18}", 1.0, "direct", True),
        ("1,234", "so it is\nAnswer: 1234", 1.0, "worked", False),
        (r"\frac{1}{2}", "half\nAnswer: 0.5", 1.0, "worked", False),
        ("0.5", "half\nAnswer: \\frac12", 1.0, "worked", False),
        (r"\text{Evelyn}", "it is her\nAnswer: \\text{Evelyn}", 1.0, "worked", False),
        ("x^2+1", "so\nAnswer: 1+x^2", 1.0, "worked", False),
        ("x^2+1", "so\nAnswer: 1", 0.0, "worked", False),
        ("(1,2)", "so\nAnswer: (2,1)", 0.0, "worked", False),
        ("5", "so\nAnswer: x = 5", 1.0, "worked", False),
        ("18", "so\nAnswer: 9+9=18", 1.0, "worked", False),
        ("18", "so\nAnswer: **18** clips", 1.0, "worked", False),
        ("18", "9 + 9 = 18", 0.0, "other", False),
        ("18", "18", 0.0, "other", False),
        ("18", "18. Answer:", 0.0, "other", False),
        ("18", "", 0.0, "other", False),
    ],
)
def test_verdicts(sums: Any, expected: str, text: str, reward: float, format: str, shortcut: bool) -> None:
    verdict = sums.judge(problem(expected), text)
    assert (verdict.reward, verdict.format, verdict.shortcut) == (reward, format, shortcut)


@pytest.mark.parametrize(
    ("text", "reward", "shortcut"), [("9 + 9 = 18", 1.0, False), ("18", 1.0, True), ("17", 0.0, True), ("", 0.0, False)]
)
def test_the_lenient_grader_also_reads_completions_that_state_no_answer(
    tmp_path: Path, text: str, reward: float, shortcut: bool
) -> None:
    verdict = make(write(tmp_path / "sums.jsonl", ROWS), lenient=True).judge(problem("18"), text)
    assert (verdict.reward, verdict.shortcut) == (reward, shortcut)


def test_a_time_out_in_another_thread_is_not_a_wrong_answer(tmp_path: Path) -> None:
    domain = make(write(tmp_path / "sums.jsonl", ROWS), timeout_s=0.3)

    def in_thread() -> Any:
        assert threading.current_thread() is not threading.main_thread()
        return domain.judge(problem("18"), "so\nAnswer: 9**9**9**9")

    with ThreadPoolExecutor(1) as pool:
        verdict = pool.submit(in_thread).result()
    assert verdict.reward is None
    assert (verdict.format, verdict.note) == ("worked", "not judged: no result within 0.3 s")
    assert domain.judge(problem("18"), "so\nAnswer: 18").reward == 1.0


def test_an_expected_answer_that_is_no_mathematics_is_not_judged(sums: Any) -> None:
    verdict = sums.judge(problem("Paris"), "so\nAnswer: siraP")
    assert verdict.reward is None
    assert "'Paris' cannot be read as mathematics" in verdict.note


@settings(max_examples=60, deadline=None)
@given(
    text=st.one_of(
        st.text(), st.text().map("Answer: {}".format), st.text(r"0123456789\{}^$/()+-x").map("#### {}".format)
    )
)
def test_every_text_gets_a_verdict(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    domain = make(str(path) if path.exists() else write(path, ROWS), separator="####", timeout_s=2.0)
    assert domain.judge(problem("18"), text).reward in (0.0, 1.0, None)


def test_mistakes_in_the_settings_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "sums.jsonl", ROWS)
    at = "phase.gsm8k.domain."
    assert mistake("").startswith(f"{at}path: missing")
    assert mistake("nowhere.jsonl").startswith(f"{at}path: 'nowhere.jsonl' is not a file")
    assert mistake(path, pattern="(").startswith(f"{at}pattern: '(' is not a regular expression")
    assert mistake(path, pattern="a(b)(c)") == (
        f"{at}pattern: 'a(b)(c)' has 2 groups; the final answer must be its one group"
    )
    assert mistake(path, pattern="(.)", separator="#") == f"{at}pattern: give a separator or a pattern, not both"
    assert mistake(path, template="Answer!").startswith(f"{at}template: 'Answer!' has no place for the question")
    assert mistake(path, questio="q").startswith(f"{at}questio: unknown setting")
    assert mistake(path, question="Question") == (
        f"{at}question: no field 'Question' at line 1 of {path!r}; "
        "its fields: question, answer (did you mean question?)"
    )
    assert mistake(path, separator="=>") == (
        f"{at}separator: '=>' finds no final answer in 100 of 100 rows, the first at line 1 of '{path}'"
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"question": "a", "answer": "b"}\n\n{"question": "a"', "path: {path!r} line 3 is not JSON: "),
        ('{"question": ' + "9" * 10_000 + ', "answer": 1}\n', "path: {path!r} line 1 is not JSON: "),
        ("[" * 200_000 + "\n", "path: {path!r} line 1 is not JSON: "),
        ("[1]\n", "path: {path!r} line 1 is not a JSON object: [1]"),
        ("\n", "path: {path!r} has no rows"),
        (
            '{"question": "a", "answer": null}\n',
            "answer: field 'answer' at line 1 of {path!r} is None, not text or a number",
        ),
        (
            '{"question": "a", "answer": " "}\n',
            "answer: the field is empty in 1 of 1 rows, the first at line 1 of {path!r}",
        ),
    ],
)
def test_mistakes_in_the_file_are_named_with_their_line(tmp_path: Path, text: str, line: str) -> None:
    path = str(tmp_path / "bad.jsonl")
    Path(path).write_text(text)
    assert mistake(path).startswith("phase.gsm8k.domain." + line.format(path=path))


def test_files_that_are_something_else_are_named(tmp_path: Path) -> None:
    for name, words in (("bad.parquet", "is not a Parquet file"), ("bad.jsonl", "is not UTF-8 text")):
        (tmp_path / name).write_bytes(b"\xff\xfe\x00 not what the name says")
        assert words in mistake(str(tmp_path / name))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "sums.parquet")
    assert "no field 'solution' at row 1" in mistake(str(tmp_path / "sums.parquet"), answer="solution")


def test_the_only_level_is_1(sums: Any) -> None:
    check_levels(sums, (1,), "levels")
    with pytest.raises(SettingsError, match=r"levels\[0\]: 2 is not a level of jsonl\(.*; allowed: 1 only"):
        check_levels(sums, (2,), "levels")


@pytest.mark.skipif(not GSM8K.is_file(), reason="GSM8K is not here")
def test_gsm8k_answers_itself() -> None:
    domain = make(str(GSM8K), separator="####")
    problems = domain.problems(1, "train", 10_000, 0)
    assert len(problems) + len(domain.problems(1, "eval", 10_000, 0)) == 7473
    for asked in problems[:40]:
        assert domain.judge(asked, f"Some work.\nAnswer: ${asked.answer}").reward == 1.0
        assert domain.judge(asked, f"Some work.\n#### -{asked.answer}9").reward == 0.0
    assert SCORER.pid is not None
