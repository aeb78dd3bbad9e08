"""The files of infra/, read; and the pins that they must agree with."""

from __future__ import annotations

import functools
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
KUBERNETES = sorted((INFRA / "kubernetes").glob("*.yaml"))
DOCKERFILES = sorted(INFRA.glob("**/Dockerfile*"))
COMPOSE = INFRA / "mlflow" / "compose.yaml"


def pins() -> dict[str, str]:
    """Version of every package in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def version() -> str:
    """Ductile's own."""
    return re.search(r'__version__ = "(.+)"', (ROOT / "platform/ductile/__init__.py").read_text())[1]  # type: ignore[index]


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@functools.cache
def documents(path: Path) -> list[dict[str, Any]]:
    """The YAML documents of a file; tests copy what they change."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def manifests(kind: str = "") -> list[dict[str, Any]]:
    """Every Kubernetes resource of infra/kubernetes, or those of one kind."""
    found = [document for path in KUBERNETES if path.name != "kustomization.yaml" for document in documents(path)]
    return [document for document in found if not kind or document["kind"] == kind]


def schema(name: str) -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "schemas" / f"{name}.json").read_text())


def walk(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every value inside, with its path."""
    yield path, value
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from walk(item, (*path, key))


def images() -> Iterator[tuple[Path, str]]:
    """Every image that a file of infra/ names, with the file."""
    for path in DOCKERFILES:
        for line in re.findall(r"^FROM (\S+)", path.read_text(), re.MULTILINE):
            yield path, line
    for path in (*KUBERNETES, COMPOSE, *(INFRA / "ray_up").glob("*.yaml")):
        if path.name != "kustomization.yaml":
            for document in documents(path):
                yield from ((path, image) for where, image in walk(document) if where and where[-1] == "image")
