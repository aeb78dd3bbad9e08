"""Probes without a run: of a base, or of what a run or a training made of it, beside the base.

    python -m jobs.probe model=FOLDER probes=all
    python -m jobs.probe checkpoint=runs/too_hard-1a2b/parameter_only-guessable-seed0 probes=all
    python -m jobs.probe model=BASE checkpoint=TRAINED probe=prose probes='[drift,units,spectrum]'

probes: names, or all. checkpoint: the folder of a run, whose latest checkpoint is measured with the run's own settings;
or a Hugging Face folder of the base's architecture. What was measured before is not measured again. Starts no Ray.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ductile.alone import measure_alone
from ductile.checkpoint import FolderStore, write_text
from ductile.config import RunSettings
from ductile.identity import fingerprint, identify
from ductile.learner import restored_learner, run_composition
from ductile.local import local_ports
from ductile.models.load import check_folder, load_model
from ductile.pretrain import ensure_model
from ductile.settings import SettingsError, as_plain
from ductile.variants import make_variant
from jobs.configure import Request, parse, run_folder_settings, run_settings
from jobs.driver import absolute, main
from jobs.probe_table import print_probes
from jobs.quiet import Quiet
from jobs.usage import main_arguments


def job() -> int:
    """Measure, print the table, and keep everything as JSON."""
    settings, checkpoint = _asked(parse(main_arguments("probe", __doc__ or "")))
    rows, folder = _measure(absolute(settings), checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "settings.json", json.dumps(as_plain(settings), indent=1))
    write_text(folder / "probes.json", json.dumps(rows, indent=1))
    console = Console(width=None if Console().is_terminal else 120)
    print_probes(rows, console)
    console.print(f"\nevery number and table  {folder / 'probes.json'}", soft_wrap=True, highlight=False)
    return 0


def _asked(request: Request) -> tuple[RunSettings, Path | None]:
    """The settings, and the folder that `checkpoint` names; raises `SettingsError` before any work."""
    special = {key: value for key, value in request.values if key in ("probes", "checkpoint")}
    values = [(key, value) for key, value in request.values if key not in special]
    if "probes" in special:
        names = special["probes"]
        values.append(("probe.probes", names if isinstance(names, list) else [names]))
    folder = Path(str(special["checkpoint"])) if special.get("checkpoint") else None
    if folder is not None and (folder / "settings.json").is_file():
        return run_folder_settings(folder, Request(request.choices, tuple(values))), folder
    settings = run_settings(Request({"probe": "small", **request.choices}, tuple(values)))
    if folder is not None:
        check_folder(str(folder), "checkpoint")
    return settings, folder


def _measure(settings: RunSettings, checkpoint: Path | None) -> tuple[list[dict[str, Any]], Path]:
    """The rows of the base and of the checkpoint, and the folder that they belong in."""
    torch.set_num_threads(settings.rollout.threads)
    variant, tracker, cache = make_variant(settings.variant), Quiet(), Path(settings.cache)
    base = ensure_model(settings.model, "base", cache, tracker.pretraining)
    expert = ensure_model(settings.model, "expert", cache, tracker.pretraining) if variant.needs_expert else base
    identity = identify(settings, [base, expert] if variant.needs_expert else [base])
    composition = run_composition(settings, variant, base, expert)
    latest, after, start = None, "", None
    if checkpoint is not None and (checkpoint / "settings.json").is_file():
        latest = _latest(checkpoint)
        after = fingerprint([latest / "learner" / f"{name}.safetensors" for name in ("weights", "phase_start")])
    elif checkpoint is not None:
        after, start = fingerprint(sorted(checkpoint.glob("*.safetensors"))), load_model(str(checkpoint), "float32")
    try:
        models = checkpoint and checkpoint / "models"
        learner = restored_learner(settings, variant, composition, latest and latest / "learner", start, models)
    except RuntimeError as error:
        what = f"checkpoint: {str(checkpoint)!r} does not fit the model in {str(base)!r}"
        raise SettingsError([f"{what}: {str(error).strip().splitlines()[-1].strip()}"]) from error
    folder = Path(settings.output) / f"probes-{identity.run}{f'-{after}' if after else ''}"
    ports = local_ports(settings, variant, learner, tracker, folder, cache / "measured")
    with tracker:
        return measure_alone(settings, variant, ports, identity, after, latest), folder


def _latest(folder: Path) -> Path:
    latest = FolderStore(folder, folder).latest()
    if latest is None:
        raise SettingsError([f"checkpoint: {str(folder)!r} has no complete checkpoint yet"])
    return latest


if __name__ == "__main__":
    main(job)
