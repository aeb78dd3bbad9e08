"""What is seen inside a policy, against forward passes of single rows without padding in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ductile import inspection
from ductile.inspected import Rows
from ductile.inspection import LoadedPolicy, output_projections
from ductile.rl.batch import Batch, Row
from ductile.rl.objective import Objective
from ductile.rl.supervised import Supervised
from tests.ductile.probes.tiny import gpt2, llama, neox, opt, proxy, random_rows, single

ROWS = random_rows(5)
MODELS = pytest.mark.parametrize("make", [llama, gpt2, opt, neox])
OBJECTIVE = Objective(0.2, 0.2, 0.0, "k3", None, 0.0)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "CHUNK", 2)


def alone(model: PreTrainedModel, rows: Rows) -> Iterator[tuple[Tensor, slice]]:
    """Each row's ids, [1, position], and its completion positions."""
    for prompt, completion in rows:
        ids = torch.tensor([[*prompt.tolist(), *completion.tolist()]])
        yield ids, slice(len(prompt) - 1, ids.shape[1] - 1)


def joined(chunks: Iterator[dict[str, Tensor]]) -> dict[str, Tensor]:
    parts = list(chunks)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@MODELS
def test_hidden_states_are_those_of_each_row_alone(make: Callable[[], PreTrainedModel]) -> None:
    model = make()
    rows = iter(alone(copy.deepcopy(model).double(), ROWS))
    reference = copy.deepcopy(model).double()
    seen = 0
    for chunk in single(model).hidden_states(ROWS):
        for row in range(chunk.states.shape[1]):
            ids, places = next(rows)
            expected = torch.stack(reference(input_ids=ids, output_hidden_states=True).hidden_states)[:, 0]
            assert torch.allclose(chunk.states[:, row, : ids.shape[1]].double(), expected, atol=1e-5)
            assert int(chunk.mask[row].sum()) == ids.shape[1]
            assert chunk.completion[row].nonzero().flatten().tolist() == list(range(places.start, places.stop))
            logits = reference.get_output_embeddings()(expected[-1])  # the last state is what the head reads
            assert torch.allclose(logits, reference(input_ids=ids).logits[0], atol=1e-8)
            seen += 1
    assert seen == len(ROWS)


@MODELS
def test_unit_activations_are_what_the_output_projection_takes(make: Callable[[], PreTrainedModel]) -> None:
    """projection(h) is the MLP's output, so h is what the units say."""
    model = make()
    reference = copy.deepcopy(model).double()
    activations = joined(single(model).unit_activations(ROWS))
    assert len(activations) == 2
    for name, module in output_projections(reference).items():
        outputs: list[Tensor] = []
        handle = module.register_forward_hook(lambda _, __, output, outputs=outputs: outputs.append(output))
        expected = []
        for ids, places in alone(reference, ROWS):
            reference(input_ids=ids)
            expected.append(outputs[-1].reshape(ids.shape[1], -1)[places])
        handle.remove()
        assert torch.allclose(module(activations[name].double()), torch.cat(expected), atol=1e-5)


def test_units_of_a_swiglu_are_its_gated_products() -> None:
    model = llama()
    reference = copy.deepcopy(model).double()
    mlp = reference.model.layers[0].mlp
    inputs: list[Tensor] = []
    mlp.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    expected = []
    for ids, places in alone(reference, ROWS):
        reference(input_ids=ids)
        x = inputs[-1][0, places]
        gate = x @ mlp.gate_proj.weight.T
        expected.append(gate * torch.sigmoid(gate) * (x @ mlp.up_proj.weight.T))
    first = joined(single(model).unit_activations(ROWS))["model.layers.0.mlp.down_proj"]
    assert torch.allclose(first.double(), torch.cat(expected), atol=1e-5)


def test_units_of_a_relu_are_never_negative_and_those_of_gpt2_are_the_mlps() -> None:
    assert all((h >= 0).all() for h in joined(single(opt()).unit_activations(ROWS)).values())
    assert {name.split(".")[-2] for name in joined(single(gpt2()).unit_activations(ROWS))} == {"mlp"}


def nll(model: PreTrainedModel, rows: Rows) -> Tensor:
    """Mean cross-entropy over all completion tokens."""
    logps = [
        torch.log_softmax(model(input_ids=ids).logits[0], -1)[:-1].gather(1, ids[0, 1:, None])[places, 0]
        for ids, places in alone(model, rows)
    ]
    return -torch.cat(logps).mean()


@MODELS
def test_unit_gradient_is_the_slope_of_the_nll_by_the_unit(make: Callable[[], PreTrainedModel]) -> None:
    """The first completion position of the first row is moved a little to both sides."""
    model, unit, step = make(), 3, 2e-3
    reference = copy.deepcopy(model).double()
    gradients = joined(single(model).unit_gradients(ROWS))
    _, places = next(alone(reference, ROWS))

    def moved(module: nn.Module, by: float) -> float:
        calls = []

        def nudge(_: object, arguments: tuple[Tensor]) -> tuple[Tensor]:
            h = arguments[0].clone()
            if not calls:  # the first row
                h.reshape(-1, h.shape[-1])[places.start, unit] += by
            calls.append(1)
            return (h,)

        handle = module.register_forward_pre_hook(nudge)
        with torch.no_grad():
            moved_nll = float(nll(reference, ROWS))
        handle.remove()
        return moved_nll

    for name, module in output_projections(reference).items():
        slope = abs(moved(module, step) - moved(module, -step)) / (2 * step)
        assert slope > 1e-5
        assert float(gradients[name][0, unit]) == pytest.approx(slope, rel=5e-3, abs=1e-6)


@MODELS
def test_gradient_norm_of_the_nll_is_autograds(make: Callable[[], PreTrainedModel]) -> None:
    model = make()
    reference = copy.deepcopy(model).double()
    nll(reference, ROWS).backward()
    expected = sum(float((p.grad**2).sum()) for p in reference.parameters() if p.grad is not None) ** 0.5
    assert single(model).nll_gradient_norm(ROWS) == pytest.approx(expected, rel=1e-4)


def test_entropies_are_those_of_the_composed_policy_at_the_temperature() -> None:
    base, expert = gpt2(1), llama(2)
    loaded = proxy(base, expert, alpha=1.5)
    models = [copy.deepcopy(model).double() for model in loaded._policy.members.values()]
    expected = []
    for ids, places in alone(base, ROWS):
        logits = sum(
            c * model(input_ids=ids).logits[0, places] for c, model in zip((1, 1.5, -1.5), models, strict=True)
        )
        p = torch.softmax(logits / 0.7, -1)
        expected.append(-(p * p.log()).sum(-1))
    assert np.allclose(loaded.entropies(ROWS, 0.7), torch.cat(expected).detach().numpy(), atol=1e-5)


def test_weights_are_the_trainable_members_tied_ones_once() -> None:
    expert = llama(2)
    weights = proxy(gpt2(1), expert).weights()
    assert sum(weight.numel() for weight in weights.values()) == sum(p.numel() for p in expert.parameters())
    assert "lm_head.weight" not in weights and torch.equal(weights["model.norm.weight"], expert.model.norm.weight)
    assert not any(weight.requires_grad for weight in weights.values())


def batch_of(ks: list[int]) -> Batch:
    advantages = np.random.default_rng(1).normal(size=len(ks))
    return Batch(
        tuple(
            Row(prompt, completion, np.full(len(completion), -2.0, np.float32), float(advantage), 0.1, k)
            for (prompt, completion), advantage, k in zip(random_rows(len(ks), 3), advantages, ks, strict=True)
        )
    )


def surrogate(logits_of: Callable[[Tensor], Tensor], rows: list[Row], temperature: float) -> Tensor:
    """The clipped objective of the rows, one by one."""
    loss = torch.zeros((), dtype=torch.float64)
    for row in rows:
        ids = torch.tensor([[*row.prompt.tolist(), *row.completion.tolist()]])
        logps = torch.log_softmax(logits_of(ids)[0, :-1] / temperature, -1).gather(1, ids[0, 1:, None])[:, 0]
        ratio = (logps[len(row.prompt) - 1 :] + 2.0).exp()
        loss = loss - row.weight * torch.minimum(ratio * row.advantage, ratio.clamp(0.8, 1.2) * row.advantage).sum()
    return loss


@pytest.mark.parametrize("composed", [False, True])
def test_gradient_by_successes_is_autograds_on_each_k_alone(composed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "MICRO_TOKENS", 12)
    loaded = proxy(gpt2(1), llama(2)) if composed else single(llama(2))
    policy = copy.deepcopy(loaded._policy).double()

    def logits_of(ids: Tensor) -> Tensor:
        members = zip(policy.composition.members, policy.members.values(), strict=True)
        return sum(member.coefficient * model(input_ids=ids).logits for member, model in members)  # type: ignore[return-value]

    batch = batch_of([1, 3, 1, 1, 3, 2])
    weights = list(policy.trainable.parameters())

    def gradient(rows: list[Row]) -> Tensor:
        grads = torch.autograd.grad(surrogate(logits_of, rows, 0.7), weights, allow_unused=True)
        return torch.cat([g.flatten() for g in grads if g is not None])

    parts = {k: gradient([row for row in batch.rows if row.successes == k]) for k in (1, 2, 3)}
    whole = gradient(list(batch.rows))
    measured = loaded.gradient_norms(batch, OBJECTIVE, 0.7)
    assert measured.norm == pytest.approx(float(whole.norm()), rel=1e-4)
    for k, part in parts.items():
        assert measured.norms[k] == pytest.approx(float(part.norm()), rel=1e-4)
        assert measured.dots[k] == pytest.approx(float(part @ whole), rel=1e-3, abs=1e-5)
    assert sum(measured.dots.values()) == pytest.approx(measured.norm**2)


def look_everywhere(loaded: LoadedPolicy) -> None:
    list(loaded.hidden_states(ROWS))
    list(loaded.unit_activations(ROWS))
    list(loaded.unit_gradients(ROWS))
    loaded.nll_gradient_norm(ROWS)
    loaded.entropies(ROWS, 1.0)
    loaded.gradient_norms(batch_of([1, 2]), OBJECTIVE, 1.0)
    loaded.weights()


@MODELS
def test_looking_leaves_no_trace(make: Callable[[], PreTrainedModel]) -> None:
    """Not even by dropout, which GPT-2 has: the model comes in training mode."""
    model = make()
    loaded = single(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, enabled = torch.get_rng_state(), torch.is_grad_enabled()
    look_everywhere(loaded)
    assert torch.equal(torch.get_rng_state(), state) and torch.is_grad_enabled() == enabled
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_dropout_never_acts() -> None:
    model = gpt2().train()
    assert next(iter(single(model).hidden_states(ROWS))).states.equal(
        next(iter(single(gpt2().eval()).hidden_states(ROWS))).states
    )


def test_every_token_counts_once_for_each_model_it_goes_through() -> None:
    tokens = sum(len(prompt) + len(completion) for prompt, completion in ROWS)
    alone = single(llama())
    list(alone.hidden_states(ROWS))
    assert alone.forwarded == tokens
    alone.entropies(ROWS, 1.0)
    assert alone.forwarded == 2 * tokens
    three = proxy(llama(), llama(1))
    list(three.hidden_states(ROWS))  # of the trainable member alone
    three.entropies(ROWS, 1.0)
    assert three.forwarded == (1 + 3) * tokens


def test_gradient_of_a_likelihood_is_autograds() -> None:
    loaded, batch = single(llama(2)), batch_of([1, 3, 1])
    policy = copy.deepcopy(loaded._policy).double()
    loss = torch.zeros((), dtype=torch.float64)
    for row in batch.rows:
        ids = torch.tensor([[*row.prompt.tolist(), *row.completion.tolist()]])
        logps = torch.log_softmax(policy.trainable(input_ids=ids).logits[0, :-1], -1).gather(1, ids[0, 1:, None])[:, 0]
        loss = loss - row.weight * logps[len(row.prompt) - 1 :].sum()
    grads = torch.autograd.grad(loss, list(policy.trainable.parameters()), allow_unused=True)
    expected = torch.cat([g.flatten() for g in grads if g is not None])
    assert loaded.gradient_norms(batch, Supervised(), 0.7).norm == pytest.approx(float(expected.norm()), rel=1e-4)
