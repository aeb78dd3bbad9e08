"""A NaN in a policy's loss, from outside the product: Python imports this module first where it is on PYTHONPATH.

While the file named by DUCTILE_CHAOS_NAN exists, the next backward pass of a learner has NaN advantages, as after a
flipped bit. The file is renamed before, so that it happens once, in one process.
"""

from __future__ import annotations

import dataclasses
import importlib.abc
import importlib.util
import os
import sys
from typing import Any

MODULE = "ductile.learner"


class _Patching(importlib.abc.MetaPathFinder):
    """Finds the learner's module as Python would, and patches the class once the module has run."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            _patch(module.PolicyLearner)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _patch(learner: Any) -> None:
    backward = learner._backward

    def poisoned(self: Any, micro: Any, last: bool) -> Any:
        if _take():
            micro = dataclasses.replace(micro, advantages=micro.advantages * float("nan"))
        return backward(self, micro, last)

    learner._backward = poisoned


def _take() -> bool:
    armed = os.environ["DUCTILE_CHAOS_NAN"]
    try:
        os.rename(armed, f"{armed}.taken-{os.getpid()}")  # noqa: PTH104  one process alone succeeds
    except FileNotFoundError:
        return False
    return True


if os.environ.get("DUCTILE_CHAOS_NAN"):
    sys.meta_path.insert(0, _Patching())
