"""What `--help` prints: every preset, setting and option of a domain, with its default and meaning."""

from __future__ import annotations

import sys
from dataclasses import fields, is_dataclass
from typing import get_args, get_type_hints

from ductile.config import RunSettings, SweepSettings
from ductile.domains import DOMAINS
from jobs.configure import GROUPS, presets


def main_arguments(job: str, meaning: str) -> list[str]:
    """The command line's arguments; `--help` prints the settings and ends the program."""
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments):
        print(help_text(job, meaning))
        raise SystemExit(0)
    return arguments


def help_text(job: str, meaning: str) -> str:
    """Every setting with its default and its meaning."""
    lines = [f"python -m jobs.{job} [key=value ...]", "", meaning, "", "Presets:"]
    lines += [f"  {group}={'|'.join(presets(group))}" for group in GROUPS]
    lines += ["  model=FOLDER: a Hugging Face folder, with its own tokenizer and chat template"]
    if job == "compare":
        lines += ["", "The grid; variant and plan take lists, as in variant='[parameter_only,proxy]':"]
        lines += [f"  {name}: {text}" for name, text in (("variant, plan", "presets"), ("seeds", "how many seeds"))]
    if job == "sweep":
        lines += ["", "The search:", *_settings_lines(SweepSettings, "sweep.")]
    lines += [
        "",
        *settings_help(RunSettings),
        "",
        "Options of the domains, as in domain={name: chain_sum, guess_space: 10}:",
    ]
    for name, entry in DOMAINS.items():
        lines += [f"  name={name}", *_settings_lines(entry.options, "  ")]
    return "\n".join(lines)


def settings_help(cls: type) -> list[str]:
    """A line for each setting of a dataclass, with its default and meaning."""
    return ["Settings:", *_settings_lines(cls, "")]


def _settings_lines(cls: type, path: str) -> list[str]:
    hints, lines = get_type_hints(cls), []
    for field in fields(cls):
        name, hint = f"{path}{field.name}", hints[field.name]
        inner = next((item for item in get_args(hint) if is_dataclass(item)), None)
        meaning = field.metadata["meaning"]
        if is_dataclass(hint):
            lines += [f"  {name}: {meaning}", *_settings_lines(hint, f"{name}.")]  # type: ignore[arg-type]
        elif inner is not None:
            lines += [f"  {name}.NAME: {meaning}", *_settings_lines(inner, f"{name}.NAME.")]  # type: ignore[arg-type]
        else:
            default = field.default_factory() if callable(field.default_factory) else field.default  # type: ignore[misc]
            choices = field.metadata["choices"]
            allowed = f" ({'|'.join(choices)})" if choices else ""
            shown = list(default) if isinstance(default, tuple) else default
            shown = repr(shown) if "\n" in str(shown) else shown
            lines.append(f"  {name}={'' if shown is None else shown}{allowed}: {meaning}")
    return lines
