"""What holds for every file of infra/: it parses, names its images by version, and has no secret in it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.infra.files import INFRA, ROOT, documents, images, pins, version

TEXTS = sorted(path for path in INFRA.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


@pytest.mark.parametrize("path", [p for p in TEXTS if p.suffix in (".yaml", ".yml")], ids=lambda p: p.name)
def test_every_yaml_file_parses(path: Path):
    assert documents(path)


@pytest.mark.parametrize("path", [p for p in TEXTS if p.suffix == ".json"], ids=lambda p: p.name)
def test_every_json_file_parses(path: Path):
    assert json.loads(path.read_text())


def test_every_image_has_a_version():
    named = list(images())
    assert len(named) > 10
    bare = [(path.name, image) for path, image in named if not re.search(r":[\w.\-]*\d[\w.\-]*$", image)]
    assert bare == []


def test_our_own_images_have_the_version_of_what_is_in_them():
    wanted = {"ductile": (version(), f"{version()}-cuda"), "ductile-mlflow": (pins()["mlflow"],)}
    ours = [image.split("/")[-1].split(":") for _, image in images() if image.split("/")[-1].startswith("ductile")]
    assert {name for name, _ in ours} == set(wanted)
    assert [(name, tag) for name, tag in ours if tag not in wanted[name]] == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: str(p.relative_to(INFRA)))
def test_no_secret_is_in_clear(path: Path):
    text = path.read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|gh[pousr]_\w{36}|hf_[A-Za-z]{30}", text)
    given = re.findall(r"^\s*(?:- )?\w*(?:PASSWORD|SECRET|TOKEN|ACCESS_KEY)\w*\s*[:=][ \t]*(\S.*)$", text, re.MULTILINE)
    # A reference to the environment or a Secret is none; neither is a Python line that reads one.
    assert [value for value in given if not value.startswith(("${", "$(", "os.environ"))] == []


def test_passwords_of_compose_are_never_committed():
    """git ignores the file that holds them, and its example holds none."""
    ignored = subprocess.run(["git", "check-ignore", "-q", "infra/mlflow/.env"], cwd=ROOT, check=False)
    assert ignored.returncode == 0
    example = (INFRA / "mlflow" / ".env.example").read_text()
    assert re.findall(r"^(POSTGRES_PASSWORD|S3_ACCESS_KEY|S3_SECRET_KEY)=$", example, re.MULTILINE)
    assert not re.findall(r"^\w+=.+$", example, re.MULTILINE)
