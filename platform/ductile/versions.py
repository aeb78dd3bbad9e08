"""The versions of everything that a result depends on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from ductile import __version__

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "deepspeed",
    "ray",
    "mlflow",
    "reasoning-gym",
    "math-verify",
)


def versions() -> dict[str, str]:
    """Package name -> installed version, with Ductile's own and Python's; packages that are missing are left out."""
    found = {"ductile": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
