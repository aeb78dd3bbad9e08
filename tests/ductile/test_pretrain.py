"""Base models from scratch: the same weights with and without an interruption, trained once, on the train split."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from ductile.config import ArchitectureSettings, ModelSettings, PretrainSettings
from ductile.domains.base import split_of
from ductile.models.cached import model_key
from ductile.models.load import check_folder, load_tokenizer
from ductile.models.scratch import build_llama
from ductile.models.tokenizer import character_tokenizer
from ductile.pretrain import (
    Pair,
    _backward,
    _batches,
    _sources,
    ensure_model,
    learning_rate,
    optimizer_of,
    take_step,
)
from ductile.settings import build

TINY = {"layers": 1, "width": 16, "heads": 2, "mlp": 32, "positions": 64}
SUMS = {"domain": {"name": "chain_sum"}, "levels": [2, 3], "formats": {"running": 0.7, "direct": 0.3}}
PRETRAIN = {"steps": 6, "batch": 8, "warmup": 2, "save_every": 2}


def settings_of(**changes: Mapping[str, Any]) -> ModelSettings:
    values: dict[str, Any] = {
        "base": TINY,
        "expert": TINY | {"width": 8},
        "pretrain": PRETRAIN,
        "mixture": {"sums": SUMS},
    }
    for name, change in changes.items():
        values[name] = values[name] | change
    return build(ModelSettings, values)


def quiet(step: int, metrics: dict[str, float]) -> None:
    """Log nothing."""


def refuse(step: int, metrics: dict[str, float]) -> None:
    raise AssertionError("it trains again")


class KilledError(Exception):
    pass


def kill_at_the_end(step: int, metrics: dict[str, float]) -> None:
    if step == PRETRAIN["steps"] - 1:
        raise KilledError


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same(one: Path, other: Path) -> None:
    a, b = weights_in(one), weights_in(other)
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base of `settings_of()`, never interrupted."""
    torch.set_num_threads(1)
    return ensure_model(settings_of(), "base", tmp_path_factory.mktemp("cache"), quiet)


def test_interrupted_pretraining_goes_on_from_its_checkpoint_to_the_same_weights(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        ensure_model(settings_of(), "base", tmp_path, kill_at_the_end)
    assert not list(tmp_path.glob("models/*/config.json"))  # nothing half-trained is published
    logged: list[int] = []
    folder = ensure_model(settings_of(), "base", tmp_path, lambda step, metrics: logged.append(step))
    assert logged == [5]  # and not step 0, which the first attempt made
    assert_same(folder, trained)


def test_checkpoint_is_the_start_of_the_steps_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ductile import pretrain

    steps: list[list[Pair]] = []
    backward = _backward

    def counted(model: Any, rows: list[Pair]) -> float:
        steps.append(rows)
        return backward(model, rows)

    monkeypatch.setattr(pretrain, "_backward", counted)
    with pytest.raises(KilledError):
        ensure_model(settings_of(), "base", tmp_path, kill_at_the_end)
    first = steps.copy()
    steps.clear()
    ensure_model(settings_of(), "base", tmp_path, quiet)
    assert len(first) == 6 and len(steps) == 2  # the last checkpoint was after four
    for one, other in zip(first[4:], steps, strict=True):
        for (prompt, completion), (same_prompt, same_completion) in zip(one, other, strict=True):
            assert prompt.tolist() == same_prompt.tolist() and completion.tolist() == same_completion.tolist()


def test_two_that_want_the_same_model_train_it_once(tmp_path: Path) -> None:
    """The second asks while the first is at its first step, which lasts until the second has had time to train too."""
    calls: list[Future[Path]] = []
    with ThreadPoolExecutor() as pool:

        def ask_again(step: int, metrics: dict[str, float]) -> None:
            if step == 0:
                calls.append(pool.submit(ensure_model, settings_of(), "base", tmp_path, refuse))
                time.sleep(0.5)
                assert not calls[0].done()  # it waits

        first = ensure_model(settings_of(), "base", tmp_path, ask_again)
        assert calls[0].result(timeout=30) == first
    assert (first / "model.safetensors").exists()


def test_model_in_the_cache_is_used_without_training(trained: Path) -> None:
    before = weights_in(trained)
    assert ensure_model(settings_of(), "base", trained.parents[1], refuse) == trained
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights_in(trained).items())


def test_trained_folder_is_a_sound_checkpoint_with_its_tokenizer_and_no_leftovers(trained: Path) -> None:
    check_folder(str(trained), "model.path")
    assert load_tokenizer(str(trained)).get_vocab() == character_tokenizer().get_vocab()
    assert trained.is_absolute() and trained.name.startswith("base-")
    assert [path.name for path in trained.parent.iterdir() if path.suffix in {".partial", ".writing"}] == []


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    losses: dict[int, float] = {}
    settings = settings_of(pretrain={"steps": 26, "batch": 16, "lr": 1e-2})
    ensure_model(settings, "base", tmp_path, lambda step, metrics: losses.update({step: metrics["pretrain/loss"]}))
    assert losses[0] == pytest.approx(math.log(len(character_tokenizer())), abs=0.3)  # all tokens as likely
    assert losses[25] < losses[0] - 0.5


def test_weights_are_those_of_a_plain_loop_with_schedule_clip_and_decay_of_matrices_alone(tmp_path: Path) -> None:
    """AdamW (arXiv 1711.05101) written out, on one batch a step."""
    settings = settings_of(pretrain={"clip": 0.3, "weight_decay": 0.5, "lr": 1e-2, "steps": 5})
    trained = weights_in(ensure_model(settings, "base", tmp_path, quiet))
    options, tokenizer = settings.pretrain, character_tokenizer()
    model = build_llama(settings.base, tokenizer, options.seed)
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in model.named_parameters()}
    batches = _batches(_sources(settings.mixture), options, tokenizer, 0)
    rates = [0.5, 1.0, 1.0, 0.1 + 0.45 * 1.5, 0.1 + 0.45 * 0.5]  # two steps of warm-up, then cos of 0, 60, 120 degrees
    for step, rate in enumerate(rates):
        model.zero_grad()
        mean_cross_entropy(model, next(batches)).backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients.values()))
        assert norm > options.clip  # so that clipping acts
        for name, parameter in model.named_parameters():
            gradient = gradients[name] * options.clip / norm
            first, second = moments[name]
            first.mul_(0.9).add_(0.1 * gradient)
            second.mul_(0.98).add_(0.02 * gradient**2)
            change = first / (1 - 0.9 ** (step + 1)) / ((second / (1 - 0.98 ** (step + 1))).sqrt() + 1e-8)
            decay = 0.5 if parameter.ndim > 1 else 0.0
            parameter.data -= 1e-2 * rate * (change + decay * parameter.data)
    for name, parameter in model.named_parameters():
        assert torch.allclose(trained[name], parameter, rtol=0, atol=2e-5), name


def mean_cross_entropy(model: LlamaForCausalLM, rows: list[Pair]) -> torch.Tensor:
    """Over the completions' tokens, by a forward pass on each sequence alone."""
    logps = []
    for prompt, completion in rows:
        ids = torch.tensor([[*prompt.tolist(), *completion.tolist()]])
        predicted = torch.log_softmax(model(input_ids=ids).logits[0], dim=-1)
        logps += [predicted[at - 1, ids[0, at]] for at in range(len(prompt), ids.shape[1])]
    return -torch.stack(logps).mean()


def test_expert_is_another_model_of_its_own_size(trained: Path, tmp_path: Path) -> None:
    expert = ensure_model(settings_of(), "expert", tmp_path, quiet)
    assert expert.name.startswith("expert-")
    assert weights_in(expert)["model.embed_tokens.weight"].shape[1] == 8
    assert weights_in(trained)["model.embed_tokens.weight"].shape[1] == 16


def test_given_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = build(ModelSettings, {"path": "mine/base", "expert_path": "/their/expert", "mixture": {"sums": SUMS}})
    assert ensure_model(settings, "base", tmp_path / "cache", refuse) == tmp_path / "mine/base"
    assert ensure_model(settings, "expert", tmp_path / "cache", refuse) == Path("/their/expert")
    assert not (tmp_path / "cache").exists()


CHANGES: list[dict[str, Any]] = [
    *(
        {"base": {name: value}}
        for name, value in {"layers": 2, "width": 32, "heads": 1, "mlp": 48, "positions": 99}.items()
    ),
    *(
        {"pretrain": {name: value}}
        for name, value in {
            "steps": 7, "batch": 9, "lr": 1e-3, "warmup": 3, "weight_decay": 0.1, "clip": 2.0, "seed": 1,
        }.items()
    ),
    {"mixture": {"sums": SUMS | {"levels": [2]}}},
    {"mixture": {"sums": SUMS | {"domain": {"name": "chain_sum", "guess_space": 0}}}},
    {"mixture": {"sums": SUMS | {"formats": {"running": 0.6, "direct": 0.4}}}},
    {"mixture": {"sums": SUMS | {"weight": 2.0}}},
    {"mixture": {"sorts": {"domain": {"name": "sort_digits"}, "formats": {"direct": 1.0}}}},
]  # fmt: skip


def key_of(settings: ModelSettings) -> str:
    return model_key(settings.base, settings.pretrain, settings.mixture)


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_key_changes_with_every_setting_that_the_weights_depend_on(change: dict[str, Any]) -> None:
    assert key_of(settings_of(**change)) != key_of(settings_of())


def test_key_is_the_same_for_the_same_settings_in_another_order() -> None:
    mixed = {"formats": {"direct": 0.3, "running": 0.7}, "levels": [2, 3], "domain": {"name": "chain_sum"}}
    assert key_of(settings_of(mixture={"sums": mixed})) == key_of(settings_of())


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.25),  # a quarter of the peak, and so on up to it
        (1, 0.5),
        (3, 1.0),
        (4, 1.0),  # cos 0
        (6, 0.1 + 0.45 * (1 + math.sqrt(0.5))),  # a quarter of the way: cos 45 degrees
        (8, 0.55),  # half of it
        (12, 0.1),
    ],
)
def test_learning_rate_rises_linearly_and_falls_as_a_cosine_to_a_tenth(step: int, expected: float) -> None:
    assert learning_rate(step, steps=12, lr=2.0, warmup=4) == pytest.approx(2.0 * expected)


def test_learning_rate_without_warmup_begins_at_the_peak() -> None:
    assert learning_rate(0, steps=3, lr=0.5, warmup=0) == 0.5


def test_step_cuts_the_gradient_and_leaves_norms_without_decay() -> None:
    """AdamW's first step is decay, p (1 - rate x decay), and then -rate x sign(g), however long the gradient is."""
    model = build_llama(ArchitectureSettings(**TINY), character_tokenizer(), 0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    length = math.sqrt(sum(p.numel() for p in model.parameters()))
    optimizer = optimizer_of(model, lr=9.0, weight_decay=0.5)
    assert take_step(model, optimizer, rate=0.1, clip=2.0) == pytest.approx(length, rel=1e-5)
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.flatten()[0].item() == pytest.approx(2.0 / length, rel=1e-4)
        kept = 0.95 if p.ndim > 1 else 1.0
        assert torch.allclose(p.detach(), kept * before[name] - 0.1, atol=1e-4)


@pytest.mark.parametrize("count", [1, 3, 8, 11])
def test_gradient_of_the_micro_batches_is_that_of_one_cross_entropy_over_all_completion_tokens(count: int) -> None:
    tokenizer = character_tokenizer()
    settings = build(PretrainSettings, PRETRAIN | {"batch": count})
    rows = next(_batches(_sources(settings_of().mixture), settings, tokenizer, 0))
    model, reference = (build_llama(ArchitectureSettings(**TINY), tokenizer, 0) for _ in range(2))
    loss = _backward(model, rows)

    expected = mean_cross_entropy(reference, rows)
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    for (name, parameter), other in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert parameter.grad is not None and other.grad is not None
        assert torch.allclose(parameter.grad, other.grad, rtol=1e-4, atol=1e-6), name


def texts(seed: int, steps: int, start: int = 0) -> list[list[tuple[str, str]]]:
    """(prompt, completion) texts of each step."""
    tokenizer = character_tokenizer()

    def text_of(ids: NDArray[np.int32]) -> str:
        return "".join(tokenizer.convert_ids_to_tokens(ids.tolist()))

    settings = build(PretrainSettings, {"batch": 32, "seed": seed})
    batches = _batches(_sources(settings_of().mixture), settings, tokenizer, start)
    return [
        [(text_of(prompt), text_of(completion)) for prompt, completion in rows]
        for rows in itertools.islice(batches, steps)
    ]


def test_only_problems_of_the_train_split_are_learned() -> None:
    prompts = {prompt for rows in texts(0, 20) for prompt, _ in rows}
    assert len(prompts) > 100
    assert {split_of(prompt.partition(">")[0]) for prompt in prompts} == {"train"}
    domains = _sources(settings_of().mixture)
    asked_later = {p.prompt for source in domains for p in source.domain.problems(source.level, "eval", 10_000, 1)}
    assert len(asked_later) > 150 and not asked_later & prompts


def test_completions_are_right_and_have_the_levels_and_formats_of_the_mixture() -> None:
    pairs = [pair for rows in texts(0, 20) for pair in rows]
    for prompt, completion in pairs:
        assert completion.endswith("<eos>")
        work, _, answer = completion.removesuffix("<eos>").partition("#")
        digits = [int(digit) for digit in prompt[1:].partition(">")[0]]
        sums = [sum(digits[:end]) % 10 for end in range(2, len(digits) + 1)]
        assert answer == str(sums[-1])
        assert work in {"", "".join(map(str, sums))}
    running = np.mean([not completion.startswith("#") for _, completion in pairs])
    long = np.mean([len(prompt.partition(">")[0]) == 4 for prompt, _ in pairs])
    assert running == pytest.approx(0.7, abs=0.07)  # 640 draws: three standard errors are 0.054
    assert long == pytest.approx(0.5, abs=0.07)


def test_rows_of_a_step_depend_on_the_seed_and_the_step_alone() -> None:
    assert texts(0, 2, start=249) == [*texts(0, 250)[249:], *texts(0, 1, start=250)]
    assert texts(0, 1) != texts(1, 1)
    assert texts(0, 1, start=1) != texts(0, 1)
