"""Every metric that a run logs: its name, unit and meaning. `docs/metrics.md` is printed from here.

    python -m ductile.metrics > docs/metrics.md

Names are paths. A part in angle brackets stands for a value: `<k>` and `<level>` for whole numbers, the others for
one name without a slash.
"""

from __future__ import annotations

import difflib
import functools
import posixpath
import re
from collections.abc import Iterable
from typing import NamedTuple


class Metric(NamedTuple):
    """One line of the table. `pattern`: the name, with placeholders."""

    pattern: str
    unit: str
    meaning: str


class MetricError(ValueError):
    """A metric that no one declared, or whose name MLflow would refuse."""


LONGEST = 250
"""Longest metric name that MLflow takes."""

SECTIONS = {
    "rollout": "Rollouts: the completions of one RL step. Completions that could not be judged count only in "
    "`rollout/unjudged_share`, in the lengths and in the tokens.",
    "learner": "Learner: one update of the policy.",
    "fast": "Evolution: a round of the contexts' evolution. What it costs is also in `budget/*`.",
    "difficulty": "Difficulty: the table of per-problem estimates, over the phase's pool, after the step.",
    "reestimate": "Re-estimation: rollouts beside the update (`difficulty.reestimate`), in the steps that have any.",
    "audit": "Audit: what the estimates said of problems, against many fresh completions of each under the policy of the moment "
    "(`difficulty.audit`). No estimator sees these; their tokens are in no budget. Intervals are in the artifact `audits.json`.",
    "data": "Data: the remedies in what a step asks (`data.*`), those that are on. Replayed problems are no part of the phase: "
    "`rollout/*` (but for its tokens and times) and `difficulty/*` are without them.",
    "retention": "Retention probe: pass rates on evaluation problems, the same at every boundary. A mean over skills "
    "weighs every skill and level alike.",
    "retention_new": "",
    "drift": "Drift probe: exact KL to the base and to the start of the phase, over the full vocabulary at each position. "
    "Forward is KL(reference || policy) on completions of the reference, reverse is KL(policy || reference) on "
    "completions of the policy. A policy with contexts or prefixes is looked at in bare prompts in the forward direction and in "
    "its own in the reverse one, with the base in the same context.",
    "format": "Formats probe: how the evaluation problems are answered.",
    "format_pass_rate": "",
    "shortcut": "",
    "diversity": "Diversity probe: many completions of few problems.",
    "channels": "Channels probe: base or trained weights, asked as at the start (seed) or through the fast channel (evolved), "
    "on the evaluation problems of a phase. A fast channel is an evolved context, an adapter of the domain, or its soft prefix.",
    "plasticity": "Branch probe: a copy is trained for a fixed budget on a domain that the plan does not hold, then thrown "
    "away. Arms: `rl_reset`, `rl_carried`, `sft_reset`, `sft_carried`: by RL or on worked solutions, with a fresh optimizer or the run's own. "
    "Means over `probe.branch.seeds` repetitions. The fresh base has the same budget, arm, problems and random keys.",
    "alphas": "Alphas probe: a composed policy (proxy, self_proxy) at each alpha of `probe.alphas`, nothing trained anew. Alpha "
    "0 is the base.",
    "units": "Units probe: MLP units of the trainable member that do little, on the base's completions of a fixed set of "
    "prompts. A score is a unit's mean |activation| (or |gradient of the cross-entropy|) over its layer's mean. Shares "
    "have no resolution on gated MLPs; the quantiles have.",
    "spectrum": "Spectrum probe: how many directions features and weights use, in float64, features not centred.",
    "weights": "Weights probe: size and movement of the trainable weights.",
    "sparsity": "Sparsity probe: how the sparsity of a prompt's last hidden state (last layer) goes with the prompt's pass "
    "rate, on the skills of `probe.shift`.",
    "gradient": "Gradients probe: the objective's gradient g (without its KL) on the phase's own problems, in parts g_k of "
    "the groups with k successes.",
    "self_conditioning": "Self-conditioning probe: a running sum over several turns, with work asked for (scratch) and without "
    "(direct). Intervals and all turns are in the run's tables.",
    "heuristic": "Heuristics probe: a salient cue against the constraint that should decide, by level. Intervals are in the "
    "run's tables.",
    "switch": "Switch: what interventions did to the policy between two phases, logged at the last step of the phase that "
    "ended.",
    "phase": "Position, time and cost.",
    "time": "",
    "budget": "",
    "cost": "",
    "checkpoint": "Checkpoints: in the steps after one was begun, written or missed.",
    "pretrain": "Pretraining: a base model built from scratch.",
}
"""What each first part of a name covers, in the order of the page; empty: listed under the one before."""

SHORTCUT_KINDS = (
    ("no_work", "answer without any work"),
    ("repeated", "give the answer several times"),
    ("skipped", "leave out some of the required steps"),
)
"""The kinds of `problem.SHORTCUTS`, and what their completions do."""

CELLS = (("prior", "prior skills"), ("new", "the plan's phases"))
"""The kinds of evaluation cells that are averaged apart."""

# fmt: off
METRICS: tuple[Metric, ...] = (
    Metric("rollout/pass_rate", "share", "completions with a reward above one half"),
    Metric("rollout/silent_share", "share", "groups whose rewards give no gradient: where the advantage has a baseline, those whose rewards are all equal"),
    Metric("rollout/staleness", "updates", "rollout.staleness above 0: mean updates between the policy that sampled a completion and the one that learns from it"),
    Metric("rollout/waited_s", "s", "rollout.staleness above 0: what the step waited for its rollouts, begun some updates ago"),
    Metric("rollout/wasted_share", "share", "completions of the step without a gradient: those of silent groups, pilots of screening, and re-estimation; left out of a batch or not"),
    Metric("rollout/refill_factor", "ratio", "dynamic sampling: groups sampled over groups learned from; left out when there are none"),
    Metric("rollout/successes/k_<k>", "share", "groups with exactly k successes"),
    Metric("rollout/advantage_mass/k_<k>", "share", "share of the step's sum of |advantage| held by groups with k successes"),
    Metric("rollout/length_mean", "tokens", "mean completion length, the end-of-sequence token included"),
    Metric("rollout/length_min", "tokens", "shortest completion"),
    Metric("rollout/length_max", "tokens", "longest completion"),
    Metric("rollout/truncated_share", "share", "completions cut at the length limit"),
    Metric("rollout/shortcut_share", "share", "completions that answer before or without the required intermediate results"),
    *(
        Metric(f"rollout/shortcut/{kind}", "share", f"completions that {does}")
        for kind, does in SHORTCUT_KINDS
    ),
    Metric("rollout/unjudged_share", "share", "completions that could not be judged; they are in no mean and no gradient"),
    Metric("rollout/format/<format>", "share", "completions in this format"),
    Metric("rollout/tokens", "tokens", "tokens sampled in the step"),
    Metric("rollout/tokens_per_s", "tokens/s", "tokens sampled a second; with rollout.staleness a second of the whole step"),
    Metric("rollout/actors", "actors", "rollout actors of the run that were alive when last heard of"),
    Metric("rollout/retried_calls", "calls", "calls that were lost with their actor and made again, since the step before"),
    Metric("rollout/hedged_calls", "calls", "calls that took long and were begun on another actor too, since the step before"),
    Metric("rollout/seconds", "s", "time to sample the step's completions; with rollout.staleness, to begin some and to wait for others"),
    Metric("learner/loss", "nats", "the whole objective: policy loss, KL and entropy terms"),
    Metric("learner/policy_loss", "nats", "the policy-gradient part of the loss"),
    Metric("learner/kl_anchor", "nats/token", "KL to the anchor as the loss or the reward has it, before its coefficient; with anchor prior_data the exact KL(anchor || policy) on remembered answers"),
    Metric("learner/kl_coefficient", "coefficient", "of the KL in this step, where it is adapted to variant.kl_target"),
    Metric("learner/entropy", "nats/token", "entropy of the policy at the completions' positions"),
    Metric("learner/clip_share", "share", "tokens whose importance ratio the clip cut off"),
    Metric("learner/importance_mean", "ratio", "rollout.staleness above 0: mean importance weight of a token, min(p / p when sampled, cap), p before the update"),
    Metric("learner/importance_cut_share", "share", "tokens whose weight the cap cut"),
    Metric("learner/importance_ess", "share", "effective sample size of the tokens' weights, (sum w)^2 / sum w^2, over their number"),
    Metric("learner/ratio_max", "ratio", "largest importance ratio of a token"),
    Metric("learner/behaviour_gap", "nats/token", "mean |log-probability by the learner - by the sampler| before the update"),
    Metric("learner/grad_norm", "norm", "gradient norm before clipping"),
    Metric("learner/update_norm", "norm", "norm of the change of the weights in this step"),
    Metric("learner/update_to_weight", "ratio", "norm of the change of the weights in this step over the norm of the weights before it"),
    Metric("learner/weight_drift_rms", "weight", "root mean square distance of the trainable weights from the base"),
    Metric("learner/tokens", "tokens", "completion tokens trained on in the step"),
    Metric("learner/skipped", "0 or 1", "1 when the step had no gradient (every group silent) and was skipped"),
    Metric("learner/seconds", "s", "time of the update"),
    Metric("fast/seed_score", "rate", "mean reward in the bare problem, over the round's problems"),
    Metric("fast/best_score", "rate", "mean reward in the best context, over the round's problems; the best of several is biased up"),
    Metric("fast/candidates", "count", "different contexts that were scored on all of the round's problems, the seed included"),
    Metric("fast/accepted", "count", "of them, those that the round proposed"),
    Metric("fast/front", "count", "contexts on the Pareto front after the round"),
    Metric("fast/population", "count", "contexts that are kept, the seed included"),
    Metric("fast/unusable", "count", "evaluations of a candidate that is no context or leaves no room; each scores 0 and costs nothing"),
    Metric("fast/completions", "count", "completions that the round judged"),
    Metric("fast/tokens", "tokens", "tokens that it sampled"),
    Metric("fast/reflector_calls", "count", "calls to the reflector model"),
    Metric("fast/reflector_failures", "count", "of them, those without an answer"),
    Metric("fast/reflector_tokens", "tokens", "tokens of its calls and answers, as it counts them"),
    Metric("difficulty/brier", "squared rate", "mean over the step's problems of (estimate before the update - observed group pass rate)^2; first visits count " "with the prior; a perfect estimate of n completions still scores p(1-p)/n"),
    Metric("difficulty/estimate_mean", "rate", "mean estimated pass rate"),
    Metric("difficulty/uncertainty_mean", "rate", "mean standard deviation of the estimates"),
    Metric("difficulty/age_mean", "steps", "mean steps since a problem's last visit, or since it entered the table"),
    Metric("difficulty/age_max", "steps", "the oldest estimate's age"),
    Metric("difficulty/in_band_share", "share", "problems whose estimate lies in `difficulty.band`"),
    Metric("difficulty/visited_share", "share", "problems visited at least once"),
    Metric("difficulty/refresh_s", "s", "time of the last refresh of the estimators that ask the model"),
    Metric("reestimate/problems", "count", "problems re-estimated beside the step's update"),
    Metric("reestimate/completions", "count", "completions spent on that; they are in the budget"),
    Metric("reestimate/waited_s", "s", "time that the step waited for them after its update"),
    Metric("reestimate/age_before", "steps", "mean age of these problems' estimates before it"),
    Metric("reestimate/uncertainty_before", "rate", "mean standard deviation of these estimates before it"),
    Metric("reestimate/uncertainty_after", "rate", "and after it"),
    Metric("reestimate/moved", "rate", "mean |estimate after - before| of these problems"),
    Metric("difficulty/greso/p_easy", "probability", "greso: base probability of asking a problem again whose last visit was all right"),
    Metric("difficulty/greso/p_hard", "probability", "greso: the same where it was without a success"),
    Metric("difficulty/greso/skipped_share", "share", "greso: problems of the pool that were skipped in the step's selection"),
    Metric("difficulty/moving_target/target", "difficulty", "moving_target: target for the next step on the static difficulty, from 0, the easiest, to 100"),
    Metric("difficulty/variance/kappa", "share", "variance: normalised group variance from which the step's problems were asked"),
    Metric("difficulty/variance/bank_share", "share", "variance: problems of the step's selection that came from the memory bank"),
    Metric("difficulty/cdas/competence", "logit", "cdas: competence that the step's problems were chosen by"),
    Metric("difficulty/importance/completions", "count", "kept completions that the last refresh scored; the other metrics of the estimator importance are left out when there are none"),
    Metric("difficulty/importance/ess_mean", "completions", "mean effective sample size of a problem's kept completions under the policy of the moment"),
    Metric("difficulty/importance/ess_share_mean", "share", "mean of the same over how many are kept of the problem"),
    Metric("difficulty/importance/log_ratio_mean", "nats", "mean log pi(y) - log mu(y) of kept completions y, before clipping"),
    Metric("difficulty/importance/log_ratio_abs_mean", "nats", "mean |log pi(y) - log mu(y)|"),
    Metric("difficulty/importance/log_ratio_sd", "nats", "standard deviation of log pi(y) - log mu(y)"),
    Metric("difficulty/importance/clipped_low_share", "share", "log-ratios below -`difficulty.importance.clip`"),
    Metric("difficulty/importance/clipped_high_share", "share", "log-ratios above it"),
    Metric("difficulty/importance/fallback_share", "share", "problems whose effective sample size is below `difficulty.importance.min_ess`: the plain mean stands in"),
    Metric("difficulty/attention/reference", "count", "problems of the reference that have a hidden state; the other metrics of the estimator attention are left out when there are none"),
    Metric("difficulty/attention/attended", "problems", "mean effective number of others that a reference problem attends to; 0 when it is the only one"),
    Metric("difficulty/attention/slope", "ratio", "1/T of the calibration; at 0 the hidden states are of no use, and every problem is given the reference's pass rate"),
    Metric("difficulty/attention/bias", "logit", "b of the calibration"),
    Metric("difficulty/value/weight_norm", "norm", "norm of the value model's weights; states have squared norm 1 on average"),
    Metric("difficulty/value/bias", "logit", "what the value model says of the average state"),
    Metric("difficulty/value/dispersion", "share", "variance of pass rates around the value model, as a share of its largest possible one"),
    Metric("difficulty/features/problems", "count", "visited problems that the fit of the estimator features is to; its other metrics are left out when there are none"),
    Metric("difficulty/features/dispersion", "share", "variance of pass rates around fits without the problem, as a share of its largest possible one"),
    Metric("difficulty/features/estimate_sd", "rate", "standard deviation over the refresh's problems of what it estimates"),
    Metric("difficulty/features/uncertainty_mean", "rate", "mean of its uncertainties over the refresh's problems"),

    *(
        metric
        for prefix, what in (("audit", "audited problems of the phase's pool"), ("audit/unseen", "audited problems beside the pool, never asked"))
        for metric in (
            Metric(f"{prefix}/pass_rate", "rate", f"mean audited pass rate, {what}"),
            Metric(f"{prefix}/below_band_share", "share", "problems whose audited rate lies below `difficulty.band`"),
            Metric(f"{prefix}/in_band_share", "share", "problems whose audited rate lies in it"),
            Metric(f"{prefix}/above_band_share", "share", "problems whose audited rate lies above it"),
            Metric(f"{prefix}/<estimator>/brier", "squared rate", "mean squared error of the estimates to the true rates, the audit's own noise subtracted; can fall below 0"),
            Metric(f"{prefix}/<estimator>/brier_single", "squared rate", "Brier score of the single completions; a perfect estimate still scores p(1-p)"),
            Metric(f"{prefix}/<estimator>/reliability", "squared rate", "its reliability part over the bins, sampling noise taken out; 0 is best, can fall below"),
            Metric(f"{prefix}/<estimator>/resolution", "squared rate", "its resolution part over the bins, sampling noise taken out; larger is better"),
            Metric(f"{prefix}/<estimator>/ece", "rate", "expected calibration error over bins of equal width"),
            Metric(f"{prefix}/<estimator>/ece_noise", "rate", "its mean if the beliefs, mean and uncertainty, were right: drawn from what they predict"),
            Metric(f"{prefix}/<estimator>/spearman", "correlation", "rank correlation of estimates and audited rates; left out where either is constant"),
            Metric(f"{prefix}/<estimator>/coverage", "share", "audited counts inside the central 90% interval that the belief predicts, as a Beta; 0.9 when that is right"),
            Metric(f"{prefix}/<estimator>/width", "rate", "mean width of that interval, the audit's noise included"),
            Metric(f"{prefix}/<estimator>/bias", "rate", "mean estimate minus mean audited rate"),
            Metric(f"{prefix}/<estimator>/age", "steps", "mean steps since the problems' last visit"),
        )
    ),
    Metric("data/replay_share", "share", "problems of the step that are from `data.prior` or an earlier phase"),
    Metric("data/replay_pass_rate", "rate", "pass rate on these; left out when there are none"),
    Metric("data/review_share", "share", "problems of the step that are reviewed"),
    Metric("data/review_regressed", "share", "of these, those whose pass rate is below `data.mastered` now; left out when there are none"),
    Metric("data/hint", "share", "work of a solution that is given with each problem, before it is cut to whole steps"),
    Metric("data/rung", "count", "position on the ladder of the levels that are asked, from 0; the phase's own are the last"),
    Metric("data/deferred_share", "share", "problems of the rung that are deferred at the step"),
    Metric("retention/<skill>/L<level>", "rate", "pass rate of a prior skill at a level"),
    Metric("retention/prior", "rate", "mean pass rate over prior skills and levels"),
    Metric("retention/new", "rate", "mean pass rate over the plan's phases and levels, without label noise or leniency"),
    Metric("retention/forgetting", "rate", "mean over prior cells of pass rate at boundary 0 minus now; negative: improved"),
    Metric("retention/forgetting_from_best", "rate", "the same from the best earlier boundary of each cell"),
    Metric("retention/average", "rate", "average performance: mean pass rate over the phases that are over"),
    Metric("retention/learning", "rate", "mean over these phases of the pass rate right after the phase itself"),
    Metric("retention/newest", "rate", "pass rate right after the phase on the phase that is over last"),
    Metric("retention/backward_transfer", "rate", "mean over the phases before the last of pass rate now minus right after the phase; negative: forgotten"),
    Metric("retention/forgetting_phases", "rate", "mean over the phases before the last of the best pass rate since the phase minus now"),
    Metric("retention/unjudged_share", "share", "evaluation completions that could not be judged; they are in no mean"),
    Metric("retention_new/<phase>/L<level>", "rate", "pass rate on a phase's domain at a level, without noise or leniency"),
    *(
        Metric(f"drift/kl_{direction}_{reference}{per}/{prompts}", unit, f"{formula} on {what}")
        for reference in ("base", "start")
        for direction, formula in (("forward", f"KL({reference} || policy)"), ("reverse", f"KL(policy || {reference})"))
        for per, unit in (("", "nats/token"), ("_sequence", "nats/completion"))
        for prompts, what in (
            ("new", "prompts of the plan's phases"),
            ("prior", "prompts of the prior skills"),
            ("prior/<skill>", "prompts of one prior skill"),
            ("neutral", "prompts of neither"),
        )
    ),
    Metric("format/<skill>/<format>", "share", "a prior skill's completions in this format, over its levels"),
    Metric("format_pass_rate/<skill>/<format>", "rate", "pass rate of a prior skill's completions in this format; left out when there is none"),
    Metric("format/entropy_prior", "nats", "entropy of the format shares, mean over prior skills"),
    Metric("format/effective_prior", "formats", "exp(entropy), the effective number of formats, mean over prior skills"),
    Metric("format/length_prior", "tokens", "mean completion length on prior skills"),
    Metric("format/length_new", "tokens", "mean completion length on the plan's phases"),
    Metric("shortcut/prior", "share", "completions on prior skills that skip the required work"),
    Metric("shortcut/new", "share", "completions on the plan's phases that skip the required work"),
    *(
        Metric(f"shortcut/{prompts}/{kind}", "share", f"completions on {what} that {does}")
        for prompts, what in CELLS
        for kind, does in SHORTCUT_KINDS
    ),
    *(
        metric
        for prompts, what in CELLS
        for metric in (
            Metric(f"diversity/{prompts}/pass_at_<k>", "rate", f"unbiased pass@k, mean over {what}' cells"),
            Metric(f"diversity/{prompts}/maj_at_<k>", "rate", "majority vote over k completions is right"),
            Metric(f"diversity/{prompts}/distinct_right", "solutions", "different right completions of a problem, by text"),
            Metric(f"diversity/{prompts}/distinct_share", "share", "different texts among a solved problem's right completions"),
            Metric(f"diversity/{prompts}/token_entropy", "nats/token", "entropy of the policy at its completions' positions"),
        )
    ),
    *(
        Metric(f"channels/{weights}_{asked}/<phase>", "rate", f"pass rate of the {weights} weights, {how}")
        for weights in ("base", "trained")
        for asked, how in (("seed", "bare"), ("evolved", "through the fast channel"))
    ),
    *(
        Metric(f"channels/kl_{asked}/<phase>", "nats/token", f"KL(trained || base) on completions of the trained weights, {how}")
        for asked, how in (("seed", "both bare"), ("evolved", "both through the fast channel"))
    ),
    Metric("plasticity/<arm>/auc", "rate", "mean pass rate over the budget, by the trapezoid rule"),
    Metric("plasticity/<arm>/start", "rate", "pass rate before the first step"),
    Metric("plasticity/<arm>/end", "rate", "pass rate after the last step"),
    Metric("plasticity/<arm>/gain_auc", "rate", "auc - start"),
    Metric("plasticity/<arm>/steps_to_threshold", "steps", "first step at which the mean curve reaches `probe.branch.threshold`, linear between evaluations; left out when it never does"),
    Metric("plasticity/<arm>/auc_ratio", "ratio", "auc over that of the fresh base, left out when that is below 0.02"),
    Metric("plasticity/<arm>/auc_ratio_low", "ratio", "lower end of its 95% bootstrap interval over repetitions and evaluation problems; with one repetition, of the evaluation's noise alone"),
    Metric("plasticity/<arm>/auc_ratio_high", "ratio", "upper end of it"),
    Metric("plasticity/<arm>/gain_ratio", "ratio", "gain_auc over that of the fresh base, left out when that is below 0.02"),
    Metric("plasticity/<arm>/end_difference", "rate", "end minus that of the fresh base"),
    Metric("plasticity/<arm>/silent_share", "share", "RL: mean share of silent groups in the branch; near 1 the policy failed to explore"),
    Metric("plasticity/exploration_failure", "0 or 1", "1 when the whole rl_reset curve lies below 1 - 2^(-1/G), where half the groups are silent, and sft_reset learns as the fresh base does"),
    Metric("units/dead_share", "share", "units that are not 0 on less than 1% of the positions"),
    *(
        metric
        for prefix, what in (("", "mean |activation|"), ("gradient_", "mean |gradient of the cross-entropy|"))
        for metric in (
            Metric(f"units/{prefix}score_min", "ratio", f"smallest score of a unit: {what} over its layer's mean"),
            Metric(f"units/{prefix}score_q01", "ratio", "1% quantile of these scores over the units of all layers"),
            Metric(f"units/{prefix}score_q05", "ratio", "5% quantile of these scores"),
            Metric(f"units/{prefix}score_median", "ratio", "median of these scores"),
            Metric(f"units/{prefix}dormant_share/<tau>", "share", "units with such a score of at most tau (0.01, 0.025, 0.1)"),
        )
    ),
    Metric("spectrum/features/effective_rank", "directions", "exp(entropy of the normalised singular values) of the last layer's hidden states"),
    Metric("spectrum/features/srank_99", "directions", "directions that hold 99% of the sum of the singular values"),
    Metric("spectrum/features/approximate_rank_99", "directions", "directions that hold 99% of the sum of their squares"),
    Metric("spectrum/features/stable_rank", "directions", "squared Frobenius norm over squared spectral norm"),
    Metric("spectrum/weights/effective_rank", "directions", "mean effective rank of the weight matrices"),
    Metric("spectrum/weights/stable_rank", "directions", "mean of squared Frobenius norm over squared spectral norm of the weight matrices"),
    Metric("spectrum/weights/spectral_norm", "norm", "mean largest singular value of the weight matrices"),
    Metric("weights/mean_abs", "weight", "mean |weight|"),
    Metric("weights/rms", "weight", "root mean square of the weights"),
    Metric("weights/drift_rms_base", "weight", "root mean square distance from the base"),
    Metric("weights/drift_rms_start", "weight", "root mean square distance from the start of the phase"),
    Metric("weights/changed_share_base", "share", "weights that are not exactly the base's"),
    Metric("weights/changed_share_start", "share", "weights that are not exactly those at the start of the phase"),
    Metric("weights/gradient_norm", "norm", "gradient norm of the mean cross-entropy on the base's completions; misleads when read alone"),
    Metric("sparsity/<skill>/spearman/<measure>", "correlation", "rank correlation of the measure with the pass rate, over all items of the skill"),
    Metric("sparsity/<skill>/spearman_within/<measure>", "correlation", "mean over levels of the rank correlation within the level"),
    Metric("sparsity/<skill>/auc/<measure>", "share", "how well the measure tells items in `probe.sparsity.band` from the others; 0.5: not at all"),
    Metric("gradient/norm", "norm", "norm of g"),
    Metric("gradient/norm_share/k_<k>", "share", "||g_k|| over the sum of these norms"),
    Metric("gradient/projection/k_<k>", "share", "<g_k, g> / ||g||^2: the share of the update that these groups make; sums to 1, can be negative"),
    *(
        Metric(f"self_conditioning/{mode}/{name}", unit, f"{meaning}, {how}")
        for mode, how in (("scratch", "with work"), ("direct", "without work"))
        for name, unit, meaning in (
            ("index_accuracy", "rate", "last turn: the stated sum is the true one"),
            ("prefix_accuracy", "rate", "last turn: it and all stated sums before it are true"),
            ("step_accuracy", "rate", "last turn: the stated sum is the policy's own one before it plus what the turn adds"),
            ("horizon", "turns", "last turn with prefix accuracy of at least `probe.self_conditioning.level`"),
            ("slope", "rate/rate", "slope of step accuracy in the share of wrong earlier answers; below zero: mistakes breed mistakes"),
            ("window_gain", "rate", "step accuracy at the last turn with only the last turns in the context, minus with all"),
            ("cleaned_gain", "rate", "step accuracy at the last turn with earlier mistakes corrected, minus with them"),
        )
    ),
    *(
        Metric(f"heuristic/L<level>/accuracy/cue_{side}/constraint_{presence}", "rate", f"accuracy where the cue suggests {what} and the constraint {holds}")
        for side, what in (("with", "B"), ("against", "A"))
        for presence, holds in (("present", "holds (B is right)"), ("absent", "does not hold (the cue decides)"))
    ),
    Metric("heuristic/L<level>/strict", "share", "conflicting items that all of `probe.heuristics.samples` completions get right"),
    Metric("heuristic/L<level>/conservative_bias", "rate", "accuracy on conflicting items without their constraint minus with it"),
    Metric("heuristic/L<level>/cue_removed_gain", "rate", "accuracy on conflicting items without their cue minus with it"),
    Metric("heuristic/L<level>/dominance_logit", "ratio", "heuristic dominance ratio of the logistic fit to the cue sweep, left out when the constraint has no effect"),
    Metric("heuristic/L<level>/dominance_occlusion", "ratio", "heuristic dominance ratio by taking away cue and constraint, left out when the constraint has no effect"),
    Metric("phase/index", "count", "position of the phase in the plan, from 0"),
    Metric("switch/reset_units", "units", "MLP units that began anew at the switch, over all layers"),
    Metric("switch/weight_change_rms", "weight", "root mean square change of the trainable weights by the interventions"),
    Metric("switch/completions", "completions", "completions sampled to see what the units do, or for EWC; in the budget too"),
    Metric("switch/sampled_tokens", "tokens", "their tokens; in the budget too"),
    Metric("switch/forward_tokens", "tokens", "tokens through any member of the policy to sample them and to look at the units; in the budget too"),
    Metric("time/step_s", "s", "time of an RL step, from selection to observation"),
    Metric("time/verification_s", "s", "of this, what judging completions took; `rollout/seconds` is sampling, `learner/seconds` the update"),
    Metric("time/publication_s", "s", "of this, what making the new weights reachable took"),
    Metric("time/other_s", "s", "of this, the rest: neither generation nor verification, update or publication"),
    Metric("time/between_s", "s", "time between the step before and this one: tracking and checkpoint; probes and audits aside"),
    Metric("time/other_share", "share", "other_s and between_s in step_s and between_s: what a step wastes"),
    Metric("cost/<probe>/seconds", "s", "time of the probe, completions included that it asked for first"),
    Metric("cost/<probe>/generated_tokens", "tokens", "tokens sampled for the probe, times the models that each had to pass through"),
    Metric("cost/branch/trained_tokens", "tokens", "tokens that the branches learned from"),
    Metric("cost/<probe>/forward_tokens", "tokens", "tokens that were scored or looked into for the probe, times the models"),
    Metric("time/probe_s", "s", "time of the probes at a boundary"),
    Metric("budget/completions", "count", "completions sampled for training since the run began; probes are not counted"),
    Metric("budget/pilot_completions", "count", "of these, pilots of screening, which choose problems and are not learned from"),
    Metric("budget/refill_completions", "count", "of these, those that were sampled to fill up for silent groups"),
    Metric("budget/reestimation_completions", "count", "of these, those that went to re-estimation and never to training"),
    Metric("budget/reference_completions", "count", "of these, reference sets of the estimator attention (`difficulty.attention.reference`)"),
    Metric("budget/offline_completions", "count", "of these, the base's on each pool before it is asked (`difficulty.offline`), measured once for all runs and counted in each"),
    Metric("budget/learned_completions", "count", "of these, those of groups with a gradient; the rest was wasted"),
    Metric("budget/sampled_tokens", "tokens", "tokens sampled for training since the run began"),
    Metric("budget/forward_tokens", "tokens", "sampled tokens times the models that each had to pass through"),
    Metric("budget/learner_forward_tokens", "tokens", "tokens that went forward through a model in updates and distillation, prompts included, times the models and anchors"),
    Metric("budget/forward_per_token", "ratio", "forward passes of all models in sampling, updates and distillation over tokens sampled for training"),
    Metric("learner/forward_tokens", "tokens", "tokens that went forward through the learner's models in the update, prompts included, times the models and anchors"),
    Metric("alphas/prior/<alpha>", "rate", "pass rate on prior skills of the same weights composed with this alpha"),
    Metric("alphas/new/<alpha>", "rate", "pass rate on the plan's phases of the same weights composed with this alpha"),
    Metric("alphas/kl_reverse_prior/<alpha>", "nats/token", "exact KL(policy at this alpha || base) on its completions of prior-skill prompts"),
    Metric("budget/trained_tokens", "tokens", "completion tokens trained on since the run began"),
    Metric("checkpoint/waited_s", "s", "time that steps waited for checkpoints: to copy what is written, and for the one before"),
    Metric("checkpoint/bytes", "bytes", "size of the checkpoints that were completed"),
    Metric("checkpoint/failures", "count", "tries to write or copy one that a disk or store refused; the run goes on and tries again"),
    Metric("pretrain/loss", "nats/token", "cross-entropy over the tokens of the worked solutions"),
    Metric("pretrain/grad_norm", "norm", "gradient norm before clipping"),
    Metric("pretrain/lr", "rate", "learning rate"),
    Metric("pretrain/tokens_per_s", "tokens/s", "tokens trained on a second, prompts included"),
)
# fmt: on

_PLACEHOLDER = re.compile(r"<(\w+)>")
_NUMBERS = ("k", "level")
_LEGAL = re.compile(r"[A-Za-z0-9_\-. /:]+")
_ILLEGAL = re.compile(r"[^A-Za-z0-9_\-.]+")


@functools.cache
def describe(name: str) -> Metric | None:
    """The line that declares `name`, or None. A name without placeholders goes before a pattern."""
    exact = {metric.pattern: metric for metric in METRICS}
    if name in exact and not _PLACEHOLDER.search(name):
        return exact[name]
    return next((metric for metric in METRICS if _regex(metric.pattern).fullmatch(name)), None)


def legal(name: str) -> bool:
    """Whether MLflow takes the name: its characters, its length, and no `.`, `..` or empty part in the path, no `..` before it."""
    return (
        0 < len(name) <= LONGEST
        and _LEGAL.fullmatch(name) is not None
        and posixpath.normpath(name) == name
        and name != "."
        and not name.startswith(("/", ".."))
    )


def segment(text: str) -> str:
    """`text` as one part of a metric name: characters that are not letters, digits, `_`, `-` or `.` become `_`."""
    part = _ILLEGAL.sub("_", text)
    return "_" if part in ("", ".", "..") else part


def check_declared(names: Iterable[str]) -> None:
    """Raise `MetricError` with one line for every name that is not in the table or that MLflow would refuse."""
    mistakes = [mistake for name in names if (mistake := _mistake(name))]
    if mistakes:
        raise MetricError("\n".join(mistakes))


def document() -> str:
    """The table as Markdown."""
    lines = [
        "# Metrics",
        "",
        "Printed by `python -m ductile.metrics`; change `platform/ductile/metrics.py`, not this page. A part in angle",
        "brackets stands for a value. Rates and shares lie in [0, 1].",
    ]
    for section, meaning in SECTIONS.items():
        if meaning:
            lines += ["", f"## {meaning.partition(':')[0].rstrip('.')}"]
            detail = meaning.partition(": ")[2]
            lines += ["", detail[:1].upper() + detail[1:]] if detail else []
            lines += ["", "| name | unit | meaning |", "|---|---|---|"]
        lines += [
            f"| `{metric.pattern}` | {metric.unit} | {metric.meaning.replace('|', chr(92) + '|')} |"
            for metric in METRICS
            if metric.pattern.split("/")[0] == section
        ]
    return "\n".join(lines) + "\n"


def _mistake(name: str) -> str | None:
    if not legal(name):
        return f"{name}: MLflow refuses this metric name; see ductile.metrics.legal"
    if describe(name) is None:
        close = difflib.get_close_matches(name, [metric.pattern for metric in METRICS], n=1)
        return f"{name}: not declared in ductile.metrics" + (f" (did you mean {close[0]}?)" if close else "")
    return None


@functools.cache
def _regex(pattern: str) -> re.Pattern[str]:
    parts = _PLACEHOLDER.split(pattern)  # text, placeholder, text, placeholder, ..., text
    values = [r"\d+" if name in _NUMBERS else "[^/]+" for name in parts[1::2]]
    texts = [re.escape(text) for text in parts[::2]]
    return re.compile("".join(text + value for text, value in zip(texts, [*values, ""], strict=True)))


if __name__ == "__main__":
    print(document(), end="")  # noqa: T201 (this is the page)
