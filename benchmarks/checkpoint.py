"""What a checkpoint costs the step: written by a thread beside it, in the foreground, and not at all.

    python -m benchmarks.checkpoint [width of the model, such as 512; 256]

A Llama of four layers is trained by AdamW on random tokens, on one core, with a checkpoint at every step: the most
that can be asked. The three ways take turns, so that they meet the same machine. Times are medians over steps, of a
step with its checkpoint; the ratio is that to a step without one. On a machine whose cores are all busy the thread
takes some of them from the step.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.alternate import headline
from ductile.checkpoint import FolderStore
from ductile.config import ArchitectureSettings, CheckpointSettings
from ductile.engines.shards import captured, whole_shards, writer
from ductile.models.scratch import build_llama
from ductile.models.tokenizer import character_tokenizer

STEPS, WARM, ROWS, LENGTH = 8, 1, 8, 64
WAYS = {
    "none": None,
    "foreground": CheckpointSettings(background=False),
    "background": CheckpointSettings(background=True),
}


def main(width: int) -> None:
    torch.set_num_threads(1)
    tokenizer = character_tokenizer()
    architecture = ArchitectureSettings(layers=4, width=width, heads=8, mlp=4 * width)
    model = build_llama(architecture, tokenizer, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.randint(3, len(tokenizer), (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    folder = Path(tempfile.mkdtemp(prefix="ductile-checkpoint-"))
    stores = {
        way: FolderStore(folder / way, folder / "memory", settings=settings)
        for way, settings in WAYS.items()
        if settings
    }
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    waited: dict[str, list[float]] = {way: [] for way in stores}
    size = 0.0
    try:
        for step in range(STEPS + WARM):
            for way in WAYS:
                started = time.perf_counter()
                model(input_ids=ids, labels=ids).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                if way in stores:
                    stores[way].wait()
                    stores[way].save(writer(captured(whole_shards(model), optimizer.state, {}), 0, 1))
                if step >= WARM:
                    times[way].append(time.perf_counter() - started)
                if way in stores:
                    metrics = stores[way].metrics()
                    size = metrics.get("checkpoint/bytes", size)
                    waited[way].append(metrics["checkpoint/waited_s"])
            stores["background"].flush()  # so that the step without a checkpoint is without one
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, {size / 2**20:.0f} MB a checkpoint")
    plain = statistics.median(times["none"])
    for way, found in times.items():
        median = statistics.median(found)
        wait = f"  waited {statistics.median(waited[way][WARM:]):.3f} s" if way in waited else ""
        print(f"{way:<12}{median:8.3f} s a step  ratio {median / plain:.2f}{wait}")
    ratios = {way: statistics.median(found) / plain for way, found in times.items()}
    headline(
        f"checkpoint: one at every step makes it {ratios['background']:.2f} times as long, in the foreground "
        f"{ratios['foreground']:.2f} times"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 256)
