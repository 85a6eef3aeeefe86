"""Noise: how far a graph comes to lie from itself when weights move by float32's last bits.

An activation in the middle of two E4M3 values falls to either side by the last bit of a sum, and then is 6 % off,
which all later layers hand on. Runs that sum in another order differ so, however right they are; how far depends on the
model. So it is measured, and the artefact is held to it.

A kernel that keeps fewer bits of activations than float32 has moves an answer as weights do that are moved by its last
bit: with 16 bits a stack of 24 linears and MiniLM came to lie 15 to 19 times as far as a move of 1e-6 took them, where
2^-16 is 15.3 times as much.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

RELATIVE = 1e-6
"""What each float weight is moved by, up or down: sixteen of float32's last places, as sums over thousands of terms are
apart. In a tiny Llama the artefact lies as far from the reference as a move of 1e-7 takes it."""
TIMES = 2.0
"""How much further than that an artefact may be: of three moves of a tiny Llama the furthest went 1.6 times as far as
the least."""
FILE = "noise.json"


def moved(weights: Mapping[str, np.ndarray], *, seed: int = 0) -> dict[str, np.ndarray]:
    """Return the weights with every float32 one, scales among them, moved by ``RELATIVE`` up or down at random."""
    import numpy as np

    signs = np.random.default_rng(seed)
    return {
        name: (value * (1 + RELATIVE * signs.choice([-1.0, 1.0], size=value.shape))).astype(np.float32)
        if value.dtype == np.float32
        else value
        for name, value in sorted(weights.items())
    }


def write(max_abs: float, out: Path) -> None:
    """Write ``noise.json``: the largest absolute difference of outputs, and by how much weights were moved."""
    (out / FILE).write_text(json.dumps({"max_abs": max_abs, "weights_moved_by": RELATIVE}))


def bound(folder: Path) -> float:
    """Return the largest difference to the reference that is not more than noise."""
    return TIMES * float(json.loads((folder / FILE).read_text())["max_abs"])


def bound_at(folder: Path, bits: int) -> float:
    """Return the same for code that keeps ``bits`` of activations: noise grows as what moves it."""
    return bound(folder) * max(1.0, 2.0**-bits / RELATIVE)
