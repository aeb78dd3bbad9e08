"""Settings from mappings: every mistake at once, each naming the setting, the value and what is allowed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ductile.config import CompareSettings, RunSettings
from ductile.settings import SettingsError, as_plain, build, setting


@dataclass(frozen=True)
class Inner:
    size: int = setting(3, "a size", low=1, high=9)
    shares: Mapping[str, float] = setting(dict, "shares", low=0)

    def check(self) -> Iterator[str]:
        if self.size == 7:
            yield "size: 7 is taken"


@dataclass(frozen=True)
class Outer:
    rate: float = setting(0.1, "a rate", above=0)
    colour: str = setting("red", "a colour", choices=("red", "green"))
    limit: float | None = setting(None, "a limit", low=0)
    inner: Inner = setting(Inner, "the inner settings")
    parts: Mapping[str, Inner] = setting(dict, "named parts")
    sizes: tuple[int, ...] = setting((1, 2), "sizes", low=0)


def problems_of(values: Mapping[str, object]) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        build(Outer, values)
    return caught.value.problems


def test_defaults_are_used_where_nothing_is_given() -> None:
    assert build(Outer, {}) == Outer()


def test_nested_values_reach_their_place() -> None:
    made = build(Outer, {"inner": {"size": 4}, "parts": {"a": {"size": 2}}, "sizes": [5], "limit": 3})
    assert (made.inner.size, made.parts["a"].size, made.sizes, made.limit) == (4, 2, (5,), 3.0)


def test_misspelt_key_names_the_nearest() -> None:
    assert problems_of({"inner": {"sise": 4}}) == (
        "inner.sise: unknown setting 'sise'; allowed: shares, size (did you mean size?)",
    )


def test_value_out_of_range_names_the_range() -> None:
    assert problems_of({"inner": {"size": 12}}) == (
        "inner.size: 12 is out of range; allowed: at least 1 and at most 9",
    )
    assert problems_of({"rate": 0.0}) == ("rate: 0.0 is out of range; allowed: above 0",)


def test_range_holds_inside_lists_and_mappings() -> None:
    assert problems_of({"sizes": [1, -2]}) == ("sizes[1]: -2 is out of range; allowed: at least 0",)
    assert problems_of({"inner": {"shares": {"x": -1}}}) == (
        "inner.shares.x: -1.0 is out of range; allowed: at least 0",
    )


def test_unknown_choice_names_the_nearest() -> None:
    assert problems_of({"colour": "gren"}) == (
        "colour: unknown value 'gren'; allowed: green, red (did you mean green?)",
    )


def test_all_mistakes_are_told_at_once() -> None:
    assert len(problems_of({"rate": "fast", "colour": 3, "inner": {"size": "x"}, "none": 1})) == 4


@pytest.mark.parametrize("value", [True, 2.5, "3", None])
def test_whole_number_takes_nothing_else(value: object) -> None:
    assert problems_of({"inner": {"size": value}})[0].startswith(f"inner.size: {value!r} is not a whole number")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "nan"])
def test_number_must_be_finite(value: object) -> None:
    assert "finite" in problems_of({"rate": value})[0]


def test_number_may_be_written_as_yaml_reads_exponents() -> None:
    assert build(Outer, {"rate": "1e-3"}).rate == 1e-3


def test_optional_setting_takes_none() -> None:
    assert build(Outer, {"limit": None}).limit is None


def test_conditions_across_fields_name_their_path() -> None:
    assert problems_of({"parts": {"b": {"size": 7}}}) == ("parts.b.size: 7 is taken",)


def test_text_where_a_group_belongs() -> None:
    assert problems_of({"inner": 3}) == ("inner: 3 is not a group of settings",)
    assert problems_of({"sizes": 3}) == ("sizes: 3 is not a list; write it as [a, b]",)


@given(st.integers(1, 6), st.floats(0.001, 100), st.lists(st.integers(0, 5)))
def test_plain_values_build_back_to_the_same_settings(size: int, rate: float, sizes: list[int]) -> None:
    made = Outer(rate=rate, inner=Inner(size=size), sizes=tuple(sizes))
    assert build(Outer, as_plain(made)) == made


def test_every_default_is_itself_allowed() -> None:
    for cls in (RunSettings, CompareSettings):
        assert build(cls, as_plain(cls())) == cls()


def test_swapped_band_says_so() -> None:
    with pytest.raises(SettingsError, match=r"difficulty.band: \[0.9, 0.2\]: low must be below high"):
        build(RunSettings, {"difficulty": {"band": [0.9, 0.2]}})


@pytest.mark.parametrize(
    ("band", "line"),
    [([0.7, 0.2], "low must be below high"), ([0.2], "must be two numbers"), ([0.2, 1.2], "at most 1")],
)
def test_band_of_the_sparsity_probe_is_checked(band: list[float], line: str) -> None:
    with pytest.raises(SettingsError, match=rf"^probe\.sparsity\.band.*{line}"):
        build(RunSettings, {"probe": {"sparsity": {"band": band}}})
