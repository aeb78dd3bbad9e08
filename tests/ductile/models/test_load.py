"""Folders that cannot be used are refused in one line that names the setting, and no code of theirs is run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from ductile.config import ArchitectureSettings
from ductile.models.load import check_folder, check_same_tokenizer, encode_problem, load_model, load_tokenizer
from ductile.models.scratch import build_llama
from ductile.models.tokenizer import PAD, character_tokenizer
from ductile.problem import Problem
from ductile.settings import SettingsError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@pytest.fixture
def folder(tiny_folder: str, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def refusal(folder: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        check_folder(str(folder), "model.path")
    (line,) = caught.value.problems
    assert "\n" not in line and line.startswith(f"model.path: {str(folder)!r}")
    return line.removeprefix(f"model.path: {str(folder)!r}")


def test_sound_folder_is_accepted(folder: Path) -> None:
    check_folder(str(folder), "model.path")


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    assert "is not a folder" in refusal(tmp_path / "nowhere")


def test_name_of_a_model_on_the_hub_is_refused_as_no_folder() -> None:
    assert "is not a folder" in refusal(Path("someone/some-model"))


def test_folder_without_a_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert refusal(folder).endswith("holds no config.json")


def test_folder_of_pickled_weights_alone_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "holds no safetensors weights" in refusal(folder)


def test_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    for name in TOKENIZER_FILES:
        (folder / name).unlink(missing_ok=True)
    assert "holds no tokenizer" in refusal(folder)


def test_tokenizer_without_an_end_token_is_refused(folder: Path) -> None:
    endless = PreTrainedTokenizerFast(tokenizer_object=character_tokenizer().backend_tokenizer, pad_token=PAD)
    for name in TOKENIZER_FILES:
        (folder / name).unlink(missing_ok=True)
    endless.save_pretrained(folder)
    assert "no end-of-sequence token" in refusal(folder)


@pytest.mark.parametrize(
    "config", ["{", "", '{"model_type": "no such model"}', "{}", '{"model_type": "llama", "hidden_size": "wide"}']
)
def test_broken_config_is_refused(folder: Path, config: str) -> None:
    (folder / "config.json").write_text(config)
    assert "cannot be loaded: " in refusal(folder)


def test_broken_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    assert "cannot be loaded: " in refusal(folder)


def test_tokenizer_of_no_known_kind_is_refused(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"] = {"type": "Abacus"}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "cannot be loaded: " in refusal(folder)


def test_model_of_another_kind_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "t5"}))
    assert refusal(folder) == " holds a model of type 't5', which is no causal language model"


@pytest.mark.parametrize("model_type", ["llama", "mine"])
def test_code_that_comes_with_a_checkpoint_is_not_run(folder: Path, model_type: str) -> None:
    ran = folder / "ran"
    (folder / "code.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import LlamaConfig as MyConfig, LlamaForCausalLM as MyModel\n"
    )
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": model_type,
        "auto_map": {"AutoConfig": "code.MyConfig", "AutoModelForCausalLM": "code.MyModel"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    if model_type == "mine":
        assert "set model.trust_remote_code=true" in refusal(folder)
        with pytest.raises(ValueError, match="trust_remote_code"):
            load_model(str(folder), "float32")
    else:
        check_folder(str(folder), "model.path")
        load_model(str(folder), "float32")
    assert not ran.exists()


def test_pickled_weights_are_not_loaded(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_model(str(folder), "float32")


@pytest.mark.parametrize(("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_model_is_loaded_in_the_number_format_asked_and_in_evaluation_mode(
    tiny_folder: str, name: str, dtype: torch.dtype
) -> None:
    model = load_model(tiny_folder, name)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert not model.training


def test_missing_padding_token_becomes_the_end_token(folder: Path) -> None:
    unpadded = PreTrainedTokenizerFast(tokenizer_object=character_tokenizer().backend_tokenizer, eos_token="<eos>")
    unpadded.save_pretrained(folder)
    loaded = load_tokenizer(str(folder))
    assert loaded.pad_token_id == loaded.eos_token_id is not None


def asked(prompt: str) -> Problem:
    return Problem("id", "domain", 1, prompt, "answer")


def test_prompt_gets_the_tokenizers_own_special_tokens_once() -> None:
    tokenizer = character_tokenizer()
    assert tokenizer.convert_ids_to_tokens(encode_problem(tokenizer, asked("a b"))) == ["a", " ", "b"]
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}:{{ m.content }}{% endfor %}<eos>"
    assert tokenizer.convert_ids_to_tokens(encode_problem(tokenizer, asked("hi"))) == [*"user:hi", "<eos>"]


def test_everything_a_problem_gives_comes_in_its_order() -> None:
    tokenizer = character_tokenizer()
    problem = replace(asked("c"), history=(("a", "b"),), instruction="i", hint="h", prefix=(200, 201))
    ids = encode_problem(tokenizer, problem)
    assert ids[:2] == [200, 201]
    assert tokenizer.convert_ids_to_tokens(ids[2:]) == [*"iabch"]
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    ids = encode_problem(tokenizer, problem)
    assert ids[:2] == [200, 201]
    assert tokenizer.decode(ids[2:]) == "system:i;user:a;assistant:b;user:c;>h"


def test_folders_of_one_vocabulary_are_accepted_and_those_of_others_refused(
    tiny_llama: Callable[[int], str], folder: Path
) -> None:
    check_same_tokenizer([tiny_llama(0), tiny_llama(1), str(folder)])
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    load_tokenizer.cache_clear()
    with pytest.raises(SettingsError) as caught:
        check_same_tokenizer([tiny_llama(0), tiny_llama(1), str(folder)])
    (line,) = caught.value.problems
    assert line.startswith("model.expert_path: ") and str(folder) in line and tiny_llama(0) in line


def test_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone() -> None:
    architecture, tokenizer = ArchitectureSettings(1, 16, 2, 32, 128), character_tokenizer()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (build_llama(architecture, tokenizer, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["model.embed_tokens.weight"], other["model.embed_tokens.weight"])
    assert torch.equal(one["lm_head.weight"], one["model.embed_tokens.weight"])


def test_model_from_scratch_has_the_size_asked() -> None:
    model = build_llama(ArchitectureSettings(3, 32, 4, 48, 200), character_tokenizer(), 0)
    assert len(model.model.layers) == 3
    assert model.model.layers[0].mlp.gate_proj.weight.shape == (48, 32)
    assert model.model.layers[0].self_attn.k_proj.weight.shape == (32, 32)
    assert model.config.num_attention_heads == 4 and model.config.max_position_embeddings == 200
    assert model.config.eos_token_id == character_tokenizer().eos_token_id
