"""Static scores of every problem that a plan's runs may ask, as a file for difficulty.scores.

    python -m jobs.scores model=small plan=guessable scores='[el2n,prototypes,failure_rate]' seeds=3 file=scores.json
    python -m jobs.run plan=guessable difficulty.scores=scores.json difficulty.prune='{keep: easy, fraction: 0.5}'
    python -m jobs.scores model=small plan=guessable scores='[forgetting_rl]' history=audits.json file=rl.json

High is hard in el2n, failure_rate, forgetting, forgetting_rl, memorization, prototypes and the control random. It is
not in el2n_rl and el2n_rl_later, whose highest difficulty.prune.keep=high keeps. forgetting_rl and el2n_rl_later are of
the problems that a finished run audited, from its artifact audits.json; to prune by them, the run must have audited all
of the pool (difficulty.audit.problems). The file is written whole after each score, and the same command goes on with
those that are missing. Starts no Ray.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from ductile.checkpoint import write_text
from ductile.config import RunSettings, ScoresSettings
from ductile.difficulty.static import ScoreFile, read_scores
from ductile.domains import WorkedDomain, make_domain
from ductile.identity import fingerprint
from ductile.judge import LocalJudge
from ductile.models.compose import ComposedPolicy
from ductile.models.load import encode_problem, fresh_model, load_model, load_tokenizer
from ductile.packed import Pair
from ductile.ports import Composition, Member, Sampling
from ductile.pretrain import ensure_model
from ductile.problem import SUCCESS
from ductile.sampling.sampler import sample
from ductile.scores import SCORES
from ductile.scores.base import Asked
from ductile.scores.history import History, history_of, read_audits
from ductile.scores.pools import Pool, pools, score_mistakes
from ductile.scores.solutions import solutions
from ductile.settings import SettingsError, as_plain, build
from ductile.versions import versions
from jobs.configure import Request, parse, run_settings
from jobs.counted import Counted
from jobs.driver import absolute, main
from jobs.quiet import Quiet
from jobs.usage import help_text, settings_help

OWN = tuple(field.name for field in fields(ScoresSettings))
"""The first words of keys that belong to this job; all others are a run's."""

CHUNK = 64
"""Problems that are sampled between two signs of life."""


def job() -> int:
    """Compute what the file lacks, then print a table by phase and level."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print("\n".join([*settings_help(ScoresSettings), "", help_text("scores", __doc__ or "")]))
        return 0
    settings, wanted = asked(parse(sys.argv[1:]))
    settings, file = absolute(settings), Path(wanted.file).absolute()
    torch.set_num_threads(settings.rollout.threads)
    judge = LocalJudge()
    with Quiet() as tracker:
        base = ensure_model(settings.model, "base", Path(settings.cache), tracker.pretraining)
    found = pools(settings, range(settings.seed, settings.seed + wanted.seeds), judge.domain)
    ids = [problem.id for pool in found for problem in pool.problems]
    history = None
    if wanted.history:
        history = history_of(read_audits(wanted.history), ids)
        if not history.counts.any():
            raise SettingsError(
                [f"history: {wanted.history!r} audits none of the pools' problems; is it of this plan and seed?"]
            )
    provenance = provenance_of(settings, wanted, base)
    there = written(file, provenance)
    scores = dict(there.scores)
    missing = [name for name in wanted.scores if name not in scores]
    with Counted("scores", len(wanted.scores), len(wanted.scores) - len(missing)) as shown:
        material = asked_of(settings, wanted, found, base, judge, history, shown.says)
        for name in missing:
            values = SCORES[name](material)
            scores[name] = {id: float(value) for id, value in zip(ids, values, strict=True)}
            ordered = {each: scores[each] for each in dict.fromkeys([*wanted.scores, *scores]) if each in scores}
            hardness = {each: SCORES[each].hardness for each in ordered}
            write_text(file, ScoreFile(there.provenance, ordered, hardness).as_json())
            shown.done(name)
    _print(found, {name: scores[name] for name in wanted.scores})
    if "el2n" in wanted.scores:
        shown_each = wanted.early * wanted.fit.batch / len(ids)
        print(f"el2n is read after {wanted.early} steps, {shown_each:.1f} presentations of each problem")
    print(f"\nevery score  {file}")
    return 0


def asked(request: Request) -> tuple[RunSettings, ScoresSettings]:
    """The run's settings and this job's; raises `SettingsError` with every mistake before any work."""
    own = tuple((key, value) for key, value in request.values if key.split(".")[0] in OWN)
    wanted = build(ScoresSettings, Request({}, own).nested())
    settings = run_settings(Request(request.choices, tuple(each for each in request.values if each not in own)))
    domains = {name: make_domain(phase.domain, f"phase.{name}.domain") for name, phase in settings.phase.items()}
    mistakes = list(score_mistakes(wanted, domains))
    if mistakes:
        raise SettingsError(mistakes)
    if wanted.history:
        read_audits(wanted.history)
    return settings, wanted


def provenance_of(settings: RunSettings, wanted: ScoresSettings, base: Path) -> dict[str, Any]:
    """What the scores depend on, as plain values."""
    files = sorted(path for path in base.iterdir() if path.suffix in (".safetensors", ".json"))
    rollout, own = settings.rollout, as_plain(wanted)
    return {
        "model": {"folder": base.name, "fingerprint": fingerprint(files)},
        "plan": settings.plan,
        "phases": as_plain(settings.phase),
        "seeds": list(range(settings.seed, settings.seed + wanted.seeds)),
        "settings": {name: value for name, value in own.items() if name not in ("scores", "file", "seeds", "history")},
        "history": fingerprint([Path(wanted.history)]) if wanted.history else "",
        "sampling": {name: getattr(rollout, name) for name in ("max_tokens", "temperature", "top_p")},
        "versions": versions(),
    }


def written(file: Path, provenance: Mapping[str, Any]) -> ScoreFile:
    """What is in the file already; raises `SettingsError` when its scores are of something else.

    Scores of one history may be added to those that need none, and the other way round.
    """
    if not file.exists():
        return ScoreFile(provenance, {}, {})
    there = read_scores(str(file), "file")
    together = {**provenance, "history": provenance["history"] or there.provenance.get("history", "")}
    added = {"history"} if not there.provenance.get("history") else set()
    other = [name for name, value in together.items() if there.provenance.get(name) != value and name not in added]
    if other:
        raise SettingsError(
            [f"file: {str(file)!r} holds scores of another {', '.join(other)}; name another file, or remove it"]
        )
    return replace(there, provenance=together)


def asked_of(
    settings: RunSettings,
    wanted: ScoresSettings,
    found: Sequence[Pool],
    base: Path,
    judge: LocalJudge,
    past: History | None,
    told: Callable[[str], None],
) -> Asked:
    """What the scores may look at, each part made when it is first asked for."""
    tokenizer = load_tokenizer(str(base))
    problems = [problem for pool in found for problem in pool.problems]

    @functools.cache
    def rows() -> list[Pair]:
        made: list[Pair] = []
        for pool in found:
            assert isinstance(pool.domain, WorkedDomain)  # `score_mistakes` has refused the others
            made += solutions(pool.domain, pool.problems, wanted.format, tokenizer)
        return made

    @functools.cache
    def rewards() -> NDArray[np.float64]:
        member = Member("policy", str(base), 1.0)
        policy = ComposedPolicy.load(Composition((member,), "policy"), settings.model.dtype).eval()
        rollout = settings.rollout
        sampling = Sampling(
            settings.seed, "scores", wanted.samples, rollout.max_tokens, rollout.temperature, rollout.top_p
        )
        judged = []
        for start in range(0, len(problems), CHUNK):
            judged += judge.judge(sample(policy, tokenizer, problems[start : start + CHUNK], sampling, 0))
            told(f"the base's completions: {len(judged)} of {len(problems)} problems")
        all_rewards = np.stack([group.rewards for group in judged]).astype(np.float64)
        return np.where(np.isnan(all_rewards), np.nan, (all_rewards > SUCCESS).astype(np.float64))

    def history() -> History:
        assert past is not None  # `score_mistakes` has refused scores of a history without one
        return past

    return Asked(
        rows=rows,
        prompts=lambda: [np.array(encode_problem(tokenizer, problem), np.int32) for problem in problems],
        fresh=lambda seed: fresh_model(str(base), seed),
        base=lambda: load_model(str(base), settings.model.dtype),
        rewards=rewards,
        history=history,
        count=len(problems),
        settings=wanted,
        seed=settings.seed,
        told=told,
    )


def _print(found: Sequence[Pool], scores: Mapping[str, Mapping[str, float]]) -> None:
    """Mean of each score by phase and level."""
    other = [name for name in scores if not SCORES[name].hardness]
    title = "mean score, high is hard" + (f" but for {', '.join(other)}" if other else "")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("phase", "level", "problems", *scores):
        table.add_column(name, justify="left" if name == "phase" else "right")
    for pool in found:
        for level in sorted({problem.level for problem in pool.problems}):
            ids = [problem.id for problem in pool.problems if problem.level == level]
            known = [[values[id] for id in ids if np.isfinite(values[id])] for values in scores.values()]
            means = [f"{np.mean(values):.4f}" if values else "-" for values in known]
            table.add_row(pool.phase, str(level), str(len(ids)), *means)
    Console(width=None if Console().is_terminal else 120).print(table)


if __name__ == "__main__":
    main(job)
