"""Tiles: float weights of linears, stored in the order in which a matrix product reads them, so none is repacked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from hwc.quantise.encodings import TILE
from hwc.quantise.linears import SHARED, Linear

if TYPE_CHECKING:
    import numpy as np

KIND, ENCODING = "float32", "f32-tiled"
"""What a descriptor's [encoding] calls weights in float, and what it may say of them."""
SUFFIX = ".tiles"
"""What is added to a weight's key: other bytes have another name, so nothing reads one for the other."""


def tiled(rows: Iterable[Linear]) -> frozenset[str]:
    """Return the weights that are stored in tiles: W[K, N] of linears in float, with N a multiple of ``TILE``."""
    return frozenset(
        row.weight for row in rows
        if row.format is None and row.role == "linear" and not row.transposed and not row.gathered
        and row.skip != SHARED and row.n % TILE == 0
    )


def to_tiles(weight: np.ndarray) -> np.ndarray:
    """Return W[K, N] as [N/16, K, 16, 1]: 16 columns beside each other, from the first row to the last."""
    import numpy as np

    k, n = weight.shape
    return np.ascontiguousarray(weight.reshape(k, n // TILE, TILE).transpose(1, 0, 2)).reshape(n // TILE, k, TILE, 1)


def from_tiles(tiles: np.ndarray, k: int, n: int) -> np.ndarray:
    """Return W[K, N], which ``to_tiles`` gave."""
    import numpy as np

    return np.ascontiguousarray(tiles.reshape(n // TILE, k, TILE).transpose(1, 0, 2)).reshape(k, n)
