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
    "difficulty": "Difficulty: the table of per-problem estimates, over the phase's pool, after the step.",
    "retention": "Retention probe: pass rates on evaluation problems, the same at every boundary. A mean over skills "
    "weighs every skill and level alike.",
    "retention_new": "",
    "drift": "Drift probe: exact KL to the base, over the full vocabulary at each position. Forward is KL(base || policy) "
    "on completions of the base, reverse is KL(policy || base) on completions of the policy.",
    "format": "Formats probe: how the evaluation problems are answered.",
    "shortcut": "",
    "plasticity": "Branch probe: RL for a fixed budget on a domain that the plan does not hold, then thrown away.",
    "self_conditioning": "Self-conditioning probe: a running sum over several turns, with work asked for (scratch) and without "
    "(direct). Intervals and all turns are in the run's tables.",
    "heuristic": "Heuristics probe: a salient cue against the constraint that should decide, by level. Intervals are in the "
    "run's tables.",
    "phase": "Position, time and cost.",
    "time": "",
    "budget": "",
    "pretrain": "Pretraining: a base model built from scratch.",
}
"""What each first part of a name covers, in the order of the page; empty: listed under the one before."""

# fmt: off
METRICS: tuple[Metric, ...] = (
    Metric("rollout/pass_rate", "share", "completions with a reward above one half"),
    Metric("rollout/silent_share", "share", "groups whose rewards are all equal, so that they give no gradient"),
    Metric("rollout/successes/k_<k>", "share", "groups with exactly k successes"),
    Metric("rollout/advantage_mass/k_<k>", "share", "share of the step's sum of |advantage| held by groups with k successes"),
    Metric("rollout/length_mean", "tokens", "mean completion length, the end-of-sequence token included"),
    Metric("rollout/length_min", "tokens", "shortest completion"),
    Metric("rollout/length_max", "tokens", "longest completion"),
    Metric("rollout/truncated_share", "share", "completions cut at the length limit"),
    Metric("rollout/shortcut_share", "share", "completions that answer before or without the required intermediate results"),
    Metric("rollout/unjudged_share", "share", "completions that could not be judged; they are in no mean and no gradient"),
    Metric("rollout/format/<format>", "share", "completions in this format"),
    Metric("rollout/tokens", "tokens", "tokens sampled in the step"),
    Metric("rollout/tokens_per_s", "tokens/s", "tokens sampled a second"),
    Metric("rollout/seconds", "s", "time to sample the step's completions"),
    Metric("learner/loss", "nats", "the whole objective: policy loss, KL and entropy terms"),
    Metric("learner/policy_loss", "nats", "the clipped policy-gradient part of the loss"),
    Metric("learner/kl_anchor", "nats/token", "KL to the anchor as the loss estimates it, before its coefficient"),
    Metric("learner/entropy", "nats/token", "entropy of the policy at the completions' positions"),
    Metric("learner/clip_share", "share", "tokens whose importance ratio the clip cut off"),
    Metric("learner/ratio_max", "ratio", "largest importance ratio of a token"),
    Metric("learner/behaviour_gap", "nats/token", "mean |log-probability by the learner - by the sampler| before the update"),
    Metric("learner/grad_norm", "norm", "gradient norm before clipping"),
    Metric("learner/update_norm", "norm", "norm of the change of the weights in this step"),
    Metric("learner/weight_drift_rms", "weight", "root mean square distance of the trainable weights from the base"),
    Metric("learner/tokens", "tokens", "completion tokens trained on in the step"),
    Metric("learner/skipped", "0 or 1", "1 when the step had no gradient (every group silent) and was skipped"),
    Metric("learner/seconds", "s", "time of the update"),
    Metric("difficulty/brier", "squared rate", "mean over the step's problems of (estimate before the update - observed group pass rate)^2; first visits count " "with the prior; a perfect estimate of n completions still scores p(1-p)/n"),
    Metric("difficulty/estimate_mean", "rate", "mean estimated pass rate"),
    Metric("difficulty/uncertainty_mean", "rate", "mean standard deviation of the estimates"),
    Metric("difficulty/age_mean", "steps", "mean steps since a problem's last visit, or since it entered the table"),
    Metric("difficulty/age_max", "steps", "the oldest estimate's age"),
    Metric("difficulty/in_band_share", "share", "problems whose estimate lies in `difficulty.band`"),
    Metric("difficulty/visited_share", "share", "problems visited at least once"),
    Metric("retention/<skill>/L<level>", "rate", "pass rate of a prior skill at a level"),
    Metric("retention/prior", "rate", "mean pass rate over prior skills and levels"),
    Metric("retention/new", "rate", "mean pass rate over the plan's phases and levels, without label noise or leniency"),
    Metric("retention/forgetting", "rate", "mean over prior cells of pass rate at boundary 0 minus now; negative: improved"),
    Metric("retention/forgetting_from_best", "rate", "the same from the best earlier boundary of each cell"),
    Metric("retention/unjudged_share", "share", "evaluation completions that could not be judged; they are in no mean"),
    Metric("retention_new/<phase>/L<level>", "rate", "pass rate on a phase's domain at a level, without noise or leniency"),
    *(
        Metric(f"drift/kl_{direction}_base{per}/{prompts}", unit, f"{formula} on {what}")
        for direction, formula in (("forward", "KL(base || policy)"), ("reverse", "KL(policy || base)"))
        for per, unit in (("", "nats/token"), ("_sequence", "nats/completion"))
        for prompts, what in (
            ("new", "prompts of the plan's phases"),
            ("prior", "prompts of the prior skills"),
            ("neutral", "prompts of neither"),
        )
    ),
    Metric("format/<skill>/<format>", "share", "a prior skill's completions in this format, over its levels"),
    Metric("format/entropy_prior", "nats", "entropy of the format shares, mean over prior skills"),
    Metric("format/effective_prior", "formats", "exp(entropy), the effective number of formats, mean over prior skills"),
    Metric("format/length_prior", "tokens", "mean completion length on prior skills"),
    Metric("format/length_new", "tokens", "mean completion length on the plan's phases"),
    Metric("shortcut/prior", "share", "completions on prior skills that skip the required work"),
    Metric("shortcut/new", "share", "completions on the plan's phases that skip the required work"),
    Metric("plasticity/branch_auc", "rate", "mean pass rate over the budget, by the trapezoid rule"),
    Metric("plasticity/branch_start", "rate", "pass rate before the first step"),
    Metric("plasticity/branch_end", "rate", "pass rate after the last step"),
    Metric("plasticity/branch_gain_auc", "rate", "branch_auc - branch_start"),
    Metric("plasticity/branch_auc_ratio", "ratio", "branch_auc over that of the fresh base (boundary 0), left out when that is below 0.02"),
    Metric("plasticity/branch_gain_ratio", "ratio", "branch_gain_auc over that of the fresh base, left out when that is below 0.02"),
    Metric("plasticity/branch_silent_share", "share", "mean share of silent groups in the branch; near 1 the policy failed to explore"),
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
    Metric("time/step_s", "s", "time of an RL step, from selection to observation"),
    Metric("time/probe_s", "s", "time of the probes at a boundary"),
    Metric("budget/completions", "count", "completions sampled for training since the run began; probes are not counted"),
    Metric("budget/sampled_tokens", "tokens", "tokens sampled for training since the run began"),
    Metric("budget/forward_tokens", "tokens", "sampled tokens times the models that each had to pass through"),
    Metric("budget/trained_tokens", "tokens", "completion tokens trained on since the run began"),
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
