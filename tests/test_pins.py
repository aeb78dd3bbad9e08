"""What is installed: exact versions from the package index, and nothing from anywhere else."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines
    found = {}
    for line in lines:
        exact = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([0-9][A-Za-z0-9.!+]*)", line)
        assert exact, f"constraints.txt: {line!r} is no exact version"
        name = canonicalize_name(exact[1])
        assert name not in found, f"constraints.txt: {name} is there twice"
        found[name] = exact[2]
    return found


def test_every_pin_is_exact_and_there_once() -> None:
    assert len(pins()) > 100


def test_what_the_project_asks_for_is_pinned_and_agrees() -> None:
    project, pinned = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"], pins()
    for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        wanted = Requirement(line)
        assert wanted.url is None, line
        assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)]), line
    assert all(Requirement(line).url is None for line in project["optional-dependencies"]["bench"])


def test_nothing_is_installed_from_elsewhere_or_without_the_pins() -> None:
    for name in ("constraints.txt", "pyproject.toml"):
        assert not re.search(r"git\+|https?://|--(extra-)?index-url|--find-links|file:", (ROOT / name).read_text()), (
            name
        )
    installs = [line for line in (ROOT / "Makefile").read_text().splitlines() if "pip install" in line]
    assert len(installs) >= 3
    for line in installs:
        assert "-c constraints.txt" in line or line.rstrip().endswith("$(AUDIT)"), line
        assert not re.search(r"--(extra-)?index-url|--find-links|--trusted-host|git\+", line), line
