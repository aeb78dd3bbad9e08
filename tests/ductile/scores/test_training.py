"""Throw-away training and teacher forcing on a tiny model, against forward passes of each solution alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from ductile.config import ArchitectureSettings, FitSettings, ScoresSettings
from ductile.domains import make_domain
from ductile.models.load import fresh_model, load_model
from ductile.models.scratch import build_llama
from ductile.models.tokenizer import character_tokenizer
from ductile.packed import Pair
from ductile.problem import DIRECT
from ductile.scores import SCORES
from ductile.scores.base import BASE, HISTORY, WORKED, Asked
from ductile.scores.history import History
from ductile.scores.prototypes import embed
from ductile.scores.solutions import solutions
from ductile.scores.training import _batches, fit, hits, led, nats

TOKENIZER = character_tokenizer()
SUMS: Any = make_domain({"name": "chain_sum"}, "domain")
FIT = FitSettings(steps=6, batch=4, lr=1e-2, warmup=2)


def tiny(seed: int = 0) -> PreTrainedModel:
    return build_llama(ArchitectureSettings(1, 16, 2, 32, 64), TOKENIZER, seed)


def rows_of(count: int = 7, format: str = "running") -> list[Pair]:
    problems = [*SUMS.problems(2, "train", count // 2, 0), *SUMS.problems(5, "train", count - count // 2, 0)]
    return solutions(SUMS, problems, format, TOKENIZER)


def alone(model: PreTrainedModel, row: Pair) -> torch.Tensor:
    """[token, vocabulary] log-probabilities of the completion, by a forward pass on one sequence."""
    ids = torch.tensor([[*row[0].tolist(), *row[1].tolist()]])
    with torch.no_grad():
        return torch.log_softmax(model(input_ids=ids).logits[0], dim=-1)[len(row[0]) - 1 : -1]


def test_solutions_are_prompt_and_worked_answer_with_an_end() -> None:
    [problem] = SUMS.problems(4, "train", 1, 0)
    for format, name in (("trace", "trace"), ("", "running"), (DIRECT, DIRECT)):
        [(prompt, completion)] = solutions(SUMS, [problem], format, TOKENIZER)
        text = "".join(TOKENIZER.convert_ids_to_tokens([*prompt.tolist(), *completion.tolist()]))
        assert text == problem.prompt + SUMS.solution(problem, name) + "<eos>"


def test_measures_are_means_over_each_completions_own_tokens() -> None:
    rows = rows_of()
    model = tiny().eval()
    losses, right = led(model, rows, nats, hits)
    for row, loss, share in zip(rows, losses, right, strict=True):
        logps, labels = alone(model, row), torch.tensor(row[1].tolist())
        assert loss == pytest.approx(-float(logps[range(len(labels)), labels].mean()), abs=1e-5)
        assert share == pytest.approx(float((logps.argmax(dim=1) == labels).float().mean()))


def test_every_row_is_seen_once_before_any_is_seen_again() -> None:
    batches = _batches(5, 3, np.random.default_rng(0))
    seen = [place for _ in range(10) for place in next(batches)]
    assert all(sorted(seen[start : start + 5]) == list(range(5)) for start in range(0, 30, 5))
    assert len(next(_batches(2, 5, np.random.default_rng(0)))) == 5  # fewer rows than a batch


def test_training_lowers_the_loss_and_repeats_exactly() -> None:
    rows, settings = rows_of(), FitSettings(steps=30, batch=8, lr=2e-2, warmup=2)
    first, again, other = tiny(), tiny(), tiny()
    before = led(first, rows, nats)[0].mean()
    for model, seed in ((first, 1), (again, 1), (other, 2)):
        fit(model, rows, settings, seed)
    assert led(first, rows, nats)[0].mean() < before - 0.5
    weights = [model.state_dict()["model.embed_tokens.weight"] for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_stopping_early_is_the_beginning_of_the_whole_training() -> None:
    rows, whole, early = rows_of(), tiny(), tiny()
    kept = {}

    def watch(step: int) -> None:
        assert not whole.training
        kept[step] = {name: tensor.clone() for name, tensor in whole.state_dict().items()}

    fit(whole, rows, FIT, 0, watch=watch)
    fit(early, rows, FIT, 0, stop=3)
    assert list(kept) == [1, 2, 3, 4, 5, 6]
    assert all(torch.equal(tensor, kept[3][name]) for name, tensor in early.state_dict().items())


def test_embedding_is_the_last_hidden_state_of_each_prompts_last_token() -> None:
    model, prompts = tiny().eval(), [prompt for prompt, _ in rows_of()]
    found = embed(model, prompts)
    for prompt, state in zip(prompts, found, strict=True):
        with torch.no_grad():
            states = model(input_ids=torch.tensor([prompt.tolist()]), output_hidden_states=True).hidden_states
        assert state == pytest.approx(states[-1][0, -1].numpy(), abs=1e-5)


def test_fresh_model_has_the_folders_architecture_and_the_seeds_weights(tiny_folder: str) -> None:
    base = load_model(tiny_folder, "float32")
    first, again, other = (fresh_model(tiny_folder, seed) for seed in (1, 1, 2))
    shapes = {name: tensor.shape for name, tensor in base.state_dict().items()}
    assert {name: tensor.shape for name, tensor in first.state_dict().items()} == shapes
    name = "model.embed_tokens.weight"
    assert torch.equal(first.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])


def refuse(*_: Any) -> Any:
    raise AssertionError("this score does not need that")


def asked(rows: Sequence[Pair], needs: frozenset[str], told: Callable[[str], None] = lambda _: None) -> Asked:
    rewards = np.arange(2.0 * len(rows)).reshape(-1, 2) % 3 == 0
    worked, base = WORKED in needs, BASE in needs
    wins = np.array([[4.0, 0.0, 1.0] + [0.0] * (len(rows) - 3), [1.0] * len(rows)])
    return Asked(
        rows=(lambda: rows) if worked else refuse,
        prompts=(lambda: [prompt for prompt, _ in rows]) if base else refuse,
        fresh=tiny if worked else refuse,
        base=(lambda: tiny().eval()) if base else refuse,
        rewards=(lambda: rewards.astype(np.float64)) if base else refuse,
        history=(lambda: History(wins, np.full_like(wins, 4.0))) if HISTORY in needs else refuse,
        count=len(rows),
        settings=ScoresSettings(inits=2, early=2, evals=2, subsets=3, clusters=2, fit=FIT),
        seed=4,
        told=told,
    )


@pytest.mark.parametrize("name", SCORES)
def test_each_score_asks_for_what_it_needs_alone_and_repeats_exactly(name: str) -> None:
    rows, score = rows_of(), SCORES[name]
    first, again = (score(asked(rows, score.needs)) for _ in range(2))
    assert first.shape == (len(rows),) and first.dtype == np.float64
    assert np.array_equal(first, again, equal_nan=True)
    assert np.isfinite(first).any()


def test_problem_that_contradicts_the_others_has_the_largest_el2n() -> None:
    """Fifteen copies of one solution and one with another answer to the same prompt: the odd one is the hard one."""
    [(prompt, completion)] = rows_of(1, DIRECT)
    odd = completion.copy()
    odd[-2] = completion[-2] + 1 if completion[-2] < 10 else completion[-2] - 1
    rows = [(prompt, completion)] * 15 + [(prompt, odd)]
    settings = ScoresSettings(inits=1, early=30, fit=FitSettings(steps=60, batch=16, lr=1e-2, warmup=2))
    material = asked(rows, frozenset({WORKED}))
    found = SCORES["el2n"](Asked(**{**material.__dict__, "settings": settings}))
    assert found.argmax() == 15 and found[15] > 1.5 * found[:15].max()
