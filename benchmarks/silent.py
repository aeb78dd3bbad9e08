"""A tracker that keeps nothing, for benchmarks to keep what they measure in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Silent:
    """Implements `ports.Tracker`."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Nothing is kept of a step."""

    def progress(self, **state: Any) -> None:
        """Nobody looks."""

    def artifact(self, name: str, content: str) -> None:
        """No file is kept."""

    def position(self) -> Mapping[str, Any]:
        """Where a run would go on: at its beginning."""
        return {}
