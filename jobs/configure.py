"""From the command line to checked settings: Hydra composes the presets under `configs/`, `ductile.config` types them.

    experiment=too_hard variant='[parameter_only,proxy]' seeds=3 phase.hard.steps=40

A group (experiment, model, plan, variant, probe) picks a preset file; any other key sets one value. In a comparison
variant and plan may be lists, and a value that only some runs have (`phase.hard.steps`, `variant.kl`) is set in those.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ductile.checks import check
from ductile.checks.swept import sweep_mistakes
from ductile.config import CompareSettings, RunSettings, SweepSettings
from ductile.models.load import check_folder, check_same_tokenizer
from ductile.models.trust import allow_code
from ductile.settings import SettingsError, as_plain, build, nearest, one_of
from ductile.variants import VARIANTS, make_variant

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
GROUPS = ("experiment", "model", "plan", "variant", "probe")
LISTS = ("variant", "plan")
"""The groups that a comparison takes lists of."""
JOBS = ("compare", "sweep")
"""Sections of an experiment that say what a job does with its runs; to a single run they say nothing."""

RESUME = "resume"
"""Names a run to go on with (jobs/resume.py); no setting."""

Values = Sequence[tuple[str, Any]]
"""Paths of settings and what they are set to, in order."""


@dataclass(frozen=True)
class Request:
    """What the command line asks for. choices: group -> preset; values: (path, value) in order."""

    choices: Mapping[str, Any]
    values: tuple[tuple[str, Any], ...]

    def nested(self) -> dict[str, Any]:
        """The values as a nested mapping."""
        return _resolved(_set_all(OmegaConf.create({}), self.values))


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
        if override.is_sweep_override():
            problems.append(f"{argument!r}: write a list in brackets: {override.key_or_group}='[a,b]'")
            continue
        if override.is_delete() or override.is_add() or override.is_force_add() or override.package is not None:
            problems.append(f"{argument!r}: only key=value is allowed here, without +, ~ or @")
            continue
        key, value = override.key_or_group, OmegaConf.to_container(OmegaConf.create({"v": override.value()}))["v"]  # type: ignore[index,call-overload]
        if key == RESUME:  # an id may look like a number, as 612e07 does
            value = argument.partition("=")[2]
        if key in groups:
            choices[key] = value
        else:
            values.append((key, value))
    if problems:
        raise SettingsError(problems)
    return Request(choices, tuple(values))


def run_settings(request: Request) -> RunSettings:
    """The settings of one run, checked: names, ranges, levels, folders. Raises `SettingsError` with every mistake."""
    _raise_with_values(_choice_mistakes(request.choices), request.values)
    config = _compose(request.choices)
    known = {None, *config.get("phase", {}), *_phases_with_domain(request.values)}
    lost = [key for key, _ in request.values if _phase_of(key) not in known]
    cells, problems = _checked(config, [(key, value) for key, value in request.values if key not in lost])
    _raise([*(_unused(key, config.get("phase", {})) for key in lost), *problems])
    return cells[0]


def run_folder_settings(folder: Path, request: Request) -> RunSettings:
    """The settings that a run wrote into its folder, with the request's probe preset and values on top, checked."""
    choices = dict(request.choices)
    preset = choices.pop("probe", None)
    _raise(f"{group}: the run in {str(folder)!r} has its own; leave {group}= out" for group in choices)
    values = json.loads((folder / "settings.json").read_text())
    if preset is not None:
        _raise(_choice_mistakes({"probe": preset}))
        values["probe"] |= _compose({"probe": preset}).get("probe", {})
    cells, problems = _checked(values, request.values)
    _raise(problems)
    return cells[0]


def compare_settings(request: Request) -> tuple[CompareSettings, list[RunSettings]]:
    """The grid and the settings of each of its runs, in order, all checked before any work starts."""
    values = [(key, value) for key, value in request.values if key != "seeds"]
    _raise_with_values(_choice_mistakes(request.choices, LISTS), values)
    grid = _grid(request, values)
    cells: list[RunSettings] = []
    problems: list[str] = []
    used: set[str] = set()
    phases: set[str] = set()
    for plan in grid.plans:
        for variant in grid.variants:
            config = _compose({**request.choices, "plan": plan, "variant": variant})
            fitting = [(key, value) for key, value in values if _fits(key, config)]
            used |= {key for key, _ in fitting}
            phases |= set(config.get("phase", {}))
            made, mistakes = _checked(config, fitting)
            made = [_called(cell, variant) for cell in made]
            cells += [replace(cell, seed=cell.seed + number) for cell in made for number in range(grid.seeds)]
            problems += mistakes
    _raise([*(_unused(key, phases) for key, _ in values if key not in used), *problems])
    _raise(_same_runs(cells))
    return grid, cells


def sweep_settings(request: Request) -> tuple[SweepSettings, RunSettings]:
    """The search and the run that its trials vary, checked with every run that the search could come to."""
    own = [(key, value) for key, value in request.values if key.split(".")[0] == "sweep"]
    values = tuple(each for each in request.values if each not in own)
    problems = list(_choice_mistakes(request.choices))
    sweep, settings = None, None
    if not problems:
        config = _compose(request.choices)
        try:
            wanted = _resolved(_set_all(OmegaConf.create({"sweep": config.get("sweep", {})}), own))["sweep"]
            if not isinstance(wanted, dict):
                raise SettingsError([f"sweep: {wanted!r} is not a group of settings"])
            sweep = build(SweepSettings, wanted, "sweep")
        except SettingsError as error:
            problems += error.problems
    try:
        settings = run_settings(Request(request.choices, values))
    except SettingsError as error:
        problems += error.problems
    if sweep is not None and settings is not None:
        problems += sweep_mistakes(sweep, settings)
    _raise(problems)
    assert sweep is not None and settings is not None
    return sweep, settings


def _called(settings: RunSettings, preset: str) -> RunSettings:
    """The settings of a run that is called as its variant's preset, where it has no label of its own."""
    return replace(settings, variant=replace(settings.variant, label=settings.variant.label or preset))


def _same_runs(cells: Sequence[RunSettings]) -> Iterator[str]:
    """A line for each variant that is another one under a second name, or has another one's name."""
    names: dict[str, str] = {}
    runs: dict[tuple[str, str, int], str] = {}
    folders: dict[str, str] = {}
    for cell in cells:
        called = cell.variant.called
        if (other := folders.setdefault(called.casefold(), called)) != called:
            yield f"variant.label: {called!r} and {other!r} are one folder where case does not count; rename one"
        plain = json.dumps(as_plain(replace(cell, variant=replace(cell.variant, label=""))), sort_keys=True)
        if (first := names.setdefault(plain, called)) != called:
            yield f"variant: {called} and {first} are the same run with these values; name one of them"
        if runs.setdefault((called, cell.plan, cell.seed), plain) != plain:
            yield f"variant.label: {called!r} for all variants; leave it out: a comparison calls them by their presets"


def presets(group: str) -> list[str]:
    """Names of the preset files of a group."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def _choice_mistakes(choices: Mapping[str, Any], lists: Sequence[str] = ()) -> Iterator[str]:
    """A line for every choice that is no preset. lists: the groups that may be given a list of them."""
    for group, chosen in choices.items():
        if isinstance(chosen, list) and group not in lists:
            where = "a comparison takes lists of variant and plan" if lists else "jobs.compare takes lists"
            yield f"{group}: {chosen} is a list; name one preset ({where})"
            continue
        for name in map(str, chosen if isinstance(chosen, list) else [chosen]):
            if group == "model" and name not in presets(group) and not Path(name).is_dir():
                close = nearest(name, presets(group))
                yield f"model: {name!r} is neither a folder nor a preset; presets: {', '.join(presets(group))}{close}"
            elif group != "model" and name not in presets(group):
                yield one_of(group, name, presets(group), "preset")


def _grid(request: Request, values: Values) -> CompareSettings:
    config = _compose({group: chosen for group, chosen in request.choices.items() if group not in LISTS})
    wanted = dict(config.get("compare", {}))
    for group in LISTS:
        chosen = request.choices.get(group)
        if chosen is not None:
            wanted[f"{group}s"] = chosen if isinstance(chosen, list) else [chosen]
    wanted |= {key: value for key, value in request.values if key == "seeds"}
    try:
        grid = build(CompareSettings, wanted)
    except SettingsError as error:
        _raise_with_values(error.problems, values)
        raise
    _raise_with_values(_choice_mistakes({"variant": list(grid.variants), "plan": list(grid.plans)}, LISTS), values)
    return grid


def _checked(config: Mapping[str, Any], values: Values) -> tuple[list[RunSettings], list[str]]:
    """One run's settings, or what is wrong with them."""
    try:
        own = {name: value for name, value in config.items() if name not in JOBS}
        settings = build(RunSettings, _resolved(_set_all(OmegaConf.create(own), values)))
    except SettingsError as error:
        return [], list(error.problems)
    mistakes = _mistakes(settings)
    return ([], mistakes) if mistakes else ([settings], [])


def _fits(key: str, config: Mapping[str, Any]) -> bool:
    """Whether a run of a comparison has a place for this value: its plan the phase, its variant the option."""
    if _phase_of(key) is not None:
        return _phase_of(key) in config.get("phase", {})
    option = key.removeprefix("variant.")
    if option == key or option in {field.name for field in fields(VARIANTS[config["variant"]["name"]])}:
        return True
    return option != "name" and not _users(option)  # what no variant has is a mistake, told when the run is built


def _phase_of(key: str) -> str | None:
    """The phase whose setting this is."""
    parts = key.split(".")
    return parts[1] if parts[0] == "phase" and len(parts) > 1 else None


def _phases_with_domain(values: Values) -> set[str | None]:
    """Phases that the command line itself makes: a phase is what it asks."""
    return {_phase_of(key) for key, _ in values if (key.split(".") + [""] * 2)[2] in ("", "domain")}


def _users(option: str) -> list[str]:
    return [name for name, kind in VARIANTS.items() if option in {field.name for field in fields(kind)}]


def _unused(key: str, phases: Iterable[str]) -> str:
    phase = _phase_of(key)
    if phase is not None:
        return one_of(key, phase, set(phases) or {"none, as the plan has no phase"}, "phase")
    if key == "variant.name":
        return "variant.name: a comparison names its variants in a list: variant='[parameter_only,proxy]'"
    return f"{key}: none of the compared variants uses it; used by: {', '.join(_users(key.removeprefix('variant.')))}"


def _set_all(config: DictConfig, values: Values) -> DictConfig:
    """The config with the values in their places; raises `SettingsError` for each that has none."""
    problems = []
    for key, value in values:
        try:
            OmegaConf.update(config, key, value, force_add=True)
        except (OmegaConfBaseException, ValueError, TypeError) as error:
            problems.append(f"{key}: cannot be set to {value!r}: {str(error).splitlines()[0]}")
    _raise(problems)
    return config


def _resolved(config: DictConfig) -> dict[str, Any]:
    """The config as plain values, with `${...}` replaced by what it stands for."""
    try:
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise SettingsError([f"{error.full_key}: {str(error).splitlines()[0]}"]) from error


def _compose(choices: Mapping[str, Any]) -> dict[str, Any]:
    """The presets' values as a plain mapping; a model that is no preset is a folder."""
    folder = choices.get("model")
    if folder is None or folder in presets("model"):
        folder = None
    overrides = [f"{group}={chosen}" for group, chosen in choices.items() if folder is None or group != "model"]
    with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
        config = _resolved(compose("job", overrides if folder is None else [*overrides, "~model"]))
    if folder is not None:
        config["model"] = {**config.get("model", {}), "path": str(folder)}
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
    allow_code(settings.model.trust_remote_code)
    given = {name: folder for name, folder in folders.items() if folder}
    wrong = [line for name, folder in given.items() for line in _complaints(check_folder, folder, name)]
    if not wrong and len(given) > 1:
        wrong = _complaints(check_same_tokenizer, list(given.values()))
    problems += wrong
    if not settings.model.path and not settings.model.mixture:
        problems.append(
            "model.mixture: empty, and no model.path is set; name a preset with model=small or give a folder"
        )
    return problems


def _complaints(check: Callable[..., object], *arguments: Any) -> list[str]:
    """What a check that raises says."""
    try:
        check(*arguments)
    except SettingsError as error:
        return list(error.problems)
    return []


def _raise(problems: Iterable[str]) -> None:
    lines = list(dict.fromkeys(problems))
    if lines:
        raise SettingsError(lines)


def _raise_with_values(problems: Iterable[str], values: Values) -> None:
    """Raise when there are problems with presets, and tell those of the single values in the same breath."""
    lines = list(problems)
    if not lines:
        return
    lines += _complaints(lambda: build(RunSettings, Request({}, tuple(values)).nested()))
    _raise(lines)
