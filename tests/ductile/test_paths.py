"""No name from a config or a checkpoint leads out of its folder."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ductile.checkpoint import FolderStore
from ductile.checks.written import written_name_mistakes
from ductile.config import RunSettings
from ductile.models.kept import recalled
from ductile.paths import LONGEST, UnsafePath, inside, name_mistake
from ductile.ports import Composition, Member
from ductile.settings import build

PIECES = st.sampled_from(["..", ".", "/", "\\", "\0", "a", "~", "run", " ", "\n", "\ud800", "é", "C:", "-", "x" * 300])
NAMES = st.one_of(st.text(max_size=20), st.lists(PIECES, max_size=6).map("".join))


@given(NAMES)
@example("../x")
@example("/etc/passwd")
@example("a/../../b")
@example("a/..")
@example("link/x")
def test_joined_path_is_below_its_root_or_refused(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        root.mkdir()
        (root / "link").symlink_to(folder)
        try:
            path = inside(root, name)
        except UnsafePath:
            return
        assert path.resolve() != root.resolve() and root.resolve() in path.resolve().parents


@given(NAMES)
def test_name_that_is_allowed_makes_one_file_in_its_folder(name: str) -> None:
    if name_mistake(name) is not None:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = inside(Path(folder), f"{name}-{name}-seed0")
        assert path.parent == Path(folder)
        path.mkdir()
        assert [each.name for each in Path(folder).iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["too_hard", "K = 3, low drift", "sort.3", "größer", "a" * LONGEST, "a..b"])
def test_ordinary_names_are_allowed(name: str) -> None:
    assert name_mistake(name) is None
    assert inside(Path("/runs"), name) == Path("/runs") / name


def test_relative_paths_of_several_parts_stay_usable(tmp_path: Path) -> None:
    assert inside(tmp_path, "difficulty/hard.json") == tmp_path / "difficulty" / "hard.json"


BAD = ["../../escaped", "/abs", "a/b", "", ".hidden", "-rf", "a\0b", "a\nb", "x" * 101, "..", "a\\b", " a"]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("path", ["name", "plan", "variant.label", "tracking.experiment", "phase", "data.prior"])
def test_settings_with_a_name_that_is_no_file_are_refused_in_one_line(path: str, bad: str) -> None:
    skill = {"domain": {"name": "chain_sum"}}
    values = {
        "name": {"name": bad},
        "plan": {"plan": bad},
        "variant.label": {"variant": {"label": bad}},
        "tracking.experiment": {"tracking": {"experiment": bad}},
        "phase": {"phase": {bad: skill}},
        "data.prior": {"data": {"prior": {bad: skill}}},
    }[path]
    lines = list(written_name_mistakes(build(RunSettings, values)))
    if path == "variant.label" and not bad:
        assert not lines  # empty: the variant's own name
        return
    (line,) = lines
    assert line.startswith(path) and "it names files" in line and "allowed: " in line


@pytest.mark.parametrize("name", ["models:../../elsewhere", "models:/etc", "models:", "/etc", "models:a/../../b"])
def test_checkpoint_cannot_name_a_model_outside_the_runs_folder(tmp_path: Path, name: str) -> None:
    origin = Composition((Member("policy", "/models/base", 1.0),), "policy")
    values = {"members": [{"role": "policy", "path": name, "coefficient": 1.0, "prefix": 0}], "trainable": "policy"}
    with pytest.raises(UnsafePath):
        recalled(values, origin, tmp_path / "models")


def test_checkpoint_cannot_name_a_snapshot_or_measurement_outside_its_folder(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "run", tmp_path / "memory")
    for act in (store.find_snapshot, store.remember, lambda name: store.keep(name, 1)):
        with pytest.raises(UnsafePath):
            act("../../escaped")
    assert not list(tmp_path.rglob("*escaped*"))
