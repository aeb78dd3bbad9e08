"""Hugging Face folders, read from disk only: safetensors weights, no pickles, no code but by `models.trust`.

Importing transformers' models takes more than a second, so that it waits until one of them is asked for: a job's own
process never does with a base model from scratch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ductile.models.soft_prefix import add_prefix
from ductile.models.trust import MOST_CONFIG, brings_code, code_allowed
from ductile.problem import Problem
from ductile.settings import SettingsError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_model(path: str, dtype: str, prefix: int = 0) -> PreTrainedModel:
    """The causal language model in a folder, in evaluation mode.

    dtype: a key of `DTYPES`; prefix: rows of soft prefixes that it gets.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # a bar for each loaded model would bury the job's own display
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        path, dtype=DTYPES[dtype], local_files_only=True, trust_remote_code=code_allowed(path), use_safetensors=True
    )
    if prefix:
        add_prefix(model, prefix)
    return model.eval()


def fresh_model(path: str, seed: int) -> PreTrainedModel:
    """A model of the architecture in a folder with weights drawn anew, float32; the same seed gives the same."""
    from transformers import AutoModelForCausalLM

    config = load_config(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, trust_remote_code=code_allowed(path)
        )
    return model.eval()


@functools.lru_cache(maxsize=8)
def parameter_names(path: str) -> tuple[str, ...]:
    """Names of the parameters of the model in a folder, a tied one once; no weight is read."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        config = load_config(path)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=code_allowed(path))
    return tuple(name for name, _ in model.named_parameters())


def initializer_range(path: str) -> float:
    """Standard deviation of the weights that the model's own class would draw (transformers' `_init_weights`)."""
    return float(getattr(load_config(path).get_text_config(), "initializer_range", 0.02))


def load_config(path: str) -> PreTrainedConfig:
    """The configuration of the model in a folder."""
    from transformers import AutoConfig

    config: PreTrainedConfig = AutoConfig.from_pretrained(
        path, local_files_only=True, trust_remote_code=code_allowed(path)
    )
    return config


@functools.lru_cache(maxsize=8)
def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The fast tokenizer in a folder; a missing padding token becomes the end-of-sequence token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=code_allowed(path))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def encode_problem(tokenizer: PreTrainedTokenizerBase, problem: Problem) -> list[int]:
    """Token ids of everything that a problem gives: by the tokenizer's chat template, or as plain text without one.

    In a chat template the instruction is the system message, the history are earlier turns, and a hint begins the
    answer. A soft prefix comes before all of it.
    """
    if not tokenizer.chat_template:
        return [*problem.prefix, *tokenizer(problem.transcript)["input_ids"]]
    system = [{"role": "system", "content": problem.instruction}] if problem.instruction else []
    turns = [
        {"role": role, "content": text}
        for asked, answered in problem.history
        for role, text in (("user", asked), ("assistant", answered))
    ]
    text = tokenizer.apply_chat_template(
        [*system, *turns, {"role": "user", "content": problem.prompt}], tokenize=False, add_generation_prompt=True
    )
    return [*problem.prefix, *tokenizer(str(text) + problem.hint, add_special_tokens=False)["input_ids"]]


def encode_answered(
    tokenizer: PreTrainedTokenizerBase, problem: Problem, text: str
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Token ids of what a problem gives and of an answer to it, the end-of-sequence token included: to learn from."""
    answer = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return np.array(encode_problem(tokenizer, problem), np.int32), np.array(answer, np.int32)


def check_folder(path: str, setting: str) -> None:
    """Raise `SettingsError` when `path` is not a Hugging Face folder of a causal LM that can be loaded safely."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    folder = Path(path)
    if not folder.is_dir():
        raise SettingsError([f"{setting}: {path!r} is not a folder; give a Hugging Face folder on this machine"])
    needed = {
        "config.json": "no config.json",
        "*.safetensors": "no safetensors weights; save them with save_pretrained first",
        "tokenizer*": "no tokenizer; save it beside the model with tokenizer.save_pretrained",
    }
    for pattern, what in needed.items():
        if not list(folder.glob(pattern)):
            raise SettingsError([f"{setting}: {path!r} holds {what}"])
    for file in folder.glob("*config.json"):
        if file.stat().st_size > MOST_CONFIG:
            raise SettingsError([f"{setting}: {path!r}: {file.name} has more than {MOST_CONFIG} bytes"])
    try:
        config, tokenizer = load_config(path), load_tokenizer(path)
    except Exception as error:  # a broken file raises whatever its reader raises, tokenizers' a bare Exception
        if brings_code(path) and not code_allowed(path):
            raise SettingsError([_asks_for_trust(path, setting)]) from error
        reason = str(error).strip().splitlines()
        raise SettingsError([f"{setting}: {path!r} cannot be loaded: {reason[0] if reason else error!r}"]) from error
    own = code_allowed(path) and "AutoModelForCausalLM" in getattr(config, "auto_map", {})
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not own:
        kind = config.model_type
        raise SettingsError([f"{setting}: {path!r} holds a model of type {kind!r}, which is no causal language model"])
    if tokenizer.eos_token_id is None:
        raise SettingsError([f"{setting}: {path!r}: the tokenizer has no end-of-sequence token: nothing could end"])


def _asks_for_trust(path: str, setting: str) -> str:
    return (
        f"{setting}: {path!r} needs Python code that comes with it, which would run with your rights on every machine "
        f"of the job; read it, then set model.trust_remote_code=true, or take a model that transformers knows"
    )


def check_same_tokenizer(folders: Sequence[str]) -> None:
    """Raise `SettingsError` unless all folders have one vocabulary: only then can their logits be added."""
    first, *others = folders
    vocabulary = load_tokenizer(first).get_vocab()
    for other in others:
        if load_tokenizer(other).get_vocab() != vocabulary:
            line = f"model.expert_path: the tokenizer in {other!r} is not that in {first!r}; logits cannot be added"
            raise SettingsError([line])
