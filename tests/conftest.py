"""Property tests without a time limit per example; one torch thread, so that results do not depend on the machine."""

from __future__ import annotations

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("ductile", deadline=None, max_examples=50)
settings.load_profile("ductile")
