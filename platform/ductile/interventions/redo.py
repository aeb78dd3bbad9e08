"""ReDo (Sokar et al., arXiv 2302.12902, algorithm 1): dormant units begin anew.

    s_i = E|h_i| / mean_j E|h_j|,    dormant at tau when s_i <= tau

Expectations go over the completion positions of the policy's own answers to problems of the phase that ended. There it
is done every so many steps, here once, at a phase switch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ductile.interventions.activity import Activity


def dormant(activity: Mapping[str, Activity], tau: float) -> dict[str, Tensor]:
    """Layer -> [unit] bool. A layer that does nothing at all is dormant as a whole."""
    return {layer: torch.from_numpy(of.size <= tau * of.size.mean()) for layer, of in activity.items()}
