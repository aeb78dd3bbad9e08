"""The loop on ports that write down their calls: what a step does in which order, with which policy and groups."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from ductile.branch import LocalBrancher
from ductile.checkpoint import FolderStore
from ductile.config import RunSettings
from ductile.contexts import NoContexts
from ductile.course import Course
from ductile.difficulty.service import DifficultyTable
from ductile.domains import make_domain
from ductile.domains.base import split_of
from ductile.identity import Identity
from ductile.loop import Ports, run, train_step
from ductile.metrics import check_declared
from ductile.plan import make_phase
from ductile.ports import Composition, Member, PolicyRef, Sampling
from ductile.problem import Group, JudgedGroup, Problem
from ductile.reestimation import Reestimation
from ductile.rl.batch import Batch
from ductile.rollouts import Rollouts
from ductile.settings import SettingsError, build
from ductile.trace import tracing
from ductile.variants.base import Penalties
from ductile.variants.parameter_only import ParameterOnly
from tests.ductile.probes.fakes import COMPOSITION, Answers, FakeJudge, FakePool

PHASE = {"domain": {"name": "chain_sum"}, "levels": [4], "steps": 3, "pool": 9}
VALUES = {
    "phase": {"hard": PHASE},
    "rollout": {"groups": 3, "group_size": 4, "max_tokens": 5},
    "probe": {"probes": []},
    "seed": 6,
}


def changed(**values: Any) -> RunSettings:
    return build(RunSettings, {**VALUES, **values})


SETTINGS = changed()


class Called:
    """A port that writes `port.method` into `calls` and then does it."""

    def __init__(self, name: str, target: Any, calls: list[str]) -> None:
        self._name, self._target, self._calls = name, target, calls

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if not callable(value):
            return value

        def call(*arguments: Any, **keywords: Any) -> Any:
            self._calls.append(f"{self._name}.{name}")
            return value(*arguments, **keywords)

        return call


@dataclass
class CountingLearner:
    """Its weights are its version, so that a test can tell which ones were published."""

    composition: Composition = COMPOSITION
    version: int = 0
    started: int = 0
    batches: list[Batch] = field(default_factory=list)

    def update(self, batch: Batch) -> dict[str, float]:
        self.version += 1
        self.batches.append(batch)
        tokens = float(sum(len(row.completion) for row in batch.rows))
        return {"learner/tokens": tokens, "learner/forward_tokens": 2 * tokens}

    @property
    def origin(self) -> Composition:
        return self.composition

    phase_start_composition = origin

    def settle(self) -> Mapping[str, int]:
        return {}

    def weights(self) -> Mapping[str, Any]:
        return {"version": self.version}

    def start_phase(self, domain: str) -> None:
        self.started = self.version

    def penalties(self, judged: Sequence[JudgedGroup]) -> None:
        return None

    def prefixes(self) -> Mapping[str, tuple[int, ...]]:
        return {}

    def experts(self) -> Mapping[str, Any]:
        return {}

    def channels(self) -> Mapping[str, Any]:
        return {}

    def phase_start_weights(self) -> Mapping[str, Any]:
        return {"version": self.started}

    def capture(self) -> Callable[[Path], None]:
        version = str(self.version)

        def write(folder: Path) -> None:
            folder.mkdir(parents=True)
            (folder / "version").write_text(version)

        return write

    def load(self, folder: Path) -> None:
        self.version = int((folder / "version").read_text())


class PublishingPool(FakePool):
    """Refuses a policy whose weights are not those of its version."""

    def publish(self, weights: Mapping[str, Any]) -> Any:
        return ("published", weights["version"])

    def generate(self, policy: PolicyRef, problems: Sequence[Problem], sampling: Sampling) -> list[Group]:
        assert policy.weights == ("published", policy.version)
        return super().generate(policy, problems, sampling)


@dataclass
class Tracker:
    """Keeps what it is told."""

    logged: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    shown: list[dict[str, Any]] = field(default_factory=list)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        check_declared(values)
        self.logged.append((step, dict(values)))

    def progress(self, **state: Any) -> None:
        self.shown.append(state)

    def artifact(self, name: str, content: str) -> None:
        pass

    def position(self) -> Mapping[str, Any]:
        return {}


@dataclass(frozen=True)
class KeepingVariant(ParameterOnly):
    """Parameter-only, and keeps the judged groups that it was given."""

    kept: list[list[JudgedGroup]] = field(default_factory=list)

    def batch(self, judged: Sequence[JudgedGroup], settings: RunSettings, penalties: Penalties = None) -> Batch:
        self.kept.append(list(judged))
        return super().batch(judged, settings, penalties)


def half(problem: Problem, sample: int) -> str:
    return f"{sample % 2} steps"


def unjudged(problem: Problem, sample: int) -> str:
    return "? other"


@dataclass
class Bench:
    """The ports and what is behind them."""

    ports: Ports
    pool: PublishingPool
    learner: CountingLearner
    tracker: Tracker
    calls: list[str]
    variant: KeepingVariant = field(default_factory=lambda: KeepingVariant(lr=None))

    def run(self, settings: RunSettings = SETTINGS) -> list[dict[str, Any]]:
        ports = self.ports
        brancher = LocalBrancher(
            settings, self.variant, lambda request: ports.learner, ports.pool, ports.judge, ports.resolve
        )
        return run(settings, self.variant, replace(ports, brancher=brancher), Identity("run", "start"))


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., Bench]:
    def make(answers: Answers = half, composition: Composition = COMPOSITION) -> Bench:
        calls: list[str] = []
        pool, learner, tracker = PublishingPool(answers), CountingLearner(composition), Tracker()
        difficulty: Any = Called("difficulty", DifficultyTable(SETTINGS.difficulty), calls)
        watched: Any = Called("pool", pool, calls)
        learning: Any = Called("learner", learner, calls)
        judge: Any = Called("judge", FakeJudge(), calls)
        store = FolderStore(tmp_path / "run", tmp_path / "memory")
        rollouts = Rollouts(SETTINGS, watched, judge, NoContexts(), learning)
        ports = Ports(
            pool=watched,
            learner=learning,
            difficulty=difficulty,
            course=Course(SETTINGS, difficulty, make_domain),
            contexts=NoContexts(),
            reestimation=Reestimation(SETTINGS, difficulty, rollouts, watched, store),
            judge=judge,
            ahead=None,
            tracker=tracker,
            store=store,
            resolve=make_domain,
            brancher=None,  # type: ignore[arg-type]  # see `Bench.run`
        )
        return Bench(ports, pool, learner, tracker, calls)

    return make


def one_step(bench: Bench, policy: PolicyRef, budget: dict[str, int]) -> tuple[PolicyRef, dict[str, float]]:
    phase = make_phase("hard", SETTINGS.phase["hard"], SETTINGS.seed, make_domain, "phase.hard")
    bench.ports.difficulty.start_phase(list(phase.pool))
    bench.calls.clear()
    return train_step(SETTINGS, bench.variant, phase, bench.ports, policy, "train/2", 7, budget)


def test_step_selects_samples_judges_updates_publishes_and_observes(bench: Callable[..., Bench]) -> None:
    made = bench()
    one_step(made, PolicyRef(COMPOSITION, ("published", 0), 0), {})
    assert made.calls == [
        "difficulty.select",
        "learner.prefixes",
        "pool.generate",
        "judge.judge",
        "learner.penalties",
        "learner.update",
        "learner.weights",
        "pool.publish",
        "difficulty.observe",
        "learner.settle",
        "pool.counts",
    ]


def test_step_samples_the_policy_it_is_given_and_returns_the_updated_one(bench: Callable[..., Bench]) -> None:
    made, given = bench(), PolicyRef(COMPOSITION, ("published", 0), 0)
    policy, _ = one_step(made, given, {})
    [(asked, _, sampling)] = made.pool.generated
    assert asked == given
    assert sampling == Sampling(seed=6, stream="train/2/7", samples=4, max_tokens=5, temperature=1.0, top_p=1.0)
    assert policy == PolicyRef(COMPOSITION, ("published", 1), 1)


def test_budget_adds_up_and_counts_every_model_of_a_composition(bench: Callable[..., Bench]) -> None:
    members = tuple(Member(role, "folder", 1.0) for role in ("base", "expert", "anti_expert"))
    made, budget = bench(composition=Composition(members, "expert")), {"completions": 100, "forward_tokens": 1}
    _, metrics = one_step(made, PolicyRef(made.learner.composition, ("published", 0), 0), budget)
    # 3 problems, 4 completions of 3 tokens each; all have a gradient, since every other one is right
    assert budget == {
        "completions": 112, "learned_completions": 12, "sampled_tokens": 36, "forward_tokens": 109,
        "learner_forward_tokens": 72, "trained_tokens": 36,
    }  # fmt: skip
    assert {name: metrics[f"budget/{name}"] for name in budget} == budget
    assert metrics["budget/forward_per_token"] == (109 + 72) / 36


def test_replayed_problems_are_learned_from_and_are_no_part_of_the_phases_statistics(
    bench: Callable[..., Bench],
) -> None:
    def right_on_prior(problem: Problem, sample: int) -> str:
        return f"{int(problem.domain.startswith('strings'))} steps"

    made = bench(right_on_prior)
    skill = {"domain": {"name": "strings", "operation": "reverse"}, "levels": [5]}
    settings = changed(data={"prior": {"words": skill}, "replay": 1 / 3})
    ports = replace(made.ports, course=Course(settings, made.ports.difficulty, make_domain))
    phase = make_phase("hard", settings.phase["hard"], 6, make_domain, "phase.hard")
    ports.difficulty.start_phase(list(phase.pool))
    ports.course.start_phase(phase, ())
    policy = PolicyRef(COMPOSITION, ("published", 0), 0)
    _, metrics = train_step(settings, made.variant, phase, ports, policy, "train/0", 0, {})
    check_declared(metrics)
    assert [group.group.problem.id in phase.pool for group in made.variant.kept[0]] == [True, True, False]
    assert (metrics["rollout/pass_rate"], metrics["data/replay_pass_rate"]) == (0.0, 1.0)
    assert metrics["rollout/successes/k_0"] == 1.0 and metrics["data/replay_share"] == 1 / 3
    assert metrics["rollout/tokens"] == metrics["budget/sampled_tokens"] == 36


def test_each_update_is_published_before_the_next_step_samples(bench: Callable[..., Bench]) -> None:
    made = bench()
    made.run()
    assert [policy.version for policy, _, _ in made.pool.generated] == [0, 1, 2]
    assert made.calls.count("learner.update") == made.learner.version == 3


def solvable(ids: set[str]) -> Answers:
    """Problems of these ids are solved by every other completion, the others by none."""
    return lambda problem, sample: f"{sample % 2 if problem.id in ids else 0} steps"


def refilled(made: Bench, **objective: Any) -> tuple[dict[str, float], dict[str, int]]:
    """Metrics and budget of one step with refill on a pool of nine problems, three a step."""
    settings, budget = changed(objective={"dynamic_sampling": "refill", **objective}), {}
    phase = make_phase("hard", settings.phase["hard"], settings.seed, make_domain, "phase.hard")
    made.ports.difficulty.start_phase(list(phase.pool))
    made.ports.course.start_phase(phase, ())
    policy = PolicyRef(COMPOSITION, ("published", 0), 0)
    _, metrics = train_step(settings, made.variant, phase, made.ports, policy, "train/2", 7, budget)
    return metrics, budget


def test_refill_asks_other_problems_until_a_step_is_full(bench: Callable[..., Bench]) -> None:
    everything = bench()
    one_step(everything, PolicyRef(COMPOSITION, ("published", 0), 0), {})
    [(_, first, _)] = everything.pool.generated
    pool = make_phase("hard", SETTINGS.phase["hard"], SETTINGS.seed, make_domain, "phase.hard").pool
    made = bench(solvable({first[1], *(id for id in pool if id not in first)}))  # one of the first three, all others
    metrics, budget = refilled(made)
    asked = [(sampling.stream, ids) for _, ids, sampling in made.pool.generated]
    assert asked[0] == ("train/2/7", first)
    assert [(stream, len(ids)) for stream, ids in asked[1:]] == [("train/2/7/refill-1", 2)]
    assert not set(asked[1][1]) & set(first)
    assert metrics["rollout/refill_factor"] == 5 / 3 and metrics["rollout/silent_share"] == 2 / 5
    assert budget["completions"] == 20  # everything that was sampled counts
    [batch] = made.learner.batches
    assert [row.weight for row in batch.rows] == pytest.approx([1 / 36] * 12)


def test_refill_ends_when_every_problem_was_asked(bench: Callable[..., Bench]) -> None:
    made = bench(solvable(set()))
    metrics, budget = refilled(made)
    asked = [id for _, ids, _ in made.pool.generated for id in ids]
    assert len(made.pool.generated) == 3 and len(set(asked)) == len(asked) == 9
    assert budget["completions"] == 36
    assert "rollout/refill_factor" not in metrics and made.learner.batches[0].rows == ()


def test_refill_ends_after_its_rounds(bench: Callable[..., Bench]) -> None:
    made = bench(solvable(set()))
    refilled(made, refill_rounds=2)
    assert [sampling.stream for _, _, sampling in made.pool.generated] == ["train/2/7", "train/2/7/refill-1"]


def test_step_that_is_full_at_once_is_not_refilled(bench: Callable[..., Bench]) -> None:
    made = bench()
    metrics, _ = refilled(made)
    assert len(made.pool.generated) == 1 and metrics["rollout/refill_factor"] == 1.0


@pytest.mark.parametrize("pool", [3, 4, 9])
def test_every_step_learns_from_as_many_different_problems_as_it_asks(bench: Callable[..., Bench], pool: int) -> None:
    made = bench()
    made.run(changed(phase={"hard": {**PHASE, "pool": pool}}))
    for groups, batch, (_, asked, _) in zip(made.variant.kept, made.learner.batches, made.pool.generated, strict=True):
        assert [group.group.problem.id for group in groups] == asked
        assert len(set(asked)) == 3
        assert [len(group.verdicts) for group in groups] == [4, 4, 4]
        assert len(batch.rows) == 12
    assert len(made.variant.kept) == 3


def test_finished_run_returns_what_it_measured_and_asks_nothing_of_the_pool(bench: Callable[..., Bench]) -> None:
    measured = bench().run()
    again = bench()
    assert again.run() == measured and len(measured) == 2
    assert again.pool.generated == [] and again.learner.batches == []
    assert [call for call in again.calls if call.startswith("pool.")] == []


def test_step_in_which_nothing_could_be_judged_is_no_failure_of_the_run(bench: Callable[..., Bench]) -> None:
    made = bench(unjudged)
    made.run()
    steps = [values for _, values in made.tracker.logged if "phase/index" in values]
    assert [values["rollout/unjudged_share"] for values in steps] == [1.0, 1.0, 1.0]
    assert not any("rollout/pass_rate" in values for values in steps)
    assert all(batch.rows == () for batch in made.learner.batches)
    assert made.tracker.shown[-2]["pass_rate"] is None  # the last but one: then come the boundary's probes


BITS = {"name": "chain_sum", "modulus": 2, "guess_space": 2}  # two terms of 0 or 1: four problems in both splits


def test_phase_with_too_few_problems_is_refused_before_any_step(bench: Callable[..., Bench]) -> None:
    made = bench()
    count = sum(split_of(f"s{a}{b}%2") == "train" for a in range(2) for b in range(2))
    settings = changed(phase={"tiny": {"domain": BITS, "levels": [2]}}, rollout={"groups": 5})
    with pytest.raises(SettingsError) as caught:
        made.run(settings)
    [line] = caught.value.problems
    assert line.startswith("phase.tiny: the train split of chain_sum")
    assert f"gives {count} different problems ({count} at level 2), but rollout.groups is 5" in line
    assert made.calls == []


def test_branch_with_too_few_problems_is_refused_before_any_step(bench: Callable[..., Bench]) -> None:
    made = bench()
    probe = {"probes": ["branch"], "branch": {"domain": BITS, "levels": [2], "problems": 1}}
    settings = changed(probe=probe, rollout={"groups": 5})
    with pytest.raises(SettingsError, match=r"^probe\.branch: the train split of chain_sum.*rollout\.groups is 5"):
        made.run(settings)
    assert "learner.update" not in made.calls


@pytest.mark.parametrize(
    ("values", "boundaries"),
    [
        ({"probe": {"probes": ["branch"]}}, 2),  # no domain: no branch
        ({"phase": {}, "probe": {"probes": ["branch", "drift"], "every": 1}}, 1),
        ({"probe": {"probes": [], "every": 1}}, 2),
    ],
)
def test_run_without_branch_phases_or_probes_measures_time_alone(
    bench: Callable[..., Bench], values: dict[str, Any], boundaries: int
) -> None:
    measured = bench().run(changed(**values))
    named = [{name for name in row["metrics"] if not name.startswith("cost/")} for row in measured]
    assert named == [{"time/probe_s"}] * boundaries


def test_trace_has_the_first_steps_of_a_phase_and_what_lies_between_phases(
    bench: Callable[..., Bench], tmp_path: Path
) -> None:
    made = bench()
    with tracing(tmp_path / "trace.json"):
        made.run(changed(trace={"steps": 1}))
    found = json.loads((tmp_path / "trace.json").read_text())
    names = [event["name"] for event in found if event["ph"] == "X"]
    assert names == [
        "probes",  # of the untouched base
        "start of phase",
        *("estimates", "evolution of contexts", "ask", "generation", "verification", "re-estimation begun", "update"),
        *("publication", "difficulty observed", "re-estimation", "tracking", "checkpoint", "step"),
        "probes",
        "checkpoint",
    ]
    step = next(event for event in found if event["name"] == "step")
    within = [event for event in found if event["ph"] == "X" and step["ts"] <= event["ts"] < step["ts"] + step["dur"]]
    assert [event["name"] for event in within] == names[2:-2]
    assert sum(event["dur"] for event in within) <= 2 * step["dur"]  # the step itself, and at most as much in it


def test_what_a_step_wastes_is_what_its_parts_leave(bench: Callable[..., Bench]) -> None:
    made = bench()
    made.run()
    first, later = made.tracker.logged[1][1], made.tracker.logged[2][1]
    parts = first["rollout/seconds"] + first["time/verification_s"] + first["time/publication_s"]
    assert 0 < first["time/other_s"] <= first["time/step_s"] - parts
    assert first["time/between_s"] == 0 < later["time/between_s"]
    whole = later["time/step_s"] + later["time/between_s"]
    assert later["time/other_share"] == (later["time/other_s"] + later["time/between_s"]) / whole
