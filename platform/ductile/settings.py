"""Typed settings from plain mappings: every mistake is found at once and named by its path.

`setting()` declares a dataclass field with its meaning and its range; `build()` makes the dataclass from a
mapping (what YAML and the command line give) and raises one `SettingsError` that lists every misspelt key,
wrong type and value out of range, each with what is allowed and the nearest valid name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, Union

T = TypeVar("T")


class SettingsError(ValueError):
    """One or more settings are wrong. `problems` has one line for each, starting with the setting's path."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def setting(
    default: Any,
    meaning: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: Sequence[str] | None = None,
) -> Any:
    """A dataclass field with its default, its one-line meaning and the values it allows.

    `low` and `high` are inclusive, `above` is exclusive. For lists, tuples and string-keyed mappings of numbers
    they hold for every element. A callable default is called for each instance.
    """
    metadata = {"meaning": meaning, "low": low, "high": high, "above": above, "choices": choices}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def nearest(name: str, allowed: Iterable[str]) -> str:
    """` (did you mean X?)` for the closest allowed name, or an empty string when none is close."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def one_of(path: str, name: str, allowed: Iterable[str], noun: str = "value") -> str:
    """The line for a name that is not in its family."""
    allowed = sorted(allowed)
    return f"{path}: unknown {noun} {name!r}; allowed: {', '.join(allowed)}{nearest(name, allowed)}"


def build(cls: type[T], values: Mapping[str, Any], path: str = "") -> T:
    """Make `cls` from a mapping; raise `SettingsError` with every mistake at once.

    A dataclass may define `check(self) -> Iterator[str]`, yielding `field: what is wrong` lines for conditions
    that span fields; they run once every field on its own is right.
    """
    problems: list[str] = []
    result: T = _build(cls, values, path, problems)
    if problems:
        raise SettingsError(problems)
    return result


def as_plain(value: Any) -> Any:
    """The plain mapping (dicts, lists, scalars) that `build` turns back into an equal dataclass."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(item) for item in value]
    return value


def _build(cls: Any, values: Mapping[str, Any], path: str, problems: list[str]) -> Any:
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    before = len(problems)
    problems.extend(one_of(_join(path, str(key)), str(key), fields, "setting") for key in values if key not in fields)
    arguments = {
        name: _convert(hints[name], values[name], _join(path, name), field.metadata, problems)
        for name, field in fields.items()
        if name in values
    }
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            problems.append(f"{_join(path, name)}: missing; it has no default")
    if len(problems) > before:
        return None
    result = cls(**arguments)
    if hasattr(result, "check"):
        problems.extend(_join(path, line) for line in result.check())
    return result


def _convert(hint: Any, value: Any, path: str, metadata: Mapping[str, Any], problems: list[str]) -> Any:
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        if value is None and len(options) < len(typing.get_args(hint)):
            return None
        return _convert(options[0], value, path, metadata, problems)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            problems.append(f"{path}: {value!r} is not a group of settings")
            return None
        return _build(hint, value, path, problems)
    if origin in (tuple, list):
        if not isinstance(value, (list, tuple)):
            problems.append(f"{path}: {value!r} is not a list; write it as [a, b]")
            return None
        item = typing.get_args(hint)[0]
        return tuple(_convert(item, v, f"{path}[{i}]", metadata, problems) for i, v in enumerate(value))
    if origin in (dict, Mapping) or hint is dict or getattr(origin, "__name__", "") == "Mapping":
        if not isinstance(value, Mapping):
            problems.append(f"{path}: {value!r} is not a mapping; write it as {{name: value}}")
            return None
        arguments = typing.get_args(hint)
        item = arguments[1] if arguments else Any
        return {str(k): _convert(item, v, _join(path, str(k)), metadata, problems) for k, v in value.items()}
    if hint is Any:
        return value
    return _scalar(hint, value, path, metadata, problems)


def _scalar(hint: Any, value: Any, path: str, metadata: Mapping[str, Any], problems: list[str]) -> Any:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    right = {
        bool: isinstance(value, bool),
        int: isinstance(value, int) and not isinstance(value, bool),
        float: isinstance(value, (int, float)) and not isinstance(value, bool),
        str: isinstance(value, str),
    }
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        with contextlib.suppress(ValueError):
            value, right[float] = float(value), True
    if hint not in right:
        raise TypeError(f"{path}: settings of type {hint} are not supported")
    if not right[hint]:
        problems.append(f"{path}: {value!r} is not {names[hint]}{_allowed(metadata)}")
        return None
    if hint is float:
        value = float(value)
        if not math.isfinite(value):
            problems.append(f"{path}: {value!r} is not a finite number{_allowed(metadata)}")
            return None
    low, high, above = metadata.get("low"), metadata.get("high"), metadata.get("above")
    if hint in (int, float) and (
        (low is not None and value < low)
        or (high is not None and value > high)
        or (above is not None and value <= above)
    ):
        problems.append(f"{path}: {value!r} is out of range{_allowed(metadata)}")
    choices = metadata.get("choices")
    if hint is str and choices and value not in choices:
        problems.append(one_of(path, value, choices))
    return value


def _allowed(metadata: Mapping[str, Any]) -> str:
    low, high, above = metadata.get("low"), metadata.get("high"), metadata.get("above")
    parts = []
    if low is not None:
        parts.append(f"at least {low}")
    if above is not None:
        parts.append(f"above {above}")
    if high is not None:
        parts.append(f"at most {high}")
    return f"; allowed: {' and '.join(parts)}" if parts else ""


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
