"""Jobs as their user starts them, on models and plans small enough for seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.tiny import TINY


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests, so that the tiny models are built once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def command(cache: Path) -> Callable[..., list[str]]:
    """The command line of a job on the tiny settings, with more settings after them."""

    def build(job: str, output: Path, *more: str) -> list[str]:
        return [sys.executable, "-m", f"jobs.{job}", *TINY, f"output={output}", f"cache={cache}", *more]

    return build
