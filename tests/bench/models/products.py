"""Single linears with seeded weights, for the bench of quantised products.

A ReLU follows, in every contestant's graph alike: a wide product that is a model's output is taken for its head, which
schemes store in a form of its own.
"""

from __future__ import annotations

import torch
from torch import nn

SEED = 20261122


def k2048_n8192() -> nn.Module:
    """Return a linear whose int4 weights fit a last-level cache."""
    return _linear(2048, 8192)


def k8192_n8192() -> nn.Module:
    """Return a linear whose int4 weights are as large as many last-level caches."""
    return _linear(8192, 8192)


def k16384_n16384() -> nn.Module:
    """Return a linear whose int4 weights come from DRAM on every call."""
    return _linear(16384, 16384)


def _linear(k: int, n: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        made = nn.Linear(k, n, bias=False, device="meta").to_empty(device="cpu")
        nn.init.normal_(made.weight, std=k**-0.5)
        return nn.Sequential(made, nn.ReLU())
