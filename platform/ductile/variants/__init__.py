"""How the policy is composed and updated: one file a variant, and the dict that names them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields

from ductile.config import VariantSettings
from ductile.settings import SettingsError, one_of
from ductile.variants.base import Checked, Variant
from ductile.variants.expert_iteration import ExpertIteration
from ductile.variants.fast_lora import FastLora
from ductile.variants.fast_prefix import FastPrefix
from ductile.variants.fast_slow import FastSlow
from ductile.variants.low_drift import LowDrift
from ductile.variants.parameter_only import ParameterOnly
from ductile.variants.proxy import Proxy
from ductile.variants.self_proxy import SelfProxy

VARIANTS: dict[
    str,
    type[ParameterOnly]
    | type[LowDrift]
    | type[Proxy]
    | type[ExpertIteration]
    | type[FastSlow]
    | type[SelfProxy]
    | type[FastPrefix]
    | type[FastLora],
] = {
    "parameter_only": ParameterOnly,
    "low_drift": LowDrift,
    "proxy": Proxy,
    "self_proxy": SelfProxy,
    "expert_iteration": ExpertIteration,
    "fast_slow": FastSlow,
    "fast_prefix": FastPrefix,
    "fast_lora": FastLora,
}


def make_variant(settings: VariantSettings, path: str = "variant") -> Variant:
    """The variant that the settings name.

    Raises `SettingsError` for an unknown name, an option that the variant needs and that is not set, one that is set
    and would never be read, and whatever the variant's own `check` finds.
    """
    if settings.name not in VARIANTS:
        raise SettingsError([one_of(f"{path}.name", settings.name, VARIANTS, "variant")])
    kind: Callable[..., Variant] = VARIANTS[settings.name]
    used = {field.name for field in fields(VARIANTS[settings.name])}
    required = {field.name for field in fields(VARIANTS[settings.name]) if field.default is MISSING}
    given = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name not in ("name", "label")}
    problems = [
        f"{path}.{name}: {settings.name} needs it; set it, or start from the preset variant={settings.name}"
        for name in sorted(required)
        if given[name] is None
    ] + [
        f"{path}.{name}: {value!r} is set, but {settings.name} does not use it; used by: {', '.join(_users(name))}"
        for name, value in given.items()
        if value is not None and name not in used
    ]
    if problems:
        raise SettingsError(problems)
    variant = kind(**{name: given[name] for name in used if given[name] is not None})
    if isinstance(variant, Checked) and (problems := [f"{path}.{line}" for line in variant.check()]):
        raise SettingsError(problems)
    return variant


def _users(option: str) -> list[str]:
    return [name for name, kind in VARIANTS.items() if option in {field.name for field in fields(kind)}]


__all__ = ["VARIANTS", "Variant", "make_variant"]
