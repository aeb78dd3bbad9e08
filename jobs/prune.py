"""Keep the easy or the hard examples? Supervised training from scratch on pruned data, over data sizes and rules.

    python -m jobs.prune                                    # the experiment of docs/experiments/data_pruning.md
    python -m jobs.prune sizes='[50,100,200]' fractions='[0.3]' seeds=8 processes=2
    python -m jobs.prune domain='{name: chain_sum}' levels='[2,3,4]' format=running score=forgetting

Prints the table and where easy and hard cross; writes results.json and pruning.png into the output folder. Each
training is kept as it is finished: the same command goes on, and one with more sizes, rules or seeds adds to it.
Starts no Ray.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ductile.checkpoint import FolderStore, write_text
from ductile.config import CrossingSettings
from ductile.report.crossing import against_random, summary
from ductile.report.pruning import draw_pruning
from ductile.scores import SCORES
from ductile.scores.pruned import Cell, Study, cells, crossing_mistakes
from ductile.settings import SettingsError, as_plain, build
from ductile.versions import versions
from jobs.configure import parse
from jobs.counted import Counted
from jobs.driver import main
from jobs.prune_table import print_pruning
from jobs.usage import settings_help

ARMS = ("sizes", "fractions", "rules", "seeds", "processes", "output")
"""Settings that say which trainings there are and who does them, not what one of them is."""

RECIPE = 1
"""Raised when a training comes to mean something else, so that older results are not taken for it."""


def job() -> int:
    """Train what is not there yet, then tell."""
    settings = asked(sys.argv[1:])
    folder = Path(settings.output).absolute()
    store = FolderStore(folder, folder / f"cells-{training_key(settings)}")
    wanted = list(cells(settings))
    missing = [cell for cell in wanted if store.remember(cell.key) is None]
    with Counted("trainings", len(wanted), len(wanted) - len(missing)) as shown:
        for cell in trained(settings, missing, store):
            shown.done(cell.key)
    document = results(settings, [(cell, store.remember(cell.key)) for cell in wanted])
    write_text(folder / "results.json", json.dumps(document, indent=1))
    figure = draw_pruning(document, folder / "pruning.png")
    print_pruning(document, Console(width=None if Console().is_terminal else 120))
    print(f"\nevery number  {folder / 'results.json'}\nfigure        {figure}")
    return 0


def asked(arguments: Sequence[str]) -> CrossingSettings:
    """The settings; raises `SettingsError` with every mistake before any work."""
    if {"--help", "-h"} & set(arguments):
        print(
            "\n".join(["python -m jobs.prune [key=value ...]", "", __doc__ or "", "", *settings_help(CrossingSettings)])
        )
        raise SystemExit(0)
    settings = build(CrossingSettings, parse(arguments, ()).nested())
    mistakes = list(crossing_mistakes(settings))
    if mistakes:
        raise SettingsError(mistakes)
    return settings


def training_key(settings: CrossingSettings) -> str:
    """Names everything that a training depends on beside its cell."""
    unread = {"el2n": "evals", "forgetting": "early"}[settings.score]
    plain = {name: value for name, value in as_plain(settings).items() if name not in (*ARMS, unread)}
    return hashlib.blake2b(json.dumps([RECIPE, plain], sort_keys=True).encode(), digest_size=6).hexdigest()


def trained(settings: CrossingSettings, missing: Sequence[Cell], store: FolderStore) -> Iterator[Cell]:
    """Each cell when it is in the store. Cells of one seed and data size share its scores, and so one process."""
    parts = [list(part) for _, part in groupby(missing, lambda cell: (cell.seed, cell.size))]
    if settings.processes == 1:
        for part in parts:
            yield from _trained(settings, part, store)
        return
    with ProcessPoolExecutor(settings.processes, multiprocessing.get_context("spawn")) as pool:
        for future in as_completed(
            [pool.submit(_all_trained, settings, part, store.folder, store.memory) for part in parts]
        ):
            yield from future.result()


def results(settings: CrossingSettings, found: Sequence[tuple[Cell, Any]]) -> dict[str, Any]:
    """Everything as plain values: settings, versions, a row for each training, and what follows from them."""
    rows = [
        {"size": cell.size, "fraction": cell.fraction, "rule": cell.rule, "seed": cell.seed, **result}
        for cell, result in found
    ]
    return {
        "settings": as_plain(settings),
        "versions": versions(),
        "presentations": presentations(settings),
        "rows": rows,
        "crossings": summary(rows),
        "against_random": against_random(rows),
    }


def presentations(settings: CrossingSettings) -> dict[str, float]:
    """By data size: how often each example was shown to a model when el2n was read of it; nothing of another score."""
    if settings.score != "el2n":
        return {}
    return {str(size): settings.early * settings.fit.batch / size for size in settings.sizes}


def _trained(settings: CrossingSettings, part: Sequence[Cell], store: FolderStore) -> Iterator[Cell]:
    torch.set_num_threads(1)
    study = Study(settings, SCORES[settings.score], part[0].seed)
    for cell in part:
        store.keep(cell.key, study.run(cell, _silent))  # here, so that a kill costs a process one training at most
        yield cell


def _all_trained(settings: CrossingSettings, part: Sequence[Cell], folder: Path, memory: Path) -> list[Cell]:
    return list(_trained(settings, part, FolderStore(folder, memory)))


def _silent(_: str) -> None:
    pass


if __name__ == "__main__":
    main(job)
