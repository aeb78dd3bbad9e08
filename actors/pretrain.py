"""Base models built from scratch, each in a Ray task of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray

from actors.tracker import RunTracker
from ductile.config import ModelSettings
from ductile.settings import as_plain


@ray.remote(num_cpus=1, max_retries=2)
def build_model(settings: ModelSettings, which: str, cache: str, tracker: Any) -> str:
    """The folder of the base or of the proxy's small base: as set, from the cache, or trained now and logged."""
    import torch

    from ductile.models.cached import settings_key
    from ductile.pretrain import ensure_model

    torch.set_num_threads(1)  # so that the model does not depend on the machine's number of cores
    run: RunTracker | None = None

    def log(step: int, metrics: dict[str, float]) -> None:
        nonlocal run
        if run is None:
            key = f"pretrain-{which}-{settings_key(settings, which)}"
            values = {"model": as_plain(settings)}
            begun = tracker.begin.remote(kind="pretrain", name=f"pretrain {which}", settings=values, key=key)
            run = RunTracker(tracker, ray.get(begun))
        run.metrics(metrics, step)
        run.progress(phase="pretrain", step=step, steps=settings.pretrain.steps)

    try:
        folder = ensure_model(settings, which, Path(cache), log)
    except Exception:
        if run is not None:
            ray.get(tracker.finish.remote(run.run_id, "FAILED"))
        raise
    if run is not None:
        run.position()
        ray.get(tracker.finish.remote(run.run_id, "FINISHED"))
    return str(folder)
