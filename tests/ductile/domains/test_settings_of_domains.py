"""What is wrong in a domain's settings is said in one line with the path, the value and what is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from ductile.domains import check_levels, make_domain
from ductile.settings import SettingsError

GUESS_SPACE = "phase.hard.domain.guess_space"
SPACES = "is not allowed; allowed: 0 for the whole result, or"


def mistakes(values: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        make_domain(values, "phase.hard.domain")
    return caught.value.problems


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            {},
            "phase.hard.domain.name: missing; name one of: "
            "base_conversion, chain_sum, gym, heuristic, jsonl, running_sum, sort_digits, strings",
        ),
        (
            {"name": "chain_sums"},
            "phase.hard.domain.name: unknown domain 'chain_sums'; allowed: base_conversion, chain_sum, gym, heuristic, "
            "jsonl, running_sum, sort_digits, strings (did you mean chain_sum?)",
        ),
        (
            {"name": "chain_sum", "modulo": 7},
            "phase.hard.domain.modulo: unknown setting 'modulo'; allowed: guess_space, label_noise, lenient, modulus "
            "(did you mean modulus?)",
        ),
        (
            {"name": "chain_sum", "modulus": 11},
            "phase.hard.domain.modulus: 11 is out of range; allowed: at least 2 and at most 10",
        ),
        (
            {"name": "sort_digits", "label_noise": 1.5},
            "phase.hard.domain.label_noise: 1.5 is out of range; allowed: at least 0 and at most 1",
        ),
        (
            {"name": "strings", "operation": "rotat"},
            "phase.hard.domain.operation: unknown value 'rotat'; allowed: reverse, rotate (did you mean rotate?)",
        ),
        (
            {"name": "chain_sum", "modulus": 7},
            f"{GUESS_SPACE}: 10 {SPACES} 7, 49, 343, ... up to 7^39",
        ),
        (
            {"name": "base_conversion", "guess_space": 10},
            f"{GUESS_SPACE}: 10 {SPACES} 2, 4, 8, ... up to 2^16",
        ),
        (
            {"name": "sort_digits", "guess_space": 1},
            f"{GUESS_SPACE}: 1 {SPACES} 10, 100, 1000, ... up to 10^40",
        ),
        (
            {"name": "base_conversion", "guess_space": 2**17},
            f"{GUESS_SPACE}: 131072 {SPACES} 2, 4, 8, ... up to 2^16",
        ),
    ],
)
def test_one_line_names_the_mistake(values: dict[str, Any], line: str) -> None:
    assert mistakes(values) == (line,)


def test_several_mistakes_are_told_at_once() -> None:
    assert len(mistakes({"name": "strings", "lenient": 3, "label_noise": -1, "operatio": "rotate"})) == 3


def test_a_level_too_short_for_the_guess_space_is_refused() -> None:
    domain = make_domain({"name": "chain_sum", "guess_space": 10_000}, "domain")
    check_levels(domain, (5, 40), "levels")
    with pytest.raises(SettingsError) as caught:
        check_levels(domain, (4, 8, 41), "phase.hard.levels")
    name = "chain_sum(guess_space=10000, label_noise=0.0, lenient=false, modulus=10)"
    assert caught.value.problems == (
        f"phase.hard.levels[0]: 4 is not a level of {name}; allowed: 5 to 40",
        f"phase.hard.levels[2]: 41 is not a level of {name}; allowed: 5 to 40",
    )


@pytest.mark.parametrize(
    ("values", "lowest", "highest"),
    [
        ({"name": "chain_sum"}, 2, 40),
        ({"name": "sort_digits"}, 2, 40),
        ({"name": "strings", "guess_space": 1000}, 3, 40),
        ({"name": "base_conversion"}, 2, 16),
        ({"name": "base_conversion", "guess_space": 32}, 5, 16),
    ],
)
def test_the_lowest_and_highest_level_are_allowed_and_no_further(
    values: dict[str, Any], lowest: int, highest: int
) -> None:
    domain = make_domain(values, "domain")
    check_levels(domain, (lowest, highest), "levels")
    for level in (lowest - 1, highest + 1):
        with pytest.raises(SettingsError):
            check_levels(domain, (level,), "levels")
