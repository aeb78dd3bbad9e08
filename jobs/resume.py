"""Going on with what MLflow knows: `python -m jobs.run resume=RUN`, `python -m jobs.compare resume=COMPARISON`.

A run is named by its MLflow id, the beginning of it, or its name. Its settings are the ones that it was started with;
beside `resume` only settings may be given that no result depends on (`identity.ELSEWHERE` and `identity.MACHINERY`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from actors.tracker import TrackingError, tracking_uri
from ductile.checks import check
from ductile.checks.written import address_mistakes
from ductile.config import CompareSettings, RunSettings, TrackingSettings
from ductile.identity import ELSEWHERE, MACHINERY
from ductile.secrets import redacted
from ductile.settings import SettingsError, build
from jobs.configure import RESUME, Request


@dataclass(frozen=True)
class Kept:
    """A run as MLflow has it. key: by which its MLflow run is found again."""

    settings: RunSettings
    folder: Path
    key: str
    parent: str | None
    name: str


def asked_to_resume(request: Request) -> str | None:
    """What `resume=` names, or None. Raises `SettingsError` where that is nothing."""
    named: str | None = dict(request.values).get(RESUME)
    if named is not None and not named.strip():
        raise SettingsError(["resume: it names nothing; give a run's MLflow id, the beginning of it, or its name"])
    return named


def kept_run(request: Request) -> Kept:
    """The run that the request goes on with. Raises `SettingsError`."""
    run_id, tags, plain, _ = _find(request, "run")
    settings = _with(plain, request)
    folder = tags.get("ductile.folder")
    if folder is None:
        raise SettingsError([f"resume: the run {run_id} does not say where its folder is: it is of an older Ductile"])
    moved = Path(settings.output).absolute() / Path(folder).relative_to(plain["output"])
    if not any(moved.glob("checkpoint-*")) and not settings.checkpoint.store:
        raise SettingsError(
            [f"resume: {moved} has no checkpoint; name the folder that it is in now with output=, or start it anew"]
        )
    return Kept(settings, moved, tags["ductile.key"], tags.get("mlflow.parentRunId"), tags["mlflow.runName"])


def kept_comparison(request: Request) -> tuple[CompareSettings, list[RunSettings]]:
    """The grid and its runs, as `compare_settings` made them when it began. Raises `SettingsError`."""
    run_id, _, plain, cells = _find(request, "compare")
    if cells is None:
        raise SettingsError([f"resume: the comparison {run_id} does not hold {CELLS}: it is of an older Ductile"])
    grid = build(CompareSettings, plain["compare"])
    return grid, [_with(each, request) for each in json.loads(cells)]


CELLS = "cells.json"
"""Artifact of a comparison: the settings of every run, those that have not begun among them."""


def _find(request: Request, kind: str) -> tuple[str, Mapping[str, str], dict[str, Any], str | None]:
    """Id, tags, settings and `CELLS` of the run. Raises `SettingsError`, and `TrackingError` without an answer."""
    from actors.mlflow_store import MlflowStore, NoSuchRun  # MLflow takes seconds to import, and most jobs begin anew

    nested = request.nested()
    tracking = build(TrackingSettings, nested.get("tracking", {}))
    output = Path(nested.get("output", RunSettings().output))
    uri = tracking_uri(tracking, output)
    if mistakes := list(address_mistakes(uri)):
        raise SettingsError(mistakes)
    store = MlflowStore(uri, tracking.experiment)
    try:
        run_id, tags = store.find(str(asked_to_resume(request)), kind)
        return run_id, tags, store.read_settings(run_id), store.read_text(run_id, CELLS)
    except NoSuchRun as error:
        raise SettingsError([f"resume: {error}"]) from error
    except Exception as error:  # of MLflow, its database or its store: whatever it is, what was asked for is not there
        told = " ".join(redacted(str(error)).split())[:500]
        raise TrackingError(f"tracking.uri: {redacted(uri)}: MLflow could not be read: {told}") from error


def _with(plain: Mapping[str, Any], request: Request) -> RunSettings:
    """The kept settings with what may be changed of them."""
    lines = [f"{group}: leave it out: the run goes on with its own" for group in request.choices]
    values = [(key, value) for key, value in request.values if key != RESUME]
    lines += [
        f"{key}: the run's result depends on it; allowed beside resume: {_allowed()}"
        for key, _ in values
        if not _free(key)
    ]
    if lines:
        raise SettingsError(lines)
    config = OmegaConf.create(dict(plain))
    for key, value in values:
        OmegaConf.update(config, key, value, force_add=True)
    settings = build(RunSettings, OmegaConf.to_container(config))
    if mistakes := check(settings):
        raise SettingsError(mistakes)
    return settings


def _free(key: str) -> bool:
    section, _, rest = key.partition(".")
    return key != "name" and (section in ELSEWHERE or rest in MACHINERY.get(section, ()))


def _allowed() -> str:
    return ", ".join([*(name for name in ELSEWHERE if name != "name"), *_dotted(MACHINERY)])


def _dotted(sections: Mapping[str, Sequence[str]]) -> Iterable[str]:
    return (f"{section}.{name}" for section, names in sections.items() for name in names)
