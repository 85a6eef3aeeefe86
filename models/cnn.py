"""A small convolutional network with seeded weights, on images of 3 × 32 × 32."""

from __future__ import annotations

import torch
from torch import nn

SEED = 20261122
EXAMPLE_INPUTS = {"image": torch.zeros(1, 3, 32, 32)}


def create() -> nn.Module:
    """Return two convolutions with batch normalisation and pooling, then two linear layers, 10 classes."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 8 * 8, 128),
            nn.ReLU(),
            nn.Linear(128, 10),
        )
