"""math-verify on short answers, as the scoring process calls it."""

from __future__ import annotations

import pytest

from ductile.domains.maths_library import equal


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        ("18", "$18.00"),
        ("18", "18 clips"),
        ("18", "x = 18"),
        ("18", "9 + 9 = 18"),
        ("1,234", "1234"),
        ("-3", r"\boxed{-3}"),
        (r"\frac{1}{2}", "0.5"),
        (r"\frac12", "1/2"),
        ("x^2+1", "1+x^2"),
        ("(1,2)", r"\boxed{(1,2)}"),
        (r"\text{Evelyn}", r"\text{Evelyn}"),
    ],
)
def test_equal_answers(expected: str, answer: str) -> None:
    assert equal(expected, answer)


@pytest.mark.parametrize(
    ("expected", "answer"), [("18", "17"), ("18", "Evelyn"), ("18", ""), ("x^2+1", "1"), ("(1,2)", "(2,1)")]
)
def test_unequal_answers(expected: str, answer: str) -> None:
    assert not equal(expected, answer)


@pytest.mark.parametrize("expected", ["Paris", ""])
def test_an_expected_answer_that_is_no_mathematics_is_an_error(expected: str) -> None:
    with pytest.raises(ValueError, match="cannot be read as mathematics"):
        equal(expected, "siraP")
