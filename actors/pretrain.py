"""Base models built from scratch, each in a Ray task of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray

from ductile.config import ModelSettings
from ductile.settings import as_plain


@ray.remote(num_cpus=1, max_retries=2)
def build_model(settings: ModelSettings, which: str, cache: str, tracker: Any) -> str:
    """The folder of the base or of the proxy's small base: as set, from the cache, or trained now and logged."""
    import torch

    from ductile.pretrain import ensure_model, settings_key

    torch.set_num_threads(1)  # so that the model does not depend on the machine's number of cores
    run_id = None

    def log(step: int, metrics: dict[str, float]) -> None:
        nonlocal run_id
        if run_id is None:
            key = f"pretrain-{which}-{settings_key(settings, which)}"
            values = {"model": as_plain(settings)}
            run_id = ray.get(tracker.begin.remote(kind="pretrain", name=f"pretrain {which}", settings=values, key=key))
        tracker.metrics.remote(run_id, metrics, step)
        tracker.progress.remote(run_id, phase="pretrain", step=step, steps=settings.pretrain.steps)

    try:
        folder = ensure_model(settings, which, Path(cache), log)
    except Exception:
        if run_id is not None:
            ray.get(tracker.finish.remote(run_id, "FAILED"))
        raise
    if run_id is not None:
        ray.get(tracker.finish.remote(run_id, "FINISHED"))
    return str(folder)
