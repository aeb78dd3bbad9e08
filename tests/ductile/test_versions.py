"""Versions are those of the installed packages."""

from __future__ import annotations

import platform

import numpy as np
import pytest
import torch

import ductile
from ductile.versions import PACKAGES, versions


def test_versions_are_what_the_packages_say_themselves() -> None:
    found = versions()
    assert found["torch"] == torch.__version__
    assert found["numpy"] == np.__version__
    assert found["python"] == platform.python_version()
    assert found["ductile"] == ductile.__version__


def test_package_that_is_missing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ductile.versions.PACKAGES", (*PACKAGES, "no-such-package"))
    assert set(versions()) == {"ductile", "python", *PACKAGES}
