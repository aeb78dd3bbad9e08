"""The command line: presets, single values, and one line for every mistake before any work."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from ductile.config import ArchitectureSettings, RunSettings
from ductile.models.scratch import build_llama
from ductile.models.tokenizer import character_tokenizer
from ductile.settings import SettingsError, as_plain
from ductile.variants import VARIANTS
from jobs.configure import GROUPS, compare_settings, parse, presets, run_settings
from jobs.usage import help_text


def run(*arguments: str) -> RunSettings:
    return run_settings(parse(arguments))


def mistakes(*arguments: str, compare: bool = False) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        (compare_settings if compare else run_settings)(parse(arguments))
    return caught.value.problems


def test_command_line_goes_before_experiment_before_preset_before_default() -> None:
    assert RunSettings().rollout.max_tokens == 64
    assert run("plan=guessable").rollout.max_tokens == 64  # the default
    assert run("plan=guessable", "experiment=too_hard").rollout.max_tokens == 80  # the experiment
    assert run("plan=guessable", "experiment=too_hard", "rollout.max_tokens=7").rollout.max_tokens == 7
    assert RunSettings().phase == {} and run("plan=guessable").phase["hard"].steps == 40  # the plan's preset


def test_readme_comparison_is_three_variants_four_plans_three_seeds() -> None:
    grid, cells = compare_settings(parse(["experiment=too_hard"]))
    assert grid.variants == ("parameter_only", "low_drift", "proxy")
    assert grid.plans == ("none", "medium", "guessable", "honest")
    assert len({(cell.variant.name, cell.plan, cell.seed) for cell in cells}) == len(cells) == 36


def test_lists_of_variants_and_plans_make_the_grid() -> None:
    arguments = ["experiment=too_hard", "variant=[parameter_only,proxy]", "plan=guessable", "seeds=2", "seed=5"]
    _, cells = compare_settings(parse(arguments))
    expected = [("parameter_only", 5), ("parameter_only", 6), ("proxy", 5), ("proxy", 6)]
    assert [(cell.variant.name, cell.seed) for cell in cells] == expected


def test_presets_of_one_variant_are_told_apart_by_their_names() -> None:
    _, cells = compare_settings(parse(["plan=none", "variant=[parameter_only,rloo,dr_grpo]", "seeds=1"]))
    found = [(c.variant.called, c.variant.name, c.objective.advantage, c.objective.length_norm) for c in cells]
    assert found == [
        ("parameter_only", "parameter_only", "std", "token"),
        ("rloo", "parameter_only", "leave_one_out", "token"),
        ("dr_grpo", "parameter_only", "no_std", "constant"),
    ]
    assert run("variant=rloo").variant.called == "parameter_only"


def test_two_names_for_one_run_are_refused() -> None:
    (line,) = mistakes("plan=none", "variant=[parameter_only,rloo]", "objective.advantage=no_std", compare=True)
    assert line == "variant: rloo and parameter_only are the same run with these values; name one of them"


def test_one_name_for_two_variants_is_refused() -> None:
    (line,) = mistakes("plan=none", "variant=[parameter_only,rloo]", "variant.label=mine", compare=True)
    assert line.startswith("variant.label: 'mine' for all variants")
    _, (cell,) = compare_settings(parse(["plan=none", "variant=rloo", "variant.label=mine", "seeds=1"]))
    assert cell.variant.called == "mine"


def test_mistakes_of_a_preset_that_sets_more_than_the_variant_are_told_as_before() -> None:
    lines = mistakes("variant=[parameter_only,rloo]", "variant.kl=3", "objective.advantige=std", compare=True)
    assert [line.split(":")[0] for line in lines] == ["variant.kl", "objective.advantige"]
    (line,) = mistakes("variant=rloo", "objective.std_floor=0.5")
    assert line.startswith("objective.std_floor: 0.5 is set, but advantage leave_one_out")


def test_value_that_only_some_runs_have_is_set_in_those() -> None:
    arguments = ["plan=[none,guessable]", "variant=[parameter_only,low_drift]", "phase.hard.steps=9", "variant.kl=0.7"]
    _, cells = compare_settings(parse([*arguments, "seeds=1"]))
    found = {(c.plan, c.variant.name): (c.variant.kl, [phase.steps for phase in c.phase.values()]) for c in cells}
    assert found == {
        ("none", "parameter_only"): (None, []),
        ("none", "low_drift"): (0.7, []),
        ("guessable", "parameter_only"): (None, [9]),
        ("guessable", "low_drift"): (0.7, [9]),
    }


def test_value_that_no_run_has_is_refused() -> None:
    (line,) = mistakes("plan=[guessable]", "phase.hrd.steps=3", compare=True)
    assert line.startswith("phase.hrd.steps: unknown phase 'hrd'") and "did you mean hard?" in line
    (line,) = mistakes("variant=[proxy]", "variant.kl=3", compare=True)
    assert line == "variant.kl: none of the compared variants uses it; used by: low_drift"


@pytest.mark.parametrize("group", [group for group in GROUPS if group != "model"])
def test_unknown_preset_names_the_allowed_ones(group: str) -> None:
    (line,) = mistakes(f"{group}=nonesuch")
    assert line.startswith(f"{group}: unknown preset 'nonesuch'; allowed: ") and presets(group)[0] in line


def test_misspelt_key_names_the_nearest() -> None:
    (line,) = mistakes("rolout.groups=8")
    assert line.startswith("rolout: unknown setting 'rolout'") and line.endswith("(did you mean rollout?)")


def test_all_mistakes_are_told_at_once() -> None:
    lines = mistakes("plan=guessable", "rollout.group_size=1", "learner.lr=-1", "difficulty.band=[0.9,0.2]")
    assert [line.split(":")[0] for line in lines] == ["rollout.group_size", "learner.lr", "difficulty.band"]


@pytest.mark.parametrize("argument", ["nonsense", "+seed=3", "~seed", "seed=1,2"])
def test_other_forms_than_key_and_value_are_refused(argument: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse([argument])
    assert len(caught.value.problems) == 1 and argument in caught.value.problems[0]


def test_sweep_is_told_how_lists_are_written() -> None:
    with pytest.raises(SettingsError, match=r"variant='\[a,b\]'"):
        parse(["variant=proxy,low_drift"])


def test_unknown_presets_and_wrong_values_are_told_at_once() -> None:
    lines = mistakes("plan=guesable", "variant=proxi", "phase.hard.steps=0", "rolout.groups=8", "seed=-1", compare=True)
    assert [line.split(":")[0] for line in lines] == ["plan", "variant", "rolout", "seed", "phase.hard.steps"]
    assert "did you mean guessable?" in lines[0] and "did you mean proxy?" in lines[1]


def test_grid_and_value_mistakes_are_told_at_once() -> None:
    lines = mistakes("seeds=0", "variant=[proxy,proxy]", "learner.lr=-1", compare=True)
    assert [line.split(":")[0] for line in lines] == ["seeds", "learner.lr"]
    lines = mistakes("variant=[proxy,proxy]", "learner.lr=-1", compare=True)
    assert lines[0] == "variants: proxy is listed twice" and lines[1].startswith("learner.lr: ")


def test_unknown_phase_and_wrong_values_are_told_at_once() -> None:
    lines = mistakes("plan=guessable", "phase.hrd.steps=3", "learner.lr=-1", compare=True)
    assert [line.split(":")[0] for line in lines] == ["phase.hrd.steps", "learner.lr"]


@pytest.mark.parametrize("plan", ["none", "guessable"])
def test_unknown_phase_of_a_run_is_not_a_new_phase(plan: str) -> None:
    (line,) = mistakes(f"plan={plan}", "phase.hrd.steps=3")
    assert line.startswith("phase.hrd.steps: unknown phase 'hrd'; allowed: ")
    assert line.endswith("(did you mean hard?)" if plan == "guessable" else "none, as the plan has no phase")


def test_phase_with_a_domain_may_be_made_on_the_command_line() -> None:
    settings = run("phase.mine.domain={name: chain_sum}", "phase.mine.levels=[4,5]", "phase.mine.steps=2")
    assert settings.phase["mine"].levels == (4, 5) and settings.phase["mine"].steps == 2


def test_comparison_has_no_single_variant_name_or_list_of_experiments() -> None:
    (line,) = mistakes("variant.name=proxy", compare=True)
    assert line.startswith("variant.name: a comparison names its variants in a list")
    (line,) = mistakes("experiment=[too_hard,none]", compare=True)
    assert (
        line
        == "experiment: ['too_hard', 'none'] is a list; name one preset (a comparison takes lists of variant and plan)"
    )


def test_option_of_another_variant_is_refused_in_a_run() -> None:
    (line,) = mistakes("variant=parameter_only", "variant.kl=0.1")
    assert line.startswith("variant.kl: 0.1 is set, but parameter_only does not use it")


def test_misspelt_option_of_a_variant_is_named_once_for_all_runs() -> None:
    (line,) = mistakes("variant.alhpa=0.1", compare=True)
    assert line.startswith("variant.alhpa: unknown setting 'alhpa'") and line.endswith("(did you mean alpha?)")


def test_seeds_belong_to_a_comparison() -> None:
    (line,) = mistakes("seeds=3")
    assert line.startswith("seeds: unknown setting 'seeds'") and line.endswith("(did you mean seed?)")


def test_reference_to_a_setting_that_is_not_there_is_one_line() -> None:
    (line,) = mistakes("name=${nowhere}")
    assert line.startswith("name: ") and "nowhere" in line


def test_value_below_a_value_is_one_line() -> None:
    (line,) = mistakes("seed.deep=3")
    assert line == "seed: {'deep': 3} is not a whole number; allowed: at least 0"


def test_list_where_one_preset_belongs_is_refused() -> None:
    (line,) = mistakes("variant=[parameter_only,proxy]")
    assert line.startswith("variant: ") and "is a list" in line


def saved(folder: Path) -> Path:
    tokenizer = character_tokenizer()
    build_llama(ArchitectureSettings(layers=1, width=16, heads=2, mlp=32), tokenizer, 0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_model_may_be_a_folder(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    settings = run(f"model={folder}", "plan=guessable")
    assert settings.model.path == str(folder) and settings.model.mixture == {}


def test_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (line,) = mistakes(f"model={tmp_path}")
    assert line.startswith("model.path: ") and "config.json" in line
    (line,) = mistakes("model=/nowhere/at/all")
    assert line.startswith("model: '/nowhere/at/all' is neither a folder nor a preset")


def test_folder_keeps_what_else_is_said_of_the_model(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    assert run(f"model={folder}", "model.dtype=bfloat16").model.dtype == "bfloat16"
    assert run("model.dtype=bfloat16", f"model={folder}").model.path == str(folder)


def test_both_folders_of_the_proxy_are_checked_at_once(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    lines = mistakes(f"model={empty}", f"model.expert_path={empty}", "variant=proxy")
    assert [line.split(":")[0] for line in lines] == ["model.path", "model.expert_path"]


def test_folders_of_the_proxy_must_share_their_tokenizer(tmp_path: Path) -> None:
    base, expert = saved(tmp_path / "base"), saved(tmp_path / "expert")
    assert run(f"model={base}", f"model.expert_path={expert}", "variant=proxy").model.expert_path == str(expert)
    other = character_tokenizer()
    other.add_tokens(["more"])
    other.save_pretrained(tmp_path / "other")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "other" / name).write_bytes((expert / name).read_bytes())
    (line,) = mistakes(f"model={base}", f"model.expert_path={tmp_path / 'other'}", "variant=proxy")
    assert line.startswith("model.expert_path: the tokenizer in ")


def test_proxy_of_a_folder_needs_a_small_base(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    (line,) = mistakes(f"model={folder}", "variant=proxy", "plan=guessable")
    assert line.startswith("model.expert_path: the proxy needs a small base")


ROTATING = ("sequence", "rotate_alone", "drifting", "drifting_back")
"""Plans that ask what the branch of `probe=small` is trained on: the two together are refused."""


@pytest.mark.parametrize("plan", [plan for plan in presets("plan") if plan != "gsm8k"])
def test_every_plan_passes_the_checks_with_every_variant(plan: str) -> None:
    probes = ["experiment=continual"] if plan in ROTATING else ["experiment=too_hard"]
    for variant in VARIANTS:
        taught = ["model=instructed"] if variant == "fast_slow" else []  # its contexts need a base that follows them
        settings = run(*probes, f"plan={plan}", f"variant={variant}", *taught)
        assert settings.plan == plan and settings.variant.name == variant


@pytest.mark.parametrize("experiment", [name for name in presets("experiment") if name not in ("none", "thresholds")])
def test_every_cell_of_an_experiment_passes_the_checks(experiment: str) -> None:
    grid, cells = compare_settings(parse([f"experiment={experiment}", "seeds=1"]))
    assert len(cells) == len(grid.variants) * len(grid.plans)


def test_presets_pass_the_checks_of_their_experiment_and_no_two_are_alike() -> None:
    made: dict[Any, str] = {}
    for variant in presets("variant"):
        settings = run("experiment=less_drift", f"variant={variant}")
        own = [
            settings.variant,
            settings.objective,
            settings.switch,
            settings.data,
            settings.difficulty,
            settings.rollout,
        ]
        plain = as_plain([*own, settings.learner.lora])
        assert made.setdefault(json.dumps(plain, sort_keys=True), variant) == variant


def test_data_of_gsm8k_is_found_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gsm8k").mkdir()
    file = tmp_path / "gsm8k" / "train.jsonl"
    file.write_text('{"question": "What is 1 + 1?", "answer": "1 and 1 are 2.\\n#### 2"}\n')
    monkeypatch.setenv("DUCTILE_DATA", str(tmp_path))
    assert run("plan=gsm8k").phase["gsm8k"].domain["path"] == str(file)


def test_missing_data_file_is_named_by_its_setting() -> None:
    (line,) = mistakes("plan=gsm8k", "phase.gsm8k.domain.path=/nowhere/train.jsonl")
    assert line.startswith("phase.gsm8k.domain.path: ") and "/nowhere/train.jsonl" in line


def test_help_tells_the_options_of_every_domain() -> None:
    text = help_text("run", "Meaning.")
    for option in ("guess_space=10", "label_noise=0.0", "lenient=False", "dataset=", "separator=", "modulus=10"):
        assert f"    {option}" in text


def leaves(cls: type, path: str = "") -> list[tuple[str, dataclasses.Field[Any]]]:
    hints, found = get_type_hints(cls), []
    for field in dataclasses.fields(cls):
        hint, name = hints[field.name], f"{path}{field.name}"
        inner = next((item for item in get_args(hint) if dataclasses.is_dataclass(item)), None)
        if dataclasses.is_dataclass(hint):
            found += leaves(hint, f"{name}.")
        elif inner is not None:
            found += leaves(inner, f"{name}.NAME.")
        else:
            found.append((name, field))
    return found


@pytest.mark.parametrize("job", ["run", "compare", "pretrain"])
def test_help_tells_every_setting_with_its_meaning(job: str) -> None:
    lines = help_text(job, "Meaning.").splitlines()
    for name, field in leaves(RunSettings):
        assert [line for line in lines if line.startswith(f"  {name}=") and line.endswith(field.metadata["meaning"])]
