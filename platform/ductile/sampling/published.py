"""Weights under a name of their own: what `ports.PolicyRef.weights` holds. Whoever passes them on imports no model."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """Weights that `publish` made reachable. `token` is unique to them; `state` is the state dict or where it is."""

    token: str
    state: Any


def new_token() -> str:
    """A name for newly published weights."""
    return uuid.uuid4().hex
