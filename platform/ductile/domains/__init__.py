"""What is asked: one file a domain, and the dict that names them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ductile.domains import base_conversion, chain_sum, gym, heuristic, jsonl, running_sum, sort_digits, strings
from ductile.domains.base import Domain, WorkedDomain, check_levels
from ductile.settings import SettingsError, one_of


class Entry(NamedTuple):
    """A member of the family: how it is made of its options, and the dataclass that declares them."""

    make: Callable[[Mapping[str, Any], str], Domain]
    options: type


DOMAINS: dict[str, Entry] = {
    "chain_sum": Entry(chain_sum.make, chain_sum.ChainSumOptions),
    "sort_digits": Entry(sort_digits.make, sort_digits.SortDigitsOptions),
    "strings": Entry(strings.make, strings.StringsOptions),
    "base_conversion": Entry(base_conversion.make, base_conversion.BaseConversionOptions),
    "gym": Entry(gym.make, gym.GymOptions),
    "jsonl": Entry(jsonl.make, jsonl.JsonlOptions),
    "running_sum": Entry(running_sum.make, running_sum.RunningSumOptions),
    "heuristic": Entry(heuristic.make, heuristic.HeuristicOptions),
}

__all__ = ["DOMAINS", "Domain", "WorkedDomain", "check_levels", "make_domain"]


def make_domain(values: Mapping[str, Any], path: str) -> Domain:
    """The domain of `{name: chain_sum, **options}`; raises `SettingsError` with lines that start with `path`."""
    options = dict(values)
    name = options.pop("name", None)
    if name is None:
        raise SettingsError([f"{path}.name: missing; name one of: {', '.join(sorted(DOMAINS))}"])
    if name not in DOMAINS:
        raise SettingsError([one_of(f"{path}.name", str(name), DOMAINS, "domain")])
    return DOMAINS[name].make(options, path)
