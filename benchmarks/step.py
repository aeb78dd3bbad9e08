"""Seconds of a whole RL step against TRL's GRPO trainer, of the update alone against a padded one, and both curves.

    python -m benchmarks.step [steps] [seeds]

Same work on both sides: a Llama of 4 layers x 128 that partly solves chain sums, the same problems, verifier and
tokenizer, 32 groups of 8 completions of up to 64 tokens a step at temperature 1, GRPO's advantages averaged over all
tokens, one AdamW step, no KL; two threads. A step is rollouts, rewards, update and, at Ductile, the publication of the
weights. TRL is set as it is fastest here: all 256 rows in one batch, no gradient checkpointing. One step of Ductile is
taken after each of TRL's. With Ray and DeepSpeed, as `jobs.run` sets them up, Ductile runs in processes of its own
after the steps of each seed, and its steps are timed by its own `time/step_s`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.alternate import alternate, headline, print_speeds, ratio
from benchmarks.silent import Silent
from ductile.config import ModelSettings, RunSettings
from ductile.domains import make_domain
from ductile.engines import make_engine
from ductile.learner import PolicyLearner, make_learner
from ductile.local import local_ports
from ductile.models.compose import ComposedPolicy
from ductile.models.load import load_tokenizer
from ductile.plan import make_plan
from ductile.pretrain import ensure_model
from ductile.rl.batch import Batch, pad_rows
from ductile.settings import build
from ductile.step import publish, train_step
from ductile.variants import make_variant

DOMAIN, LEVELS, POOL = {"name": "chain_sum"}, (4, 5), 256
GROUPS, SIZE, TOKENS, THREADS, LR = 32, 8, 64, 2, 3e-4
MODEL = {
    "base": {"layers": 4, "width": 128, "heads": 4, "mlp": 352},
    "pretrain": {"steps": 300},
    "mixture": {"sum": {"domain": DOMAIN, "levels": [2, 3, 4], "formats": {"trace": 0.8, "direct": 0.2}}},
}
WARM = 2
"""Steps of each side that are not timed."""


def main(steps: int, seeds: int) -> None:
    """Print seconds a step, ratios with intervals, and the mean reward over steps."""
    torch.set_num_threads(THREADS)
    base = ensure_model(build(ModelSettings, MODEL), "base", Path("cache"), lambda step, metrics: None)
    with tempfile.TemporaryDirectory() as folder:
        turns, with_ray = [], []
        for seed in range(seeds):
            turns.append(_take_turns(base, steps, seed, Path(folder) / f"seed-{seed}"))
            with_ray.append(_with_ray(base, Path(folder), steps, seed)[WARM:])
        ours, theirs = (1 / np.concatenate([turn[side][WARM:] for turn in turns]) for side in ("ductile", "trl"))
        ray = 1 / np.concatenate(with_ray)
        for threads in (1, THREADS):
            torch.set_num_threads(threads)
            _print_update(base, turns[0]["learner"], turns[0]["batches"])
    print(f"A step of {GROUPS * SIZE} rollouts of up to {TOKENS} tokens, {THREADS} threads")
    print_speeds({"ductile in process": ours, "trl": theirs}, "steps a second")
    print_speeds({"ductile, Ray and DeepSpeed": ray, "trl": theirs}, "steps a second")
    for name, side in (("in one process", ours), ("with Ray and DeepSpeed", ray)):
        # Steps differ in what they sample; all of them together are what a run takes.
        times = ratio(1 / theirs, 1 / side, np.mean)
        headline(f"step, {name}: all steps of TRL take {times} times as long")
    _print_curves(turns)


def _take_turns(base: Path, steps: int, seed: int, folder: Path) -> dict[str, Any]:
    """Seconds and mean rewards of both sides' steps, taken in turn; the learner and what it learned from."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    one_step, learner, batches = _ductile(base, steps, seed, folder)
    seconds: dict[str, list[float]] = {"ductile": [], "trl": []}
    rewards: dict[str, list[float]] = {"ductile": [], "trl": []}
    problems = _problems(seed)
    domain = make_domain(DOMAIN, "domain")

    def reward(prompts: Sequence[str], completions: Sequence[str], number: Sequence[int], **_: object) -> list[float]:
        verdicts = [domain.judge(problems[n], text) for n, text in zip(number, completions, strict=True)]
        found = [float(verdict.reward or 0.0) for verdict in verdicts]
        rewards["trl"].append(float(np.mean(found)))
        return found

    class InTurn(TrainerCallback):
        def on_step_begin(self, *_: object, **__: object) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: object, **__: object) -> None:
            seconds["trl"].append(time.perf_counter() - self.began)
            began = time.perf_counter()
            rewards["ductile"].append(one_step())
            seconds["ductile"].append(time.perf_counter() - began)

    config = GRPOConfig(
        output_dir=str(folder / "trl"),
        use_cpu=True,
        bf16=False,
        max_steps=steps,
        per_device_train_batch_size=GROUPS * SIZE,
        num_generations=SIZE,
        max_completion_length=TOKENS,
        temperature=1.0,
        top_k=0,
        beta=0.0,
        learning_rate=LR,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        seed=seed,
    )
    rows = [{"prompt": problem.transcript, "number": number} for number, problem in enumerate(problems)]
    tokenizer = load_tokenizer(str(base))
    tokenizer.padding_side = "left"
    trainer = GRPOTrainer(
        str(base), reward, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
        callbacks=[InTurn()],
    )  # fmt: skip
    trainer.train()
    arrays = {side: np.array(values) for side, values in seconds.items()}
    return {**arrays, "rewards": rewards, "learner": learner, "batches": batches}


def _problems(seed: int) -> list[Any]:
    """The problems that Ductile's phase asks too."""
    plan = make_plan(_settings("", seed), lambda values, path: make_domain(values, path))
    return list(plan.phases[0].pool.values())


def _settings(base: str, seed: int, steps: int = 1) -> RunSettings:
    phase = {"domain": DOMAIN, "levels": LEVELS, "steps": steps, "pool": POOL}
    values = {
        "phase": {"hard": phase},
        "model": {"path": base},
        "rollout": {"groups": GROUPS, "group_size": SIZE, "max_tokens": TOKENS},
        "learner": {"engine": "torch", "lr": LR},
        "seed": seed,
    }
    return build(RunSettings, values)


def _ductile(base: Path, steps: int, seed: int, folder: Path) -> tuple[Any, PolicyLearner, list[Batch]]:
    """What takes a step and returns its mean reward, its learner, and the batches that this has learned from."""
    settings = _settings(str(base), seed, steps)
    variant = make_variant(settings.variant)
    learner, batches = make_learner(settings, variant, base, base), list[Batch]()
    ports = local_ports(settings, variant, learner, Silent(), folder, folder)
    [phase] = make_plan(settings, ports.resolve).phases
    learner.start_phase(phase.domain.key)
    ports.course.start_phase(phase, [])
    ports.contexts.start_phase(phase)
    ports.difficulty.start_phase(list(phase.pool))
    state: dict[str, Any] = {"policy": publish(ports.pool, learner), "step": 0, "budget": {}}
    update = learner.update
    learner.update = lambda batch: (batches.append(batch), update(batch))[1]  # type: ignore[method-assign]

    def one_step() -> float:
        state["policy"], metrics = train_step(
            settings, variant, phase, ports, state["policy"], "train/0", state["step"], state["budget"]
        )
        state["step"] += 1
        return metrics["rollout/pass_rate"]

    return one_step, learner, batches


def _with_ray(base: Path, folder: Path, steps: int, seed: int) -> NDArray[np.float64]:
    """Seconds of each step of `jobs.run`, by its own `time/step_s`."""
    from mlflow import MlflowClient

    output = folder / f"ray-{seed}"
    phase = f"{{hard: {{domain: {{name: chain_sum}}, levels: {list(LEVELS)}, steps: {steps}, pool: {POOL}}}}}"
    arguments = (
        f"output={output}",
        f"seed={seed}",
        f"model.path={base}",
        f"phase={phase}",
        f"rollout.groups={GROUPS}",
        f"rollout.group_size={SIZE}",
        f"rollout.max_tokens={TOKENS}",
        f"rollout.threads={THREADS}",
        f"learner.threads={THREADS}",
        f"learner.lr={LR}",
        "probe.probes=[]",
    )
    shell = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    done = subprocess.run([sys.executable, "-m", "jobs.run", *arguments], capture_output=True, text=True, env=shell)
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-4000:])
    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    [run] = [run for run in client.search_runs(experiments) if "time/step_s" in run.data.metrics]
    return np.array([point.value for point in client.get_metric_history(run.info.run_id, "time/step_s")])


def _print_update(base: Path, learner: PolicyLearner, batches: Sequence[Batch]) -> None:
    """The update alone, on the batches that it learned from.

    Also with the matrix products that PyTorch takes by itself, in bf16, and the same objective on padded rows.
    """
    settings = _settings(str(base), 0)
    rounded = replace(settings, learner=replace(settings.learner, precision="bf16"))
    in_bf16 = make_learner(rounded, make_variant(settings.variant), base, base)
    policy = ComposedPolicy.load(learner.composition, "float32")
    engine = make_engine(policy.trainable, settings.learner, LR)
    kept = [batch for batch in batches if batch.rows][-4:]

    def packed() -> float:
        for batch in kept:
            learner.update(batch)
        return float(len(kept))

    def own_products() -> float:
        with patch("ductile.models.compose.linears_for", nullcontext):
            return packed()

    def bf16() -> float:
        for batch in kept:
            in_bf16.update(batch)
        return float(len(kept))

    def padded() -> float:
        for batch in kept:
            _padded_update(policy, engine, batch)
        return float(len(kept))

    print("The update alone")
    sides = {"packed": packed, "packed, PyTorch's products": own_products, "packed, bf16": bf16, "padded": padded}
    print_speeds(speeds := alternate(sides, rounds=5), "updates a second")
    times, threads = ratio(speeds["packed"], speeds["packed, PyTorch's products"]), torch.get_num_threads()
    headline(f"step, the update alone, {threads} threads: {times} times as fast as by PyTorch's products")


def _padded_update(policy: ComposedPolicy, engine: Any, batch: Batch) -> None:
    """What an update was before rows were packed: logits and two softmaxes of all positions, rows padded."""
    rows = sorted(batch.rows, key=lambda row: row.tokens)
    padded = pad_rows([(row.prompt, row.completion) for row in rows])
    columns = torch.tensor([[row.advantage, row.weight] for row in rows])
    logits = policy(padded.ids, padded.mask)[:, :-1]
    logps = torch.log_softmax(logits, dim=-1).gather(-1, padded.ids[:, 1:, None]).squeeze(-1)
    with torch.no_grad():
        every = torch.log_softmax(logits, dim=-1)
        entropy = -(every.exp() * every).sum(dim=-1)
    ratio = torch.exp(logps - logps.detach())
    engine.backward((-ratio * columns[:, :1] * columns[:, 1:] * padded.completion).sum(), last=True)
    engine.step()
    engine.weights()
    float((entropy * padded.completion).sum())


def _print_curves(turns: Sequence[dict[str, Any]]) -> None:
    """Mean reward over thirds of the steps and its gain, of each side: mean over seeds, lowest and highest."""
    print("Mean reward over thirds of the steps, and the last less the first: mean over seeds (lowest to highest)")
    for side in ("ductile", "trl"):
        thirds = np.array([[part.mean() for part in np.array_split(turn["rewards"][side], 3)] for turn in turns])
        columns = [*thirds.T, thirds[:, -1] - thirds[:, 0]]
        cells = [f"{t.mean():.3f} ({t.min():.3f} to {t.max():.3f})" for t in columns]
        print(f"{side:8} {'   '.join(cells)}")


if __name__ == "__main__":
    main(*(int(value) for value in (sys.argv[1:] + ["24", "3"][len(sys.argv) - 1 :])))
