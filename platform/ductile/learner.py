"""The learner: a composed policy, an engine around its trainable member, and the update."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from ductile.checkpoint import write_text
from ductile.config import RunSettings
from ductile.engines import make_engine
from ductile.holds import Holds, place
from ductile.models.compose import ComposedPolicy
from ductile.models.kept import kept_model, recalled, recorded
from ductile.models.load import check_same_tokenizer, load_model
from ductile.ports import OTHER_DOMAINS, BranchRequest, Composition
from ductile.problem import Group, JudgedGroup
from ductile.rl.batch import Batch, MicroBatch, micro_batches
from ductile.rl.objective import IMPORTANCE_CAP, Objective, micro_loss, with_proximal
from ductile.rl.supervised import Supervised, likelihood_loss
from ductile.trace import spans
from ductile.trainable import make_trainable
from ductile.variants.base import Dialled, Variant, scheduled_alpha

Schedule = Callable[[Composition, int], Composition]
"""(composition, updates done) -> the same models with the coefficients that they have then."""


def make_learner(
    settings: RunSettings, variant: Variant, base: Path, expert: Path, models: Path | None = None
) -> PolicyLearner:
    """The learner of a run that begins from these folders; raises `SettingsError` when their tokenizers differ.

    models: where it may write models of its own, as a proxy's frozen experts.
    """
    composition = run_composition(settings, variant, base, expert)
    check_same_tokenizer([member.path for member in composition.members])
    objective, lr = _of_stale(variant.objective(settings.objective), settings), variant.lr or settings.learner.lr
    return PolicyLearner(settings, composition, objective, lr, models=models, schedule=_schedule(settings, variant))


def run_composition(settings: RunSettings, variant: Variant, base: Path, expert: Path) -> Composition:
    """The variant's policy of these folders, with room for a soft prefix of each phase's domain and of a branch's."""
    composition = variant.composition(base, expert)
    rows = (settings.variant.prefix_tokens or 0) * (len(settings.phase) + 1)
    members = (replace(m, prefix=rows if m.role == composition.trainable else 0) for m in composition.members)
    return replace(composition, members=tuple(members))


def restored_learner(
    settings: RunSettings,
    variant: Variant,
    composition: Composition,
    snapshot: Path | None = None,
    model: torch.nn.Module | None = None,
    models: Path | None = None,
) -> PolicyLearner:
    """The learner of a snapshot, whatever number of ranks wrote it; of a model's weights; or of the base.

    models: the run's folder for models, which branches may need. Raises `RuntimeError` when the weights do not fit the
    composition's trainable member.
    """
    objective, lr = variant.objective(settings.objective), variant.lr or settings.learner.lr
    if snapshot is None:
        start = None if model is None else model.state_dict()
        return PolicyLearner(settings, composition, objective, lr, start, models=models)
    learner = PolicyLearner(settings, composition, objective, lr, models=models)
    learner.load(snapshot)
    return learner


def branch_learner(
    settings: RunSettings,
    variant: Variant,
    composition: Composition,
    request: BranchRequest,
    models: Path | None = None,
) -> PolicyLearner:
    """The throw-away learner of a branch: the snapshot's weights, or the folders' own where it names none.

    composition: of the run's beginning; a snapshot knows its own. No schedule goes on in a branch, which is no part of
    the plan: coefficients stay as they are where it begins. models: the run's own folder for models.
    `carried` goes on with the snapshot's optimizer; otherwise it is fresh. Version and learning rate are its own; what
    holds the policy (the average that is its anchor, its Fisher information) is the snapshot's.
    """
    objective: Objective | Supervised = variant.objective(settings.objective)
    lr = variant.lr or settings.learner.lr
    if request.mode == "sft":
        objective, lr = Supervised(), settings.probe.branch.sft_lr or lr
    if request.snapshot is None:
        return PolicyLearner(settings, composition, objective, lr, models=models)
    folder = Path(request.snapshot)
    now = recalled(_recorded(folder)["composition"], composition, models)
    weights = load_file(folder / "weights.safetensors")
    learner = PolicyLearner(settings, now, objective, lr, weights, composition, models)
    learner._restore_trainable(folder)
    learner._holds.load(folder)
    if request.optimizer == "carried":
        learner._engine.load(folder)
        learner._read()
    return learner


def _of_stale(objective: Objective | Supervised, settings: RunSettings) -> Objective | Supervised:
    """The objective of a run whose rollouts may be stale. Imitation has no ratio, and so no weights."""
    if not settings.rollout.staleness or isinstance(objective, Supervised):
        return objective
    return replace(objective, importance_cap=settings.objective.importance_cap or IMPORTANCE_CAP)


def _schedule(settings: RunSettings, variant: Variant) -> Schedule | None:
    """A variant's alpha over the plan's steps, each of which is one update."""
    if not isinstance(variant, Dialled) or variant.alpha_end is None:
        return None
    dialled, steps = variant, sum(phase.steps for phase in settings.phase.values())

    def scheduled(composition: Composition, done: int) -> Composition:
        return dialled.at_alpha(composition, scheduled_alpha(dialled, done, steps))

    return scheduled


def _recorded(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "learner.json").read_text())
    return document


class Diverged(RuntimeError):
    """The gradient is not finite. The weights of this process are spoilt; those of the latest checkpoint are not."""


class PolicyLearner:
    """Implements `ports.Learner`. With several ranks each holds one; all are called alike."""

    def __init__(
        self,
        settings: RunSettings,
        composition: Composition,
        objective: Objective | Supervised,
        lr: float,
        start: Mapping[str, Tensor] | None = None,
        origin: Composition | None = None,
        models: Path | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        """start: the trainable member's first weights; those in its folder when it is None.

        origin: what the run began as, where that is another composition. schedule: the composition with the
        coefficients that it has after so many updates; None: they stay.
        """
        self.version = 0
        self.origin, self.models = origin or composition, models
        self._schedule = schedule
        self._domain: str | None = None
        self._kept: dict[str, Composition] = {}  # domain key -> policy whose expert is frozen
        self._owed: dict[str, int] = {}
        self._settings, self._objective, self._lr = settings, objective, lr
        self._compose(composition, start)
        self._phase_start, self.phase_start_composition = self._base, composition

    def _compose(self, composition: Composition, start: Mapping[str, Tensor] | None) -> None:
        """Load the policy and its anchor, and make a fresh engine around them."""
        settings, objective, lr = self._settings, self._objective, self._lr
        self.composition = composition
        device = "cuda" if torch.cuda.is_available() else "cpu"

        def load() -> ComposedPolicy:
            return ComposedPolicy.load(composition, settings.model.dtype).to(device)

        self._policy = load()
        self._holds = Holds(settings, objective, self._policy.trainable.state_dict(), load)
        if start is not None:  # before the engine is made: ZeRO 3 leaves nothing that a state dict could be copied into
            self._policy.load_trainable(start)
        self._trainable = make_trainable(self._policy.trainable, settings, self._policy.vocabulary)
        self._engine = make_engine(self._policy.trainable, settings.learner, lr, self._trainable.fast)
        # A weight that is tied to another is in the state dict under both names; changes of weights count it once.
        named = (self._trainable.slow(name) for name, _ in self._policy.trainable.named_parameters())
        self._names = [name for name in named if name is not None]
        self._read()
        self._take(self._trainable.start(self._state))
        self._base = self._weights if start is None else self.base_weights()

    def recompose(self, composition: Composition, weights: Mapping[str, Tensor] | None = None) -> None:
        """See `ports.Learner.recompose`. Version, phase and drift's beginning aside, it is a new learner."""
        del self._engine, self._policy  # so that both generations never need memory at once
        self._compose(composition, weights)

    def freeze(self) -> str:
        """See `ports.Learner.freeze`; named by what it holds, so that doing it again finds it."""
        folder, dtype = self._models_folder(), self._settings.model.dtype
        return str(kept_model(folder, self._trainable_path, self._weights, dtype, self.composition.trainable))

    def keep_expert(self, domain: str, composition: Composition) -> None:
        """See `ports.Learner.keep_expert`."""
        self._kept[domain] = composition

    def spend(self, spent: Mapping[str, int]) -> None:
        """See `ports.Learner.spend`."""
        for name, value in spent.items():
            self._owed[name] = self._owed.get(name, 0) + value

    def settle(self) -> Mapping[str, int]:
        """See `ports.Learner.settle`. A checkpoint follows a step, so that nothing is owed in any."""
        owed, self._owed = self._owed, {}
        return owed

    def _models_folder(self) -> Path:
        if self.models is None:
            raise RuntimeError("this learner has no folder for models; give `models` when it is made")
        return self.models

    def update(self, batch: Batch) -> dict[str, float]:
        """`learner.epochs` passes over the batch, one optimizer step each; nothing when no row has a gradient.

        A step without any gradient is skipped rather than given to the optimizer, whose momentum would move the
        weights for no reason.
        """
        started = time.monotonic()
        self.version += 1
        share = self._holds.share(len(batch.rows), self.version)
        learns = bool(share.rows) or any(row.advantage or self._objective.acts_on_batch for row in batch.rows)
        passed = self._passed(batch, share) if learns else 0
        metrics = {
            "learner/skipped": float(not learns),
            "learner/tokens": float(sum(len(row.completion) for row in batch.rows)),
            "learner/forward_tokens": float(passed + self._holds.settle()),
        }
        if learns:
            metrics |= self._train(batch, share)
        metrics |= self._holds.after_update(metrics.get("learner/kl_anchor"), len(batch.rows))
        self._reweigh()
        metrics["learner/weight_drift_rms"] = rms_distance(
            self._parameters(self._weights), self._parameters(self._base)
        )
        return metrics | {"learner/seconds": time.monotonic() - started}

    def weights(self) -> Mapping[str, Tensor]:
        """The trainable member's state dict after the last update, on the CPU. Not to be written to."""
        return self._weights

    def start_phase(self, domain: str) -> None:
        """Keep what the weights are now; take them as the anchor, where that is the objective's."""
        if domain in self._kept:  # its expert is taken up again
            self.recompose(self._kept.pop(domain))
            self._reweigh()
        self._domain = domain
        if domain != self._trainable.domain:
            self._take(self._trainable.start_phase(domain, self._state))
            if self._trainable.fast:  # what Adam knows of the last domain's fast part is not of this one's
                self._engine.reset_fast()
        self._phase_start, self.phase_start_composition = self._weights, self.composition
        self._holds.start_phase(self._weights)

    def penalties(self, judged: Sequence[JudgedGroup]) -> list[NDArray[np.float64]] | None:
        """See `ports.Learner.penalties`."""
        return self._holds.penalties(judged)

    def remember(self, groups: Sequence[Group]) -> None:
        """See `ports.Learner.remember`."""
        self._holds.remember(groups)

    def consolidate(self, groups: Sequence[Group]) -> None:
        """See `ports.Learner.consolidate`."""
        self._holds.consolidate(groups, self._weights)

    def experts(self) -> Mapping[str, tuple[Composition, Mapping[str, Tensor] | None]]:
        """See `ports.Learner.experts`: with a fresh expert for each domain, all of them and for the rest the base."""
        if self._settings.variant.memory != "fresh" or self._domain is None:
            own = {domain: (self.composition, each) for domain, each in self._trainable.experts(self._state).items()}
            return {self._domain: (self.composition, self._weights), **own} if own and self._domain else own
        base = Composition((self.origin.members[0],), self.origin.members[0].role)
        kept = {domain: (composition, None) for domain, composition in self._kept.items()}
        return {self._domain: (self.composition, self._weights), **kept, OTHER_DOMAINS: (base, None)}

    def prefixes(self) -> Mapping[str, tuple[int, ...]]:
        """See `ports.Learner.prefixes`."""
        return self._trainable.prefixes()

    def channels(self) -> Mapping[str, Mapping[str, Mapping[str, Tensor]]]:
        """See `ports.Learner.channels`."""
        return self._trainable.channels(self._state, self._base)

    def switch_adapters(self) -> None:
        """See `ports.Learner.switch_adapters`."""
        state = self._trainable.switch(self._state)
        if state is not None:
            self._take(state)
            self._engine.reset_optimizer()

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """See `ports.Learner.set_weights`."""
        self._take(self._trainable.adopt(weights, self._state))
        if self._trainable.begins_anew:
            self._engine.reset_optimizer()

    def base_weights(self) -> Mapping[str, Tensor]:
        """See `ports.Learner.base_weights`. Read anew: a branch's own first weights are those of its snapshot."""
        return {**self._weights, **load_model(self._trainable_path, "float32").state_dict()}

    def reset_optimizer(self) -> None:
        """See `ports.Learner.reset_optimizer`."""
        self._engine.reset_optimizer()

    def clear_moments(self, masks: Mapping[str, Tensor]) -> None:
        """See `ports.Learner.clear_moments`."""
        self._engine.clear_moments({self._trainable.inner(name, self._state): mask for name, mask in masks.items()})

    def phase_start_weights(self) -> Mapping[str, Tensor]:
        """The trainable member's state dict at the start of the phase, on the CPU. Not to be written to."""
        return self._phase_start

    def capture(self) -> Callable[[Path], None]:
        """Engine (weights and optimizer), version, and as safetensors the weights now and at the phase's start.

        Only the engine's part is copied: every other tensor is replaced by a later step, and none is written to.
        """
        engine = self._engine.capture()
        first, files, document = place()[0] == 0, self._files(), json.dumps(self._document())

        def write(folder: Path) -> None:
            folder.mkdir(parents=True, exist_ok=True)
            engine(folder)
            if first:
                for name, tensors in files.items():
                    save_file(_untied(tensors), folder / name)
                write_text(folder / "learner.json", document)

        return write

    def _files(self) -> dict[str, Mapping[str, Tensor]]:
        """File name -> tensors, of what is beside the engine."""
        tensors = self._trainable.tensors(self._state)
        return {
            "weights.safetensors": self._weights,
            "phase_start.safetensors": self._phase_start,
            **self._holds.files(),
            **({"trainable.safetensors": tensors} if tensors else {}),
        }

    def _document(self) -> dict[str, Any]:
        """What is not made of tensors."""
        return {
            "version": self.version,
            "trainable": self._trainable.snapshot(),
            "composition": self._record(self.composition),
            "phase_start_composition": self._record(self.phase_start_composition),
            "domain": self._domain,
            "experts": {domain: self._record(composition) for domain, composition in self._kept.items()},
            **self._holds.adapted(),
        }

    def load(self, folder: Path) -> None:
        """Go on from what `capture` wrote, by however many ranks, which may be another composition than this one."""
        composition = self._recalled(_recorded(folder)["composition"])
        if composition.models != self.composition.models:
            self.recompose(composition)
        self._recall(folder)
        self._engine.load(folder)
        self._read()

    def _recall(self, folder: Path) -> None:
        """Read what `capture` wrote beside the engine and the weights."""
        self._phase_start = load_file(folder / "phase_start.safetensors")
        self._holds.start_phase(self._phase_start)
        document = _recorded(folder)
        self.version, self._domain = document["version"], document["domain"]
        self.phase_start_composition = self._recalled(document["phase_start_composition"])
        self._kept = {domain: self._recalled(value) for domain, value in document["experts"].items()}
        self._set_coefficients(self._recalled(document["composition"]))
        self._restore_trainable(folder)
        self._holds.load(folder)

    def _record(self, composition: Composition) -> dict[str, Any]:
        return recorded(composition, self.origin, self.models)

    def _recalled(self, values: Mapping[str, Any]) -> Composition:
        return recalled(values, self.origin, self.models)

    def _restore_trainable(self, folder: Path) -> None:
        document, file = _recorded(folder), folder / "trainable.safetensors"
        tensors = load_file(file) if file.exists() else {}
        self._take(self._trainable.restore(document["trainable"], tensors, self._state))

    def _take(self, state: Mapping[str, Tensor] | None) -> None:
        if state is not None:
            self._engine.set_weights(state)
            self._read()

    def _after_step(self) -> None:
        """Read the weights that an optimizer step left, pull them back, and let the anchor's average follow."""
        self._read()
        if (pulled := self._holds.pulled(self._weights, self._lr)) is not None:
            self._take(self._trainable.adopt(pulled, self._state))
        self._holds.follow(self._weights)

    def _read(self) -> None:
        """The engine's state, which may have adapters, and the weights that are published."""
        self._state = self._engine.weights()
        self._weights = self._trainable.published(self._state)

    def _reweigh(self) -> None:
        """Take the coefficients that the policy has after so many updates."""
        if self._schedule:
            self._set_coefficients(self._schedule(self.composition, self.version))

    def _set_coefficients(self, composition: Composition) -> None:
        self._policy.set_coefficients(composition)
        self.composition = composition

    @property
    def _trainable_path(self) -> str:
        return next(m.path for m in self.composition.members if m.role == self.composition.trainable)

    def _parameters(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: weights[name] for name in self._names}

    def _passed(self, batch: Batch, share: Batch) -> int:
        """Tokens that an update passes through models, once for each: the policy's, and the anchor's where it runs."""
        members = len(self.composition.members)  # an anchor has as many
        rows, remembered = (sum(row.tokens for row in part.rows) for part in (batch, share))
        on_batch = members * (2 if self._objective.kl_in_loss else 1)
        return (rows * on_batch + remembered * 2 * members) * self._settings.learner.epochs

    def _train(self, batch: Batch, share: Batch) -> dict[str, float]:
        rank, world = place()
        learner, before = self._settings.learner, self._weights
        micros = micro_batches(batch, learner.micro_tokens, self._policy.device, rank, world)
        kept = micro_batches(share, learner.micro_tokens, self._policy.device, rank, world)
        passes = []
        for _ in spans("pass", range(learner.epochs)):
            done = [
                self._backward(micro, last=micro is micros[-1] and not kept) for micro in spans("micro-batch", micros)
            ]
            micros, sums = [micro for micro, _ in done], [part for _, part in done]
            remembered = [self._backward_memory(micro, last=micro is kept[-1]) for micro in kept]
            norm = self._engine.step()
            passes.append(_with_memory(_reduce(sums, world), _reduce(remembered, world)))
            if not math.isfinite(norm):
                raise Diverged(
                    f"update {self.version}: the gradient is not finite (norm {norm}, loss {passes[-1]['loss']}); "
                    f"lower learner.lr ({self._lr}) or the loss's coefficients and start again: checkpoints are sound"
                )
            self._after_step()
        first, last = passes[0], passes[-1]
        update = distance(self._parameters(self._weights), self._parameters(before))
        metrics = {
            "learner/loss": first["loss"],
            "learner/entropy": first["entropy"] / first["tokens"],
            "learner/grad_norm": norm,
            "learner/update_norm": update,
            "learner/update_to_weight": update / norm_of(self._parameters(before)),
        }
        if not isinstance(self._objective, Supervised):
            metrics |= {
                "learner/policy_loss": first["policy_loss"],
                "learner/behaviour_gap": first["gap"] / first["tokens"],
                "learner/clip_share": last["clipped"] / last["tokens"],
                "learner/ratio_max": last["ratio_max"],
            }
        if "importance" in first:
            metrics |= {
                "learner/importance_mean": first["importance"] / first["tokens"],
                "learner/importance_cut_share": first["importance_cut"] / first["tokens"],
                "learner/importance_ess": first["importance"] ** 2 / (first["tokens"] * first["importance_squares"]),
            }
        if "kl_tokens" in first:
            metrics["learner/kl_anchor"] = first["kl"] / first["kl_tokens"]
        return metrics

    def _backward_memory(self, micro: MicroBatch, last: bool) -> dict[str, Tensor]:
        logits = self._policy.completion_logits(micro.packed, trained=self._engine.module)
        loss, sums = self._holds.memory_loss(logits, micro)
        self._engine.backward(loss, last)
        return sums

    def _backward(self, micro: MicroBatch, last: bool) -> tuple[MicroBatch, dict[str, Tensor]]:
        """The micro-batch for the next pass, which keeps the proximal policy of the first, and the sums of this one."""
        temperature = self._settings.rollout.temperature
        anchor_logps = self._holds.anchor_logps(micro)
        logits = self._policy.completion_logits(micro.packed, trained=self._engine.module)
        if isinstance(self._objective, Supervised):
            loss, sums = likelihood_loss(logits, micro)
        else:
            objective = self._holds.with_coefficient(self._objective)
            if objective.importance_cap is not None and micro.proximal_logps is None:
                micro = with_proximal(micro, logits, temperature)
            loss, sums = micro_loss(logits, anchor_logps, micro, objective, temperature)
            if anchor_logps is not None:
                sums["kl_tokens"] = sums["tokens"]
        self._engine.backward(loss, last)
        return micro, sums


def distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Euclidean distance of two state dicts: differences in float32, which are summed in float64."""
    return float(sum(_squares(a[name].float() - b[name].float()) for name in a)) ** 0.5


def norm_of(weights: Mapping[str, Tensor]) -> float:
    """Euclidean norm of a state dict."""
    return float(sum(map(_squares, weights.values()))) ** 0.5


def rms_distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Root mean square distance of two state dicts: `distance` over the square root of the number of weights."""
    return distance(a, b) / sum(tensor.numel() for tensor in a.values()) ** 0.5


def _squares(tensor: Tensor) -> Tensor:
    return torch.linalg.vector_norm(tensor, dtype=torch.float64).square()


def _reduce(sums: list[dict[str, Tensor]], world: int) -> dict[str, float]:
    """The step's totals over micro-batches and ranks; nothing of nothing."""
    if not sums:
        return {}
    names = [name for name in sums[0] if name != "ratio_max"]
    total = torch.stack([torch.stack([part[name].double() for name in names]) for part in sums]).sum(dim=0)
    if world > 1:
        dist.all_reduce(total)
    totals = dict(zip(names, total.tolist(), strict=True))
    if "ratio_max" in sums[0]:
        largest = torch.stack([part["ratio_max"].double() for part in sums]).max()
        if world > 1:
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        totals["ratio_max"] = float(largest)
    return totals


def _with_memory(totals: dict[str, float], remembered: dict[str, float]) -> dict[str, float]:
    """A pass's totals with those of the memory: its loss is added, and its KL is the one to the anchor."""
    if not remembered:
        return totals
    loss = totals["loss"] + remembered["loss"]
    return totals | {"loss": loss, "kl": remembered["kl"], "kl_tokens": remembered["tokens"]}


def _untied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies: safetensors refuses tensors that share memory, as tied embeddings do."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
