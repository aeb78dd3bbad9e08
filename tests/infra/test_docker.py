"""The images: rules of a Dockerfile that matter here, and that they install what `make venv` does."""

from __future__ import annotations

import fnmatch
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.infra.files import DOCKERFILES, INFRA, ROOT, pins, project

RAY = [INFRA / "docker" / "Dockerfile", INFRA / "docker" / "Dockerfile.cuda"]
INSTRUCTIONS = ("FROM", "ARG", "WORKDIR", "RUN", "COPY", "ENV", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD")


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, arguments) in order, continued lines joined, comments left out."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(" ", 1)) for line in joined.splitlines() if line.strip()]  # type: ignore[misc]


def final_stage(path: Path) -> list[tuple[str, str]]:
    found = instructions(path)
    return found[max(i for i, (name, _) in enumerate(found) if name == "FROM") :]


def environment(path: Path) -> dict[str, str]:
    return dict(part.split("=", 1) for name, text in final_stage(path) if name == "ENV" for part in shlex.split(text))


def test_there_are_three_images():
    assert [str(path.relative_to(INFRA)) for path in DOCKERFILES] == [
        "docker/Dockerfile",
        "docker/Dockerfile.cuda",
        "mlflow/Dockerfile",
    ]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: str(p.relative_to(INFRA)))
def test_every_line_is_an_instruction_and_the_image_does_not_run_as_root(path: Path):
    assert {name for name, _ in instructions(path)} <= set(INSTRUCTIONS)
    users = [text for name, text in final_stage(path) if name == "USER"]
    assert users == ["1000:1000"]  # a number: Kubernetes checks runAsNonRoot by it
    assert [name for name, _ in final_stage(path)].index("USER") > max(
        index for index, (name, _) in enumerate(final_stage(path)) if name in ("RUN", "COPY")
    )
    assert [name for name, _ in final_stage(path)].count("HEALTHCHECK") == 1


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: str(p.relative_to(INFRA)))
def test_package_lists_do_not_stay_in_a_layer_and_nothing_is_fetched_from_elsewhere(path: Path):
    for name, text in instructions(path):
        if name == "RUN" and "apt-get install" in text:
            assert "--no-install-recommends" in text and "rm -rf /var/lib/apt/lists/*" in text
        assert not re.search(r"(^|[;&|] *)(curl|wget) |https?://(?!localhost)", text)
        assert not re.search(r"(?i)(password|secret|api_key)=", text)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: str(p.relative_to(INFRA)))
def test_everything_that_is_copied_exists_and_reaches_the_builder(path: Path):
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignore[1] == "*"
    let_in = [line[1:] for line in ignore if line.startswith("!")]
    for name, text in instructions(path):
        if name == "COPY" and "--from=" not in text:
            for source in text.split()[:-1]:
                assert (ROOT / source).exists()
                assert any(fnmatch.fnmatch(source, pattern) for pattern in let_in), source


@pytest.mark.parametrize("path", RAY, ids=lambda p: p.name)
def test_ray_images_find_the_code_and_take_nobody_without_a_token(path: Path):
    env = environment(path)
    copied = [text.split()[-1] for name, text in final_stage(path) if name == "COPY"]
    for folder in env["PYTHONPATH"].split(":"):
        assert any(target.startswith(folder) for target in copied)
    assert {"/opt/ductile/platform", "/opt/ductile/actors", "/opt/ductile/jobs", "/opt/ductile/configs"} <= set(copied)
    assert env["RAY_AUTH_MODE"] == "token"
    assert env["PATH"].startswith("/opt/venv/bin:")
    assert "wget" in path.read_text()  # KubeRay's probes call it


def test_the_two_ray_images_differ_in_what_a_gpu_needs_alone():
    cpu, cuda = (set(instructions(path)) for path in RAY)
    assert {name for name, _ in cpu ^ cuda} == {"RUN", "ENV"}
    assert set(environment(RAY[1])) - set(environment(RAY[0])) == {
        "NVIDIA_VISIBLE_DEVICES",
        "NVIDIA_DRIVER_CAPABILITIES",
    }


def test_the_script_installs_what_make_venv_installs(tmp_path: Path):
    """It is run with a Python that writes down what it is asked, in place of installing it."""
    asked = tmp_path / "asked"
    python = tmp_path / "python"
    python.write_text(
        f"""#!{sys.executable}
import os, shutil, sys
if sys.argv[1] == "-c":
    exec(sys.argv[2])
    raise SystemExit
with open({str(asked)!r}, "a") as file:
    print("DS_BUILD_OPS=" + os.environ["DS_BUILD_OPS"], *sys.argv[1:], file=file)
if "-r" in sys.argv:
    shutil.copy(sys.argv[-1], {str(tmp_path / "wanted")!r})
"""
    )
    python.chmod(0o755)
    flags = {"TORCH_FLAGS": "--index-url https://example.com/cpu", "PATH": "/usr/local/bin:/usr/bin:/bin"}
    script = INFRA / "docker" / "install.sh"
    subprocess.run([str(script), str(python)], check=True, cwd="/", env=flags)
    torch, rest, check = asked.read_text().splitlines()
    makefile = (ROOT / "Makefile").read_text()
    pin = re.search(r"^TORCH := (\S+)$", makefile, re.MULTILINE)[1]  # type: ignore[index]
    assert pin == f"torch=={pins()['torch']}"
    assert (
        torch == f"DS_BUILD_OPS=0 -m pip install --quiet --index-url https://example.com/cpu -c constraints.txt {pin}"
    )
    assert rest.startswith("DS_BUILD_OPS=0 -m pip install --quiet -c constraints.txt -r ")
    assert "--index-url" not in rest
    assert check.endswith("-m pip check")
    assert (tmp_path / "wanted").read_text().splitlines() == project()["dependencies"]
