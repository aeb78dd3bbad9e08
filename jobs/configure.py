"""From the command line to checked settings: Hydra composes the presets under `configs/`, `ductile.config` types them.

    experiment=too_hard variant='[parameter_only,proxy]' seeds=3 phase.hard.steps=40

A group (experiment, model, plan, variant) picks a preset file; any other key sets one value. In a comparison a group
may be a list, and a value that only some of its runs have (`phase.hard.steps`, `variant.kl`) is set in those.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ductile.config import CompareSettings, RunSettings
from ductile.models.load import check_folder
from ductile.plan import check
from ductile.settings import SettingsError, as_plain, build, one_of
from ductile.variants import VARIANTS, make_variant

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
GROUPS = ("experiment", "model", "plan", "variant")
GRID = ("variant", "plan", "seeds")


@dataclass(frozen=True)
class Request:
    """What the command line asks for. choices: group -> preset; values: (path, value) in order."""

    choices: Mapping[str, Any]
    values: tuple[tuple[str, Any], ...]

    def nested(self) -> dict[str, Any]:
        """The values as a nested mapping."""
        config = OmegaConf.create({})
        for key, value in self.values:
            _set(config, key, value)
        return OmegaConf.to_container(config)  # type: ignore[return-value]


def parse(arguments: Sequence[str], groups: Sequence[str] = GROUPS) -> Request:
    """Split `key=value` arguments into preset choices and values; raises `SettingsError` for anything else."""
    choices: dict[str, Any] = {}
    values: list[tuple[str, Any]] = []
    problems: list[str] = []
    for argument in arguments:
        try:
            override = OverridesParser.create().parse_overrides([argument])[0]
        except HydraException:
            problems.append(f"{argument!r}: write settings as key=value; --help lists them")
            continue
        if override.is_delete() or override.is_add() or override.is_force_add() or override.is_sweep_override():
            problems.append(f"{argument!r}: only key=value is allowed here, without +, ~ or a sweep")
            continue
        key, value = override.key_or_group, OmegaConf.to_container(OmegaConf.create({"v": override.value()}))["v"]  # type: ignore[index,call-overload]
        if key in groups:
            choices[key] = value
        else:
            values.append((key, value))
    if problems:
        raise SettingsError(problems)
    return Request(choices, tuple(values))


def run_settings(request: Request) -> RunSettings:
    """The settings of one run, checked: names, ranges, levels, folders. Raises `SettingsError` with every mistake."""
    cell = _cell(request, request.choices, set())
    _raise(_mistakes(cell))
    return cell


def compare_settings(request: Request) -> tuple[CompareSettings, list[RunSettings]]:
    """The grid and the settings of each of its runs, in order, all checked before any work starts."""
    grid = _grid(request)
    cells: list[RunSettings] = []
    problems: list[str] = []
    used: set[str] = set()
    for plan in grid.plans:
        for variant in grid.variants:
            choices = {**request.choices, "plan": plan, "variant": variant}
            try:
                cell = _cell(request, choices, used, partial=True)
            except SettingsError as error:
                problems += error.problems
                continue
            problems += _mistakes(cell)
            seeds = range(cell.seed, cell.seed + grid.seeds)
            cells += [build(RunSettings, as_plain(cell) | {"seed": seed}) for seed in seeds]
    if not problems:
        problems = [_unused(key, cells) for key, _ in request.values if key not in used and key != "seeds"]
    _raise(problems)
    return grid, cells


def help_text(job: str, meaning: str) -> str:
    """Every setting with its default and its meaning."""
    lines = [f"python -m jobs.{job} [key=value ...]", "", meaning, "", "Presets:"]
    lines += [f"  {group}={'|'.join(presets(group))}" for group in GROUPS]
    lines += ["  model=FOLDER: a Hugging Face folder, with its own tokenizer and chat template"]
    if job == "compare":
        lines += ["", "The grid; variant and plan take lists, as in variant='[parameter_only,proxy]':"]
        lines += [f"  {name}: {text}" for name, text in (("variant, plan", "presets"), ("seeds", "how many seeds"))]
    return "\n".join([*lines, "", *settings_help(RunSettings)])


def settings_help(cls: type) -> list[str]:
    """A line for each setting of a dataclass, with its default and meaning."""
    return ["Settings:", *_settings_lines(cls, "")]


def presets(group: str) -> list[str]:
    """Names of the preset files of a group."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def main_arguments(job: str, meaning: str) -> list[str]:
    """The command line's arguments; `--help` prints the settings and ends the program."""
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments):
        print(help_text(job, meaning))
        raise SystemExit(0)
    return arguments


def _grid(request: Request) -> CompareSettings:
    config = _compose({k: v for k, v in request.choices.items() if k not in ("plan", "variant")})
    values = dict(config.pop("compare", {}))
    for group, name in (("variant", "variants"), ("plan", "plans")):
        chosen = request.choices.get(group)
        if chosen is not None:
            values[name] = chosen if isinstance(chosen, list) else [chosen]
    values |= {key: value for key, value in request.values if key == "seeds"}
    grid = build(CompareSettings, values)
    _raise(
        [
            one_of(group, name, presets(group), "preset")
            for group, names in (("variant", grid.variants), ("plan", grid.plans))
            for name in names
            if name not in presets(group)
        ]
    )
    return grid


def _cell(request: Request, choices: Mapping[str, Any], used: set[str], partial: bool = False) -> RunSettings:
    """One run's settings. With `partial`, values that this plan or variant has no place for are passed over."""
    config = _compose(choices)
    config.pop("compare", None)
    values = OmegaConf.create(config)
    for key, value in request.values:
        if partial and (key == "seeds" or not _fits(key, config)):
            continue
        used.add(key)
        _set(values, key, value)
    return build(RunSettings, OmegaConf.to_container(values, resolve=True))  # type: ignore[arg-type]


def _fits(key: str, config: Mapping[str, Any]) -> bool:
    parts = key.split(".")
    if parts[0] == "phase" and len(parts) > 1:
        return parts[1] in config.get("phase", {})
    if parts[0] == "variant" and len(parts) == 2:
        options = {field.name for kind in VARIANTS.values() for field in fields(kind)}
        mine = {field.name for field in fields(VARIANTS[config["variant"]["name"]])}
        return parts[1] in mine or parts[1] not in options
    return True


def _set(config: Any, key: str, value: Any) -> None:
    try:
        OmegaConf.update(config, key, value, force_add=True)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise SettingsError([f"{key}: cannot be set to {value!r}: {str(error).splitlines()[0]}"]) from error


def _unused(key: str, cells: Sequence[RunSettings]) -> str:
    parts = key.split(".")
    if parts[0] == "phase":
        return one_of(key, parts[1], {name for cell in cells for name in cell.phase} or {"(none)"}, "phase of these plans")
    users = [name for name, kind in VARIANTS.items() if parts[1] in {field.name for field in fields(kind)}]
    return f"{key}: none of the compared variants uses it; used by: {', '.join(users)}"


def _compose(choices: Mapping[str, Any]) -> dict[str, Any]:
    """The presets' values as a plain mapping."""
    problems, overrides, path = [], [], None
    for group, chosen in choices.items():
        if isinstance(chosen, str) and chosen in presets(group):
            overrides.append(f"{group}={chosen}")
        elif group == "model" and isinstance(chosen, str):
            path = chosen
        else:
            problems.append(one_of(group, str(chosen), presets(group), "preset"))
    _raise(problems)
    with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
        config: dict[str, Any] = OmegaConf.to_container(compose("job", overrides), resolve=True)  # type: ignore[assignment]
    if path is not None:
        config["model"] = {"path": path}
    return config


def _mistakes(settings: RunSettings) -> list[str]:
    problems = list(check(settings))
    try:
        variant = make_variant(settings.variant)
    except SettingsError as error:
        return [*problems, *error.problems]
    folders = {"model.path": settings.model.path}
    if variant.needs_expert:
        folders["model.expert_path"] = settings.model.expert_path
        if settings.model.path and not settings.model.expert_path:
            problems.append(
                "model.expert_path: the proxy needs a small base with the same tokenizer beside model.path; "
                "give the Hugging Face folder of a smaller model of the family"
            )
    for name, folder in folders.items():
        if folder:
            try:
                check_folder(folder, name)
            except SettingsError as error:
                problems += error.problems
    if not settings.model.path and not settings.model.mixture:
        problems.append("model.mixture: empty, and no model.path is set; name a preset with model=small or give a folder")
    return problems


def _raise(problems: Sequence[str]) -> None:
    if problems:
        raise SettingsError(list(dict.fromkeys(problems)))


def _settings_lines(cls: type, path: str) -> list[str]:
    hints, lines = get_type_hints(cls), []
    for field in fields(cls):
        name, hint = f"{path}{field.name}", hints[field.name]
        inner = next((item for item in get_args(hint) if is_dataclass(item)), None)
        meaning = field.metadata["meaning"]
        if is_dataclass(hint):
            lines += [f"  {name}: {meaning}", *_settings_lines(hint, f"{name}.")]  # type: ignore[arg-type]
        elif inner is not None:
            lines += [f"  {name}.NAME: {meaning}", *_settings_lines(inner, f"{name}.NAME.")]  # type: ignore[arg-type]
        else:
            default = field.default_factory() if callable(field.default_factory) else field.default  # type: ignore[misc]
            choices = field.metadata["choices"]
            allowed = f" ({'|'.join(choices)})" if choices else ""
            shown = list(default) if isinstance(default, tuple) else default
            lines.append(f"  {name}={'' if shown is None else shown}{allowed}: {meaning}")
    return lines
