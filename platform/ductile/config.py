"""Every setting, typed and with its range: the one place where defaults live.

YAML under `configs/` holds experiments and presets, never a second copy of these defaults.
`build(RunSettings, mapping)` (see `settings.py`) makes and checks the whole tree at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ductile.settings import setting


@dataclass(frozen=True)
class MixtureSettings:
    """One part of the pretraining mixture."""

    domain: Mapping[str, Any] = setting(dict, "the domain and its options: {name: chain_sum, modulus: 10}")
    levels: tuple[int, ...] = setting((1,), "levels to draw from, each as often")
    formats: Mapping[str, float] = setting(
        dict, "share of each format of worked solution: {steps: 0.7, direct: 0.3}", low=0
    )
    weight: float = setting(1.0, "weight of this part in the mixture", above=0)


@dataclass(frozen=True)
class ArchitectureSettings:
    """Size of a Llama built from scratch."""

    layers: int = setting(3, "transformer layers", low=1)
    width: int = setting(96, "hidden size", low=8)
    heads: int = setting(4, "attention heads", low=1)
    mlp: int = setting(256, "size of the gated MLP", low=8)
    positions: int = setting(256, "longest sequence in tokens, prompt and completion", low=16)

    def check(self) -> Iterator[str]:
        if self.width % (2 * self.heads):
            yield f"width: {self.width} must be a multiple of {2 * self.heads}: rotary embeddings need even heads"


@dataclass(frozen=True)
class PretrainSettings:
    """How a base model is trained from scratch on worked solutions."""

    steps: int = setting(2000, "optimizer steps", low=1)
    batch: int = setting(64, "sequences a step", low=1)
    lr: float = setting(2e-3, "peak learning rate (AdamW, cosine to a tenth)", above=0)
    warmup: int = setting(100, "steps of linear warm-up", low=0)
    weight_decay: float = setting(0.01, "AdamW weight decay", low=0)
    clip: float = setting(1.0, "largest gradient norm", above=0)
    save_every: int = setting(500, "steps between checkpoints, from which an interrupted pretraining goes on", low=1)
    seed: int = setting(0, "seed of the weights and of the data", low=0)


@dataclass(frozen=True)
class ModelSettings:
    """The base model: a Hugging Face folder, or a small Llama built from scratch and cached."""

    path: str = setting("", "Hugging Face folder of the base model; empty: build one from scratch")
    expert_path: str = setting(
        "", "Hugging Face folder of the proxy's small base (the anti-expert), with the same tokenizer"
    )
    base: ArchitectureSettings = setting(ArchitectureSettings, "size of the base built from scratch")
    expert: ArchitectureSettings = setting(
        lambda: ArchitectureSettings(layers=2, width=64, heads=4, mlp=128), "size of the proxy's small base"
    )
    pretrain: PretrainSettings = setting(PretrainSettings, "how they are trained")
    mixture: Mapping[str, MixtureSettings] = setting(dict, "what they are trained on, by name")
    instructed: float = setting(
        0.0, "share of the mixture that is asked with an instruction that names the format", low=0, high=1
    )
    examples: float = setting(
        0.0, "share of the mixture that is asked after one or two worked examples in the same format", low=0, high=1
    )
    dtype: str = setting("float32", "number format of the weights", choices=("float32", "bfloat16"))
    trust_remote_code: bool = setting(False, "run Python code that comes with the model's folder: only if you wrote it")


@dataclass(frozen=True)
class PhaseSettings:
    """One phase of a plan: what is asked, how hard, and for how long."""

    domain: Mapping[str, Any] = setting(
        dict, "the domain and its options: {name: chain_sum, modulus: 10, lenient: false}"
    )
    levels: tuple[int, ...] = setting((1,), "levels that the phase's problems are drawn from, each as often")
    steps: int = setting(30, "RL steps", low=1)
    pool: int = setting(512, "how many different problems the phase draws on", low=1)
    probes: tuple[str, ...] | None = setting(
        None, "which probes run at the boundary after the phase; unset: probe.probes"
    )


@dataclass(frozen=True)
class RolloutSettings:
    """How completions are sampled."""

    groups: int = setting(16, "problems a step", low=1)
    group_size: int = setting(8, "completions a problem (G)", low=2)
    max_tokens: int = setting(64, "longest completion in tokens", low=1)
    temperature: float = setting(1.0, "sampling temperature", above=0)
    top_p: float = setting(
        1.0, "nucleus: sample from the smallest set of tokens with this share of the probability", above=0, high=1
    )
    staleness: int = setting(
        0, "updates that the policy of a step's rollouts may be behind; above 0 sampling and training overlap", low=0
    )
    actors: int = setting(1, "rollout actors of a run", low=1)
    actors_max: int | None = setting(
        None, "most rollout actors of a run, when nodes with room for them join; unset: rollout.actors", low=1
    )
    part: int = setting(
        0, "problems in one call to an actor; 0: as many as the actors divide a step's problems into", low=0
    )
    hedge: float = setting(
        5.0, "a call that takes so many times as long as its like is begun on another actor too; 0: never", low=0
    )
    threads: int = setting(1, "torch threads of each rollout actor", low=1)
    timeout_s: float = setting(600.0, "a rollout call that takes longer is retried on another actor", above=0)
    retries: int = setting(3, "how often a lost rollout call is tried again before the run fails", low=0)
    patience_s: float = setting(300.0, "how long a call waits for an actor while none is alive", above=0)

    def check(self) -> Iterator[str]:
        if self.actors_max is not None and self.actors_max < self.actors:
            yield f"actors_max: {self.actors_max} is below actors ({self.actors}); allowed: actors or more"
        if 0 < self.hedge < 1:
            yield f"hedge: {self.hedge:g} would begin calls twice that are quicker than most; allowed: 0, or 1 and more"


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters as the only trainable part (LoRA, arXiv 2106.09685)."""

    rank: int = setting(0, "rank of the adapters; 0: none, every weight is trained", low=0)
    alpha: float = setting(16.0, "their output is scaled by alpha / rank", above=0)
    switch: str = setting(
        "carry",
        "at a phase switch: carry them on, merge them into the weights and begin new ones, or reset them",
        choices=("carry", "merge", "reset"),
    )


@dataclass(frozen=True)
class LearnerSettings:
    """How the policy's weights are updated."""

    engine: str = setting("deepspeed", "what holds the weights and the optimizer", choices=("deepspeed", "torch"))
    workers: int = setting(0, "Ray Train workers; 0: one, in the process of the run itself", low=0)
    zero: int = setting(0, "DeepSpeed ZeRO stage", low=0, high=3)
    lr: float = setting(1e-3, "learning rate (AdamW)", above=0)
    betas: tuple[float, ...] = setting((0.9, 0.999), "AdamW betas", low=0, high=1)
    weight_decay: float = setting(0.0, "AdamW weight decay", low=0)
    clip: float = setting(1.0, "largest gradient norm", above=0)
    epochs: int = setting(1, "passes over each batch; above 1 the ratio leaves 1 and the clip acts", low=1)
    micro_tokens: int = setting(16384, "most tokens in a micro-batch, a prompt that rows share counted once", low=1)
    precision: str = setting("fp32", "number format of forward and backward", choices=("fp32", "bf16"))
    threads: int = setting(1, "torch threads of each learner worker", low=1)
    max_failures: int = setting(
        3, "how often a run whose workers died starts again from its checkpoint without having come further", low=0
    )
    lora: LoraSettings = setting(LoraSettings, "low-rank adapters as the only trainable part")

    def check(self) -> Iterator[str]:
        if len(self.betas) != 2:
            yield f"betas: {list(self.betas)} must be two numbers, as in [0.9, 0.999]"


@dataclass(frozen=True)
class ObjectiveSettings:
    """The policy-gradient objective, shared by every variant."""

    advantage: str = setting(
        "std",
        "std (GRPO), no_std (Dr.GRPO's), leave_one_out (RLOO), batch_std (group mean, batch deviation), batch_whitened "
        "(REINFORCE++ baseline), length_weighted (OPO), best_of_group (pass@k), psr, nsr, w_reinforce",
        choices=(
            "std",
            "no_std",
            "leave_one_out",
            "batch_std",
            "batch_whitened",
            "length_weighted",
            "best_of_group",
            "psr",
            "nsr",
            "w_reinforce",
        ),
    )
    positive_weight: float | None = setting(None, "w_reinforce: weight of the successes (lambda); unset: 0.1", above=0)
    std_floor: float = setting(0.0, "std: the group's standard deviation counts as at least so much", low=0)
    std_prior: float = setting(
        0.0, "std: so many completions' worth of a standard deviation of 0.5 are added to the group's (kappa)", low=0
    )
    advantage_cap: float | None = setting(None, "advantages are cut to [-cap, cap]", above=0)
    confidence_shrink: bool = setting(
        False, "multiply a group's advantages by 4 p (1 - p), p the Beta(1, 1) posterior mean of its pass rate"
    )
    min_successes: int = setting(1, "successes below which a group's successes are not learned from", low=1)
    dynamic_sampling: str = setting(
        "off",
        "groups without gradient: off keeps them in the average, drop leaves them out, refill asks other problems",
        choices=("off", "drop", "refill"),
    )
    refill_rounds: int | None = setting(None, "refill: most rounds of sampling in a step; unset: 10", low=1)
    loss: str = setting(
        "clip",
        "clip (PPO), cispo (clipped weight, gradient kept), gspo (clipped ratio of the whole completion)",
        choices=("clip", "cispo", "gspo"),
    )
    dual_clip: float | None = setting(
        None, "clip: bound of the ratio where the advantage is negative (dual clip)", above=1
    )
    clip_low: float = setting(0.2, "lower clip of the importance ratio: 1 - clip_low", low=0, high=1)
    clip_high: float = setting(0.2, "upper clip of the importance ratio: 1 + clip_high", low=0)
    length_norm: str = setting(
        "token",
        "how token losses are averaged: over all tokens, per completion, or by max_tokens",
        choices=("token", "completion", "constant"),
    )
    entropy: float = setting(0.0, "coefficient of the entropy bonus", low=0)
    importance_cap: float | None = setting(
        None, "rollout.staleness: importance weights of stale tokens are cut to this (truncated IS); unset: 2", above=0
    )

    def check(self) -> Iterator[str]:
        kind = self.advantage
        if self.positive_weight is not None and kind != "w_reinforce":
            yield (
                f"positive_weight: {self.positive_weight} is set, but advantage {kind} gives successes no weight of "
                f"their own; allowed: advantage w_reinforce"
            )
        for name in ("std_floor", "std_prior"):
            if getattr(self, name) and kind != "std":
                yield (
                    f"{name}: {getattr(self, name)} is set, but advantage {kind} divides by no group's standard "
                    f"deviation; allowed: advantage std"
                )
        if self.min_successes > 1 and kind in ("nsr", "best_of_group"):
            why = {
                "nsr": "nsr learns from no success",
                "best_of_group": "best_of_group learns from lone successes only, so that nothing would be left",
            }
            yield f"min_successes: {self.min_successes}: {why[kind]}; allowed: 1, or another advantage"
        if self.refill_rounds is not None and self.dynamic_sampling != "refill":
            yield (
                f"refill_rounds: {self.refill_rounds} is set, but dynamic_sampling is {self.dynamic_sampling}; "
                f"allowed: dynamic_sampling refill"
            )
        if self.dual_clip is not None and self.loss != "clip":
            why = {"cispo": "whose clip keeps every gradient", "gspo": "which bounds the whole completion's ratio"}
            yield f"dual_clip: {self.dual_clip} is set, but the loss is {self.loss}, {why[self.loss]}; allowed: clip"


@dataclass(frozen=True)
class VariantSettings:
    """How the policy is composed and updated. Options that a variant does not use must stay unset."""

    name: str = setting("parameter_only", "the variant's name")
    label: str = setting("", "what tables and plots call it; empty: the preset's name in a comparison, else its own")
    lr: float | None = setting(None, "learning rate of this variant, in place of learner.lr", above=0)

    kl: float | None = setting(None, "low_drift: coefficient of the KL to the anchor", above=0)
    kl_estimator: str | None = setting(
        None,
        "low_drift: estimator of the KL; in the loss k2, k3 or k3+ (k3, gradient of k2), in the reward k1 or k3",
        choices=("k1", "k2", "k3", "k3+"),
    )
    kl_place: str | None = setting(None, "low_drift: where the KL goes; unset: the loss", choices=("loss", "reward"))
    kl_target: float | None = setting(
        None, "low_drift: KL in nats a token that the coefficient is adapted to; unset: it is fixed", above=0
    )
    kl_horizon: float | None = setting(
        None, "low_drift: completions over which the coefficient adapts; unset: 10000", above=0
    )
    anchor: str | None = setting(
        None,
        "low_drift: what the policy stays close to; prior_data: what it answered to data.prior and to earlier phases' "
        "problems when the phase began",
        choices=("base", "phase_start", "ema", "prior_data"),
    )
    ema_decay: float | None = setting(
        None, "low_drift: share of the anchor ema that stays at each step; unset: 0.99", above=0, high=1
    )
    l2_init: float | None = setting(
        None,
        "low_drift: strength of the pull of all weights to the base: each step goes lr * l2_init of the way",
        above=0,
    )
    ewc: float | None = setting(
        None,
        "low_drift: strength of the pull to the weights at the end of earlier phases, by Fisher information",
        above=0,
    )

    alpha: float | None = setting(
        None, "proxy: weight of expert minus anti-expert in logit space; self_proxy: of the trained copy", above=0
    )
    alpha_end: float | None = setting(
        None, "proxy, self_proxy: alpha at the plan's last step, reached in equal parts; unset: alpha", above=0
    )
    memory: str | None = setting(
        None,
        "proxy, at a phase switch: one expert goes on (sequential), a fresh one for each domain, a fresh one on top of "
        "the sum of the earlier ones, or the policy is distilled into the base; unset: sequential",
        choices=("sequential", "fresh", "sum", "distil"),
    )
    distil_steps: int | None = setting(None, "proxy: optimizer steps of a distillation; unset: 40", low=1)

    contexts: int | None = setting(None, "fast_slow: contexts that a problem's completions are spread over (K)", low=1)
    evolve_every: int | None = setting(None, "fast_slow: RL steps between two rounds of evolution (T)", low=1)
    evolve_calls: int | None = setting(None, "fast_slow: most completions that a round of evolution may judge", low=1)
    reflector: str | None = setting(
        None,
        "fast_slow: what proposes contexts; vocabulary: instructions of the formats and the policy's own worked "
        "examples; model: a language model at reflector_url",
        choices=("vocabulary", "model"),
    )
    reflector_url: str | None = setting(None, "fast_slow: OpenAI-compatible address of the reflector model")
    reflector_model: str | None = setting(None, "fast_slow: name of the reflector model there")
    prefix_tokens: int | None = setting(None, "fast_prefix: trainable embeddings before each prompt of a domain", low=1)
    fast_rank: int | None = setting(None, "fast_lora: rank of each domain's adapters", low=1)
    fast_lr: float | None = setting(None, "fast_prefix, fast_lora: learning rate of the fast part", above=0)

    restart: bool | None = setting(
        None, "expert_iteration: every phase's training begins from the base again; unset: it goes on"
    )

    @property
    def called(self) -> str:
        """What a run of it is called."""
        return self.label or self.name


@dataclass(frozen=True)
class SwitchSettings:
    """What is done to the policy between two phases, after the boundary is measured; branches begin with it too."""

    optimizer: str = setting("carry", "the optimizer's state", choices=("carry", "reset"))
    fusion: float | None = setting(
        None, "base fusion: share of the trained weights in their average with the base", low=0, high=1
    )
    shrink: float | None = setting(None, "shrink and perturb: factor on every weight", above=0, high=1)
    perturb: float | None = setting(
        None, "shrink and perturb: standard deviation of the noise added to every weight", above=0
    )
    redo: float | None = setting(
        None, "ReDo: units of the MLPs whose activity is at most so many times their layer's mean begin anew", low=0
    )
    utility_reset: float | None = setting(
        None,
        "continual backprop's reset: share of each MLP's units, those of least utility, that begin anew",
        above=0,
        high=1,
    )
    problems: int = setting(
        32, "problems of the ended phase whose completions show what the units do, and EWC's Fisher information", low=1
    )


@dataclass(frozen=True)
class SkillSettings:
    """A skill: a domain at some levels."""

    domain: Mapping[str, Any] = setting(dict, "the domain and its options")
    levels: tuple[int, ...] = setting((1,), "its levels")


@dataclass(frozen=True)
class DataSettings:
    """What a step asks beside the problems that selection takes from the phase's pool, and how it asks them."""

    prior: Mapping[str, SkillSettings] = setting(
        dict, "skills that the base had before the plan, by name, for replay and for the anchor prior_data"
    )
    replay: float = setting(
        0.0, "share of each step's problems that are from data.prior and from earlier phases", low=0, high=1
    )
    review: float = setting(
        0.0, "share of a reviewing step's problems that are mastered ones of this phase", low=0, high=1
    )
    review_every: int = setting(5, "steps between two reviewing steps", low=1)
    mastered: float = setting(0.9, "pass rate at its last visit from which a problem is mastered", above=0, high=1)
    hint: float = setting(
        0.0, "share of a worked solution that is given with each problem at the phase's start", low=0, high=1
    )
    hint_end: float = setting(0.0, "and at the end of the hints", low=0, high=1)
    hint_steps: int | None = setting(None, "steps over which it falls; unset: the whole phase", low=1)
    ladder: tuple[int, ...] = setting(
        (), "easier levels of the phase's domain that are asked first, rising; empty: the phase's own at once"
    )
    ladder_rate: float = setting(0.6, "pass rate at which the next level is asked", above=0, high=1)
    defer_after: int = setting(0, "visits without a success after which a problem is deferred; 0: never", low=0)
    defer_steps: int = setting(10, "steps for which it is deferred", low=1)

    def check(self) -> Iterator[str]:
        if self.replay == 1:
            yield "replay: 1.0 leaves no problem of the phase itself to a step; allowed: below 1"
        if self.replay + self.review > 1:
            yield f"replay: {self.replay} and review ({self.review}) together are more than the whole step"
        if self.hint_end > self.hint:
            yield f"hint_end: {self.hint_end} is more than hint ({self.hint}): hints fall (did you swap them?)"
        if self.hint_steps is not None and not self.hint:
            yield f"hint_steps: {self.hint_steps} is never read: hint is 0; set hint, or leave hint_steps out"
        if list(self.ladder) != sorted(set(self.ladder)):
            yield f"ladder: {list(self.ladder)} must rise from one level to the next"


@dataclass(frozen=True)
class KalmanSettings:
    """The estimator kalman: a random walk of the logit of each pass rate."""

    noise: float = setting(0.05, "variance that the logit of a pass rate gains a step", low=0)
    spread: float = setting(1.5, "standard deviation of the logit before the first visit", above=0)


@dataclass(frozen=True)
class ImportanceSettings:
    """The estimator importance: self-normalised importance sampling over each problem's last completions (DARE)."""

    buffer: int = setting(16, "completions kept of each problem, the newest", low=1)
    clip: float = setting(
        4.0, "log-ratios are cut to [-clip, clip] (C); the paper's 4, its code's 5", above=0, high=100
    )
    min_ess: float = setting(2.0, "effective samples below which the plain mean of the rewards is taken", low=0)


@dataclass(frozen=True)
class AttentionSettings:
    """The estimator attention: from the pass rates of problems like it in a freshly rolled-out set (DOTS)."""

    reference: int = setting(
        0, "problems that are rolled out anew as the reference at each refresh; 0: the step's own groups serve", low=0
    )
    window: int = setting(256, "newest visits, of as many problems at most, that serve where reference is 0", low=2)
    temperature: float = setting(0.05, "softmax temperature of the cosine similarity", above=0)


@dataclass(frozen=True)
class HiddenStateSettings:
    """The estimators value and features: a linear model on the prompt's last hidden state."""

    rate: float = setting(0.05, "value: step size of the online logistic regression", above=0)
    ridge: float = setting(1.0, "features: strength of the ridge, on states of squared norm 1 on average", above=0)
    window: int = setting(256, "features: newest visits that it is fitted to", low=8)


@dataclass(frozen=True)
class GresoSettings:
    """The selection rule greso: problems whose last visits were silent are skipped with some probability."""

    silent: float = setting(0.25, "share of silent groups that its controller aims at", low=0, high=1)
    easy_share: float = setting(1 / 3, "of these, the share that is too easy; the rest is too hard", low=0, high=1)
    step: float = setting(0.01, "how far a step moves the two base probabilities", above=0, high=1)
    start: float = setting(0.5, "base probabilities at the start, kept within 0.05 and 0.95", low=0.05, high=0.95)


@dataclass(frozen=True)
class MovingTargetSettings:
    """The selection rule moving_target: a target on the static difficulty that follows the reward (AdaRFT)."""

    rate: float = setting(50.0, "largest move of the target a step, on the scale from 0 to 100 (eta)", above=0)
    sensitivity: float = setting(2.0, "how steeply the move depends on the reward (alpha)", above=0)
    aim: float = setting(0.5, "mean reward at which the target rests (beta)", low=0, high=1)
    start: float = setting(0.0, "target at the start of a phase", low=0, high=100)


@dataclass(frozen=True)
class VarianceSettings:
    """The selection rule variance: problems of high group variance, and a bank of those that had it (VCRL)."""

    keep: float = setting(0.3, "normalised variance from which a problem is asked, at the phase's start", low=0, high=1)
    keep_end: float = setting(0.8, "and at its end", low=0, high=1)
    momentum: float = setting(0.9, "share of a problem's old priority that stays at a visit", low=0, high=1)


@dataclass(frozen=True)
class KnapsackSettings:
    """The allocation knapsack: completions go where a gradient is worth most."""

    low: int = setting(2, "fewest completions of a problem", low=2)
    high: int = setting(32, "most completions of a problem", low=2)

    def check(self) -> Iterator[str]:
        if self.low > self.high:
            yield f"low: {self.low} is more than high ({self.high}) (did you swap them?)"


@dataclass(frozen=True)
class ScreenSettings:
    """Screening: a few pilots of each problem, and the whole group only where they are mixed (SPEED)."""

    pilots: int = setting(0, "completions of a problem that decide whether it is trained on; 0: no screening", low=0)
    rounds: int = setting(3, "most rounds of pilots a step", low=1)

    def check(self) -> Iterator[str]:
        if self.pilots == 1:
            yield "pilots: 1: one completion is never mixed; allowed: 0, or at least 2"


@dataclass(frozen=True)
class PruneSettings:
    """Pruning by a static score: only a part of each phase's pool is ever asked (arXiv 2206.14486)."""

    keep: str = setting(
        "all",
        "which part of the pool stays by its score: all, easy, hard, middle, offset (the hardest of what is left "
        "without the very hardest), high (the highest of a score that is no hardness), random",
        choices=("all", "easy", "hard", "middle", "offset", "high", "random"),
    )
    fraction: float = setting(1.0, "share of the pool that stays", above=0, high=1)
    offset: float = setting(0.05, "offset: share of the very hardest that is left out first", low=0, high=1)

    def check(self) -> Iterator[str]:
        if self.keep == "all" and self.fraction < 1:
            yield f"fraction: {self.fraction} is never read: keep is all; set keep, or leave fraction out"
        if self.keep != "all" and self.fraction == 1:
            yield f"fraction: 1.0 keeps all of the pool, whatever keep ({self.keep}) says; allowed: below 1"
        if self.keep == "offset" and self.offset + self.fraction > 1:
            yield (
                f"offset: {self.offset} leaves less than fraction ({self.fraction}) of the pool; "
                f"allowed: at most {1 - self.fraction:g}"
            )


@dataclass(frozen=True)
class AuditSettings:
    """The audit: what the estimates say against many completions of the policy of the moment."""

    every: int = setting(0, "steps between two audits inside a phase; its start and end have one; 0: none", low=0)
    problems: int = setting(
        64, "problems of each phase's pool that are audited; no estimator sees these rollouts", low=2
    )
    unseen: int = setting(0, "problems beside the pool, never asked, that are audited too", low=0)
    samples: int = setting(32, "completions of each", low=2)
    bins: int = setting(10, "bins of the reliability diagram and of the calibration error", low=2)


@dataclass(frozen=True)
class DifficultySettings:
    """Which problems of the phase's pool a step asks, and how their difficulty is estimated."""

    estimator: str = setting("beta", "estimator of each problem's pass rate; selection reads this one")
    shadows: tuple[str, ...] = setting(
        (), "estimators that watch the same run, for the audit; all: every one that there is"
    )
    selection: str = setting("uniform", "selection rule")
    allocation: str = setting("uniform", "how a step's completions are shared out among its problems")
    considered: int = setting(
        65536, "most problems that a step computes estimates for; of a larger pool a new sample at each step", low=1
    )
    discount: float = setting(
        0.8, "share of the old evidence that is kept at each new visit of a problem (lambda)", above=0, high=1
    )
    prior: tuple[float, ...] = setting(
        (1.0, 1.0), "Beta prior: successes and failures; kalman starts at the logit of its mean", above=0
    )
    drift: float = setting(
        0.02, "how fast an unvisited problem's estimate fades to the prior, share of the evidence a step", low=0, high=1
    )
    band: tuple[float, ...] = setting(
        (0.2, 0.8), "band selection: lowest and highest estimated pass rate", low=0, high=1
    )
    quantiles: tuple[float, ...] = setting(
        (0.25, 0.75), "ability selection: the same as quantiles of the pool's current estimates", low=0, high=1
    )
    explore: float = setting(
        0.1,
        "band and ability selection: share of each step spent on the least certain or oldest estimates outside",
        low=0,
        high=1,
    )
    target: float = setting(0.5, "target, thompson and dots selection: pass rate that is aimed at", low=0, high=1)
    candidates: int = setting(
        8, "target, thompson and variance selection: problems looked at for each that is asked", low=1
    )
    temperature: float = setting(0.001, "dots selection: tau of p(q) ~ exp(-|estimate - target| / tau) (DOTS)", above=0)
    concentration: float = setting(
        100.0, "peaked selection: kappa of p(q) ~ Beta(1 - estimate; 1 + kappa/2, 1 + kappa/2) (DARE)", low=0
    )
    offline: int = setting(
        0,
        "completions of each problem by the untouched base before the run: what the estimator frozen says, and a "
        "static score; 0: frozen takes a problem's first visit",
        low=0,
    )
    refresh_every: int = setting(
        5,
        "steps between two refreshes of the estimators that ask the model: importance, attention, value, features",
        low=1,
    )
    scores: str = setting("", "file of static scores by problem id, as jobs.scores writes it")
    score: str = setting("", "which of its scores; empty: the first")
    reestimate: float = setting(
        0.0, "rollouts spent on re-estimating old or uncertain problems, as a share of the training's", low=0, high=1
    )
    kalman: KalmanSettings = setting(KalmanSettings, "the estimator kalman")
    importance: ImportanceSettings = setting(ImportanceSettings, "the estimator importance")
    attention: AttentionSettings = setting(AttentionSettings, "the estimator attention")
    hidden: HiddenStateSettings = setting(HiddenStateSettings, "the estimators value and features")
    greso: GresoSettings = setting(GresoSettings, "the selection rule greso")
    moving_target: MovingTargetSettings = setting(MovingTargetSettings, "the selection rule moving_target")
    variance: VarianceSettings = setting(VarianceSettings, "the selection rule variance")
    knapsack: KnapsackSettings = setting(KnapsackSettings, "the allocation knapsack")
    screen: ScreenSettings = setting(ScreenSettings, "screening")
    prune: PruneSettings = setting(PruneSettings, "pruning by a static score")
    audit: AuditSettings = setting(AuditSettings, "the audit of the estimates")

    def check(self) -> Iterator[str]:
        for name in ("prior", "band", "quantiles"):
            if len(getattr(self, name)) != 2:
                yield f"{name}: {list(getattr(self, name))} must be two numbers"
        for name in ("band", "quantiles"):
            values = getattr(self, name)
            if len(values) == 2 and values[0] >= values[1]:
                yield f"{name}: {list(values)}: low must be below high (did you swap them?)"
        for twice in sorted({name for name in self.shadows if self.shadows.count(name) > 1}):
            yield f"shadows: {twice} is listed twice"
        if self.score and not self.scores:
            yield f"score: {self.score!r} is never read: scores names no file; set scores, or leave score out"
        if self.prune.keep not in ("all", "random") and not self.scores:
            yield f"prune.keep: {self.prune.keep} needs static scores; set scores to a file that jobs.scores wrote"


@dataclass(frozen=True)
class BranchSettings:
    """The branch probe: training for a fixed budget on a domain that the plan does not hold, then thrown away."""

    domain: Mapping[str, Any] = setting(dict, "the domain and its options; empty: no branch probe")
    levels: tuple[int, ...] = setting((1,), "levels of the branch's problems")
    steps: int = setting(20, "RL steps", low=1)
    pool: int = setting(512, "how many different problems", low=1)
    problems: int = setting(64, "evaluation problems", low=1)
    evals: int = setting(
        5, "evaluations over the branch, the first before its first step and the last after its last", low=2
    )
    modes: tuple[str, ...] = setting(
        ("rl", "sft"),
        "how the branch is trained: by RL, and on worked solutions (the control that needs no exploration)",
        choices=("rl", "sft"),
    )
    optimizers: tuple[str, ...] = setting(
        ("reset",), "the branch's optimizer: fresh, or as the run left it", choices=("reset", "carried")
    )
    seeds: int = setting(1, "repetitions of each branch, with other orders of the problems and other samples", low=1)
    threshold: float = setting(0.5, "pass rate that steps_to_threshold waits for", above=0, high=1)
    sft_lr: float | None = setting(None, "learning rate on worked solutions; unset: the run's own", above=0)
    beside: bool = setting(False, "run the branches as Ray tasks beside the run, in place of in turn")

    def check(self) -> Iterator[str]:
        for name in ("modes", "optimizers"):
            names = getattr(self, name)
            if not names:
                yield f"{name}: the list is empty; name at least one"
            for twice in sorted({n for n in names if names.count(n) > 1}):
                yield f"{name}: {twice} is listed twice"


@dataclass(frozen=True)
class DiversitySettings:
    """The diversity probe: many completions of few problems."""

    problems: int = setting(16, "evaluation problems per domain and level, the first of retention's", low=1)
    samples: int = setting(16, "completions of each (n of pass@k and maj@k)", low=2)


@dataclass(frozen=True)
class SparsitySettings:
    """The sparsity probe: hidden states of prompts of rising levels against their pass rates."""

    problems: int = setting(24, "problems per skill of `probe.shift` and level", low=2)
    samples: int = setting(8, "completions per problem, for its pass rate", low=1)
    band: tuple[float, ...] = setting(
        (0.2, 0.7),
        "lowest and highest pass rate of the problems that the measures shall tell from the others",
        low=0,
        high=1,
    )

    def check(self) -> Iterator[str]:
        if len(self.band) != 2:
            yield f"band: {list(self.band)} must be two numbers"
        elif self.band[0] >= self.band[1]:
            yield f"band: {list(self.band)}: low must be below high (did you swap them?)"


@dataclass(frozen=True)
class SelfConditioningSettings:
    """The self-conditioning probe: several turns, and what mistakes among the earlier answers do to the next one."""

    domain: Mapping[str, Any] = setting(dict, "a domain of several turns and its options; empty: no such probe")
    turns: int = setting(6, "turns that the policy goes through on its own", low=1)
    instances: int = setting(64, "instances, each of several turns", low=1)
    level: float = setting(0.5, "the horizon is the last turn with this prefix accuracy", above=0, high=1)
    rates: tuple[float, ...] = setting(
        (0.0, 0.25, 0.5, 1.0), "shares of earlier answers that are replaced by wrong ones", low=0, high=1
    )
    injected_turn: int = setting(6, "the turn, from 1, that is measured after such a history", low=2)
    window: int = setting(2, "sliding window: how many of the last turns stay in the context", low=1)
    bootstrap: int = setting(1000, "resamples of the instances for 95% intervals", low=1)

    def check(self) -> Iterator[str]:
        if len(set(self.rates)) < 2:
            yield f"rates: {list(self.rates)} must be at least two different rates: a slope is fitted through them"


@dataclass(frozen=True)
class HeuristicsSettings:
    """The heuristics probe: a salient cue against the constraint that should decide."""

    domain: Mapping[str, Any] = setting(dict, "a domain of cues and constraints and its options; empty: no such probe")
    levels: tuple[int, ...] = setting((1, 2, 3), "levels, how implicit the constraint is")
    items: int = setting(32, "items of the four cells together, and conflicting items of the minimal pairs", low=4)
    samples: int = setting(4, "completions of each (k); strict accuracy asks for all of them to be right", low=1)
    cues: tuple[int, ...] = setting((5, 20, 35, 45, 55, 65, 80, 95), "cues of the sweep", low=0, high=99)
    sweep_items: int = setting(8, "items that are asked at every cue of the sweep", low=1)
    bootstrap: int = setting(1000, "resamples of the items for 95% intervals", low=1)

    def check(self) -> Iterator[str]:
        if len(set(self.cues)) < 2:
            yield f"cues: {list(self.cues)} must be at least two different cues: a slope is fitted through them"


@dataclass(frozen=True)
class ProbeSettings:
    """What is measured at every phase boundary."""

    probes: tuple[str, ...] = setting(
        ("retention", "drift", "formats", "branch"), "which probes run at the boundaries; all: every probe there is"
    )
    start: tuple[str, ...] | None = setting(
        None, "which probes run at boundary 0, before the first phase; unset: probe.probes"
    )
    inside: tuple[str, ...] = setting(
        ("retention", "formats"), "which probes run inside a phase, where probe.every or probe.log_spaced asks for them"
    )
    prior: Mapping[str, SkillSettings] = setting(dict, "prior skills, by name")
    neutral: Mapping[str, SkillSettings] = setting(
        dict, "prompts that belong to neither the plan nor the prior skills, for drift"
    )
    problems: int = setting(64, "evaluation problems per domain and level", low=1)
    samples: int = setting(1, "completions per evaluation problem", low=1)
    drift_problems: int = setting(32, "prompts per group of the drift probe", low=1)
    every: int = setting(0, "also measure probe.inside every so many steps inside a phase; 0: boundaries only", low=0)
    log_spaced: int = setting(
        0, "and at so many logarithmically spaced steps of the first pass over the phase's pool", low=0
    )
    diversity: DiversitySettings = setting(DiversitySettings, "the diversity probe")
    branch: BranchSettings = setting(BranchSettings, "the branch probe")
    shift: Mapping[str, SkillSettings] = setting(dict, "skills at rising levels, for the sparsity probe")
    sparsity: SparsitySettings = setting(SparsitySettings, "the sparsity probe")
    gradient_groups: int = setting(32, "groups that the gradients probe samples from the phase's problems", low=1)
    self_conditioning: SelfConditioningSettings = setting(SelfConditioningSettings, "the self-conditioning probe")
    heuristics: HeuristicsSettings = setting(HeuristicsSettings, "the heuristics probe")
    alphas: tuple[float, ...] = setting(
        (0.0, 0.25, 0.5, 0.75, 1.0), "the alphas probe: values of alpha that a composed policy is measured at", low=0
    )


@dataclass(frozen=True)
class CheckpointSettings:
    """How often a run is written down, where, and what is kept of it."""

    every: int = setting(10, "steps between checkpoints; phase boundaries always have one", low=1)
    keep: int = setting(2, "newest complete checkpoints that are kept", low=1)
    keep_boundaries: bool = setting(False, "keep the checkpoint of every phase boundary too")
    store: str = setting(
        "", "path or URI of pyarrow's file systems that each checkpoint is copied to (s3://bucket/runs); empty: none"
    )
    background: bool = setting(True, "write files while the next step goes on")
    patience_s: float = setting(
        600.0, "how long a run that ends tries to write its last checkpoint to a full or missing disk", low=0
    )


@dataclass(frozen=True)
class TrackingSettings:
    """Where MLflow keeps the runs."""

    uri: str = setting(
        "", "MLflow tracking address, without a password; empty: MLFLOW_TRACKING_URI, else SQLite in the output folder"
    )
    experiment: str = setting("ductile", "MLflow experiment")
    patience_s: float = setting(
        600.0, "how long a job waits at its start and at its end for an MLflow that does not answer", low=0
    )


@dataclass(frozen=True)
class TraceSettings:
    """What is written to `trace.json` in the run's folder, for ui.perfetto.dev or chrome://tracing."""

    steps: int = setting(
        0, "first RL steps of each phase whose spans are traced, and what lies between phases; 0: no trace", low=0
    )


@dataclass(frozen=True)
class RoleSettings:
    """What an actor of a role takes, and which nodes it may be on."""

    cpus: float | None = setting(None, "logical CPUs of each; unset: what the role needs", low=0)
    gpus: float | None = setting(None, "GPUs of each; unset: what there is for the role", low=0)
    nodes: str = setting("", "label of Ray nodes that it may be on, as in role:rollout; empty: any")

    @property
    def label(self) -> dict[str, str]:
        """Key and value of the label, empty for any node."""
        key, _, value = self.nodes.replace("=", ":", 1).partition(":")
        return {key: value} if key else {}

    def check(self) -> Iterator[str]:
        if self.nodes and not all([*self.label, *self.label.values()]):
            yield f"nodes: {self.nodes!r} is no label; write key:value, as in role:rollout"


@dataclass(frozen=True)
class PlacementSettings:
    """Which nodes a run's actors are on, by the roles rollout, learner and difficulty.

    What has no place is refused before any work.
    """

    strategy: str = setting(
        "anywhere",
        "anywhere: where Ray finds room; together: on as few nodes as possible; apart: rollout and learner on "
        "different nodes",
        choices=("anywhere", "together", "apart"),
    )
    patience_s: float = setting(
        0.0, "how long to wait for nodes that an autoscaler is starting; 0: what is not there is refused at once", low=0
    )
    rollout: RoleSettings = setting(RoleSettings, "rollout actors")
    learner: RoleSettings = setting(RoleSettings, "learner workers")
    difficulty: RoleSettings = setting(RoleSettings, "the difficulty table")


@dataclass(frozen=True)
class ClusterSettings:
    """The Ray that runs it."""

    address: str = setting(
        "", "Ray address; empty: the one this job was submitted to, else a local Ray started and stopped by the job"
    )
    cpus: int = setting(0, "logical CPUs of the local Ray; 0: as many as there are", low=0)
    concurrent: int = setting(0, "runs of a comparison at a time; 0: one per CPU of the cluster", low=0)
    placement: PlacementSettings = setting(PlacementSettings, "which nodes do what")


@dataclass(frozen=True)
class RunSettings:
    """One run: one variant, one plan, one seed."""

    name: str = setting("run", "name of the experiment; names the folder and the MLflow parent run")
    seed: int = setting(0, "seed of the run", low=0)
    plan: str = setting("none", "name of the plan")
    phase: Mapping[str, PhaseSettings] = setting(dict, "the plan's phases by name, in order")
    variant: VariantSettings = setting(VariantSettings, "how the policy is composed and updated")
    model: ModelSettings = setting(ModelSettings, "the base model")
    rollout: RolloutSettings = setting(RolloutSettings, "how completions are sampled")
    objective: ObjectiveSettings = setting(ObjectiveSettings, "the policy-gradient objective")
    learner: LearnerSettings = setting(LearnerSettings, "how the weights are updated")
    difficulty: DifficultySettings = setting(DifficultySettings, "which problems are asked")
    data: DataSettings = setting(DataSettings, "what is asked beside them, and how")
    switch: SwitchSettings = setting(SwitchSettings, "what is done to the policy between two phases")
    probe: ProbeSettings = setting(ProbeSettings, "what is measured at phase boundaries")
    checkpoint: CheckpointSettings = setting(CheckpointSettings, "what is written down of a run, and where")
    output: str = setting("runs", "folder of checkpoints, reports and the MLflow database")
    cache: str = setting("cache", "folder of base models built from scratch and of measurements of the base")
    tracking: TrackingSettings = setting(TrackingSettings, "where MLflow keeps the runs")
    trace: TraceSettings = setting(TraceSettings, "a trace of where a step's time goes")
    cluster: ClusterSettings = setting(ClusterSettings, "the Ray that runs it")


@dataclass(frozen=True)
class CompareSettings:
    """The grid of a comparison; every cell is a run."""

    variants: tuple[str, ...] = setting(("parameter_only", "low_drift", "proxy"), "variants to compare")
    plans: tuple[str, ...] = setting(("none", "medium", "guessable", "honest"), "plans to compare")
    seeds: int = setting(3, "seeds: 0, 1, ... up to one less", low=1)

    def check(self) -> Iterator[str]:
        for name in ("variants", "plans"):
            names = getattr(self, name)
            if not names:
                yield f"{name}: the list is empty; name at least one"
            for twice in sorted({n for n in names if names.count(n) > 1}):
                yield f"{name}: {twice} is listed twice"


@dataclass(frozen=True)
class FitSettings:
    """How a throw-away model is trained from scratch on worked solutions, for static scores and for pruning."""

    steps: int = setting(200, "optimizer steps, whatever the number of solutions", low=1)
    batch: int = setting(32, "solutions a step", low=1)
    lr: float = setting(4e-3, "peak learning rate (AdamW, cosine to a tenth)", above=0)
    warmup: int = setting(20, "steps of linear warm-up", low=0)
    weight_decay: float = setting(0.01, "AdamW weight decay", low=0)
    clip: float = setting(1.0, "largest gradient norm", above=0)

    def check(self) -> Iterator[str]:
        if self.warmup > self.steps:
            yield f"warmup: {self.warmup} is more than the training has steps; allowed: at most {self.steps}"


@dataclass(frozen=True)
class ScoresSettings:
    """What jobs.scores computes for each problem of the plan's pools."""

    scores: tuple[str, ...] = setting(("el2n", "prototypes"), "scores, in the order in which they stand in the file")
    file: str = setting("scores.json", "the file that they are written to, for difficulty.scores")
    seeds: int = setting(
        1, "the pools of so many seeds are scored: seed, seed + 1, ...; a run's pools depend on its seed", low=1
    )
    format: str = setting("", "format of the worked solutions; empty: each domain's first that shows work")
    inits: int = setting(3, "el2n, forgetting: fresh models that they are averaged over", low=1)
    early: int = setting(
        40, "el2n: steps of training after which the error is read, however often a problem was shown by then", low=1
    )
    evals: int = setting(10, "forgetting: evaluations spread over the training", low=2)
    subsets: int = setting(8, "memorization: fresh models, each trained on a random part of the problems", low=2)
    subset: float = setting(0.7, "memorization: share of the problems in each part, below 1", above=0, high=1)
    clusters: int = setting(16, "prototypes: clusters of the prompts' hidden states", low=1)
    samples: int = setting(16, "el2n_rl, failure_rate: completions of each problem by the base", low=2)
    history: str = setting("", "forgetting_rl, el2n_rl_later: audits.json of a finished, audited run of this plan")
    fit: FitSettings = setting(FitSettings, "how the fresh models are trained")

    def check(self) -> Iterator[str]:
        if not self.scores:
            yield "scores: the list is empty; name at least one"
        for twice in sorted({name for name in self.scores if self.scores.count(name) > 1}):
            yield f"scores: {twice} is listed twice"
        yield from _training_mistakes(self.scores, self.early, self.evals, self.fit.steps)
        if self.subset == 1:
            yield "subset: 1.0 leaves no problem out, and memorization compares with models without; allowed: below 1"
        if not self.file:
            yield "file: empty; name the file to write"


@dataclass(frozen=True)
class CrossingSettings:
    """What jobs.prune compares: rules of pruning over data sizes, by supervised training from scratch."""

    domain: Mapping[str, Any] = setting(lambda: {"name": "sort_digits"}, "the domain and its options")
    levels: tuple[int, ...] = setting((3, 4, 5, 6, 7), "levels of its problems, each as often")
    format: str = setting("direct", "format of the worked solutions")
    sizes: tuple[int, ...] = setting((100, 200, 400, 800, 1600, 3200), "data sizes before pruning", low=8)
    fractions: tuple[float, ...] = setting((0.5, 0.25), "shares that are kept", above=0, high=1)
    rules: tuple[str, ...] = setting(
        ("easy", "hard", "middle", "offset", "random"),
        "rules of pruning, easy and hard among them; all of the data is always trained on too",
        choices=("easy", "hard", "middle", "offset", "random"),
    )
    offset: float = setting(0.05, "offset: share of the very hardest that is left out first", low=0, high=1)
    score: str = setting(
        "el2n", "score that the rules go by, of each data size's own problems", choices=("el2n", "forgetting")
    )
    seeds: int = setting(5, "repetitions with other problems, weights and orders", low=1)
    problems: int = setting(500, "held-out problems, each level as often", low=1)
    model: ArchitectureSettings = setting(
        lambda: ArchitectureSettings(layers=2, width=64, heads=4, mlp=128, positions=64), "size of the models"
    )
    fit: FitSettings = setting(FitSettings, "how each model is trained: as long on few solutions as on many")
    inits: int = setting(3, "fresh models that the score is averaged over, trained as each model is", low=1)
    early: int = setting(
        40,
        "el2n: steps of their training after which the error is read, at every data size: early x fit.batch / size "
        "presentations of each example",
        low=1,
    )
    evals: int = setting(10, "forgetting: evaluations spread over their training", low=2)
    processes: int = setting(1, "processes of one torch thread each that share the work", low=1)
    output: str = setting("runs/data_pruning", "folder of the results")

    def check(self) -> Iterator[str]:
        for name in ("sizes", "fractions", "rules", "levels"):
            values = getattr(self, name)
            if not values:
                yield f"{name}: the list is empty; name at least one"
            for twice in sorted({value for value in values if values.count(value) > 1}):
                yield f"{name}: {twice} is listed twice"
        if list(self.sizes) != sorted(self.sizes):
            yield f"sizes: {list(self.sizes)} must rise"
        for rule in ("easy", "hard"):
            if rule not in self.rules:
                yield f"rules: {list(self.rules)} lacks {rule}: the crossing is between easy and hard"
        if 1 in self.fractions:
            yield "fractions: 1.0 prunes nothing, and all of the data is always trained on too; allowed: below 1"
        yield from _training_mistakes((self.score,), self.early, self.evals, self.fit.steps)
        largest = max((fraction for fraction in self.fractions if fraction < 1), default=0.0)
        if "offset" in self.rules and self.offset + largest > 1:
            yield f"offset: {self.offset} leaves less than {largest} of the data; allowed: at most {1 - largest:g}"


def _training_mistakes(scores: Sequence[str], early: int, evals: int, steps: int) -> Iterator[str]:
    """Looks into a training of so many steps that these scores take after its end, or more often than it has steps."""
    if "el2n" in scores and early > steps:
        yield f"early: {early} is after the training's end (fit.steps {steps}); allowed: at most {steps}"
    if "forgetting" in scores and evals > steps:
        yield f"evals: {evals} is more than the training has steps (fit.steps {steps}); allowed: at most {steps}"


SEARCHES = ("asha", "model")
OBJECTIVES = ("retention", "plasticity", "new_skill", "pareto")


@dataclass(frozen=True)
class SweepSettings:
    """A search over difficulty thresholds; every trial is a run, or one for each seed."""

    trials: int = setting(12, "trials; the same command with more of them goes on with the search", low=1)
    search: str = setting(
        "asha",
        "asha: drawn at random, and the worse ones stopped early (arXiv 1810.05934); model: by a model of what the "
        "earlier trials reached (Optuna's TPE), each to its end",
        choices=SEARCHES,
    )
    objective: str = setting(
        "retention",
        "what is maximised after the last phase: retention (pass rate on the prior skills), new_skill (on the plan's "
        "own), plasticity (the branch's area under the curve over the fresh base's), pareto (all of them at once)",
        choices=OBJECTIVES,
    )
    low: tuple[float, ...] = setting(
        (0.05, 0.45), "range of the band's lowest pass rate (difficulty.band)", low=0, high=1
    )
    high: tuple[float, ...] = setting((0.5, 0.95), "range of the band's highest pass rate", low=0, high=1)
    width: float = setting(0.1, "narrowest band", above=0, high=1)
    group_sizes: tuple[int, ...] = setting((), "completions a problem (G) to choose from; empty: the run's own", low=2)
    estimators: tuple[str, ...] = setting((), "estimators to choose from; empty: the run's own")
    steps: tuple[int, ...] = setting((), "RL steps of a phase to choose from; empty: the plan's own", low=1)
    phases: tuple[str, ...] = setting((), "phases that take their steps from there; empty: all")
    grace: int = setting(8, "asha: RL steps before which no trial is stopped", low=1)
    reduction: float = setting(2.0, "asha: of the trials at a rung, one in so many goes on", above=1)
    startup: int = setting(5, "model: trials drawn at random before the model begins", low=1)
    seeds: int = setting(1, "runs of each trial, one after another; a trial is worth their mean", low=1)

    def check(self) -> Iterator[str]:
        for name in ("low", "high"):
            values = getattr(self, name)
            if len(values) != 2:
                yield f"{name}: {list(values)} must be two numbers, the ends of a range"
            elif values[0] > values[1]:
                yield f"{name}: {list(values)}: the range is empty; its first end must not be above its second"
        for name in ("group_sizes", "estimators", "steps", "phases"):
            names = getattr(self, name)
            for twice in dict.fromkeys(n for n in names if names.count(n) > 1):
                yield f"{name}: {twice} is listed twice"
        if len(self.low) == len(self.high) == 2 and self.low[1] + self.width > self.high[1] + 1e-9:
            yield (
                f"high: {list(self.high)}: no band above low {self.low[1]:g} is {self.width:g} wide (width); the band "
                f"would be crossed; allowed: up to at least {self.low[1] + self.width:g}"
            )
