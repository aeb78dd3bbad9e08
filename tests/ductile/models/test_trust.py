"""Code that comes with a model's folder runs when it is asked for, with a warning, and never otherwise."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ductile.models import trust
from ductile.models.load import check_folder, load_model, load_tokenizer, parameter_names
from ductile.settings import SettingsError

CODE = """
from transformers import LlamaConfig, LlamaForCausalLM
open({ran!r}, 'a').write('x')

class MyConfig(LlamaConfig):
    model_type = 'mine'

class MyModel(LlamaForCausalLM):
    config_class = MyConfig
"""


@pytest.fixture
def folder(tiny_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A model of a type that transformers does not know. Its code leaves the file `ran`."""
    monkeypatch.delenv(trust.VARIABLE, raising=False)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "own_code"))
    (folder / "code.py").write_text(CODE.format(ran=str(tmp_path / "ran")))
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "mine",
        "auto_map": {"AutoConfig": "code.MyConfig", "AutoModelForCausalLM": "code.MyModel"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    trust._warn.cache_clear()
    yield folder
    parameter_names.cache_clear()
    load_tokenizer.cache_clear()


def test_folder_that_needs_code_is_refused_in_one_line_that_names_the_setting(folder: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        check_folder(str(folder), "model.path")
    (line,) = caught.value.problems
    assert line.startswith(f"model.path: {str(folder)!r} needs Python code")
    assert "model.trust_remote_code=true" in line
    assert not (folder.parent / "ran").exists()


def test_code_runs_where_it_is_allowed_and_one_warning_names_the_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(trust.VARIABLE, "0")
    trust.allow_code(True)
    with caplog.at_level(logging.WARNING, "ductile"):
        check_folder(str(folder), "model.path")
        model = load_model(str(folder), "float32")
    assert type(model).__name__ == "MyModel"
    assert (folder.parent / "ran").exists()
    (record,) = caplog.records
    assert str(folder) in record.getMessage() and "with your rights" in record.getMessage()


def test_known_models_are_loaded_without_a_word_where_code_is_allowed(
    tiny_folder: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(trust.VARIABLE, "1")
    load_model(tiny_folder, "float32")
    assert not caplog.records


@pytest.mark.parametrize("text", ["[" * 100_000, "\x00", "[]", "7", "{", '{"auto_map": 3}'])
def test_broken_configuration_brings_no_code_and_no_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert trust.brings_code(str(tmp_path)) == ("auto_map" in text)


def test_configuration_of_many_megabytes_is_refused_unread(folder: Path) -> None:
    with (folder / "config.json").open("r+b") as file:
        file.truncate(trust.MOST_CONFIG + 1)
    with pytest.raises(SettingsError, match="has more than"):
        check_folder(str(folder), "model.path")
