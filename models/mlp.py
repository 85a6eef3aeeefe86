"""A small perceptron with seeded weights: the shortest model that passes through every stage.

Try it: ``hwc build models/mlp.py:create`` (inferred from EXAMPLE_INPUTS), or ``hwc build mlp`` (models/mlp.toml).
"""

from __future__ import annotations

import torch
from torch import nn

SEED = 20261122
EXAMPLE_INPUTS = {"features": torch.zeros(1, 256)}


def create() -> nn.Module:
    """Return 256 → 512 → 512 → 10, with GELU and ReLU, weights drawn from a fixed seed."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        return nn.Sequential(
            nn.Linear(256, 512),
            nn.GELU(),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Linear(512, 10),
        )
