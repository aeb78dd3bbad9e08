"""Whether Python code that comes with a model's folder may run: no, unless `model.trust_remote_code` says so.

It is a property of the job and not of a model: it holds in every process that the job starts, so it travels in the
environment, as the number of threads does. No checkpoint and no composition can ask for it.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

VARIABLE = "DUCTILE_TRUST_REMOTE_CODE"
MOST_CONFIG = 16 << 20
"""Bytes of a JSON file of a model's folder that is looked into; the largest of published models have a hundredth."""


def allow_code(allowed: bool) -> None:
    """Let code of models' folders run in this process and in those it starts from now on, or let it not."""
    os.environ[VARIABLE] = str(int(allowed))


def code_allowed(folder: str) -> bool:
    """Whether code of this folder may run; a warning names a folder that has any, once in each process."""
    allowed = os.environ.get(VARIABLE) == "1"
    if allowed and brings_code(folder):
        _warn(str(folder))
    return allowed


def brings_code(folder: str) -> bool:
    """Whether the folder's configuration or tokenizer names classes of its own; raises nothing."""
    return any("auto_map" in _json(Path(folder) / name) for name in ("config.json", "tokenizer_config.json"))


@functools.cache
def _warn(folder: str) -> None:
    log.warning(
        "model.trust_remote_code is on: Python code in %s runs in this job, with your rights, on every machine that it "
        "uses",
        folder,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_CONFIG:
            return {}
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # what is wrong with it, transformers says
        return {}
    return values if isinstance(values, dict) else {}
