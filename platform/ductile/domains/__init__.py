"""What is asked: one file a domain, and the dict that names them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ductile.domains import base_conversion, chain_sum, gym, jsonl, sort_digits, strings
from ductile.domains.base import Domain, WorkedDomain, check_levels
from ductile.settings import SettingsError, one_of

DOMAINS: dict[str, Callable[[Mapping[str, Any], str], Domain]] = {
    "chain_sum": chain_sum.make,
    "sort_digits": sort_digits.make,
    "strings": strings.make,
    "base_conversion": base_conversion.make,
    "gym": gym.make,
    "jsonl": jsonl.make,
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
    return DOMAINS[name](options, path)
