"""Property tests without a time limit per example: a busy machine is not a failure."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("ductile", deadline=None, max_examples=50)
settings.load_profile("ductile")
