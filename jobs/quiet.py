"""A tracker that only shows, on stderr, what a job without MLflow is doing."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.status import Status


class Quiet:
    """Implements `ports.Tracker`. In a terminal one line that changes, elsewhere a line for each thing that begins."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._status: Status | None = None
        self._began = time.monotonic()

    def __enter__(self) -> Quiet:
        if self._console.is_terminal:
            self._status = self._console.status("")
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._status is not None:
            self._status.stop()

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        pass

    def progress(self, **state: Any) -> None:
        line = f"{time.monotonic() - self._began:4.0f} s  {state['phase']}"
        if self._status is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._status.update(line)

    def artifact(self, name: str, content: str) -> None:
        pass

    def position(self) -> Mapping[str, Any]:
        return {}

    def pretraining(self, step: int, metrics: dict[str, float]) -> None:
        """What `pretrain.ensure_model` calls as a base is built."""
        if step % 100 == 0:
            self.progress(phase=f"pretraining, step {step}, loss {metrics['pretrain/loss']:.2f}")
