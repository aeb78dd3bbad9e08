"""A job's own process begins without the libraries that only its actors, its runs or its report need."""

from __future__ import annotations

import subprocess
import sys

import pytest

SLOW = ("transformers", "mlflow", "matplotlib", "scipy.stats", "deepspeed", "peft", "ray.train.torch")


@pytest.mark.parametrize("job", ["compare", "run"])
def test_job_is_imported_without_what_its_actors_need(job: str) -> None:
    code = f"import sys, jobs.{job}; print([name for name in {SLOW!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
