"""Tiles: float weights of linears, stored in the order in which a matrix product reads them, so none is repacked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from hwc.quantise.encodings import TILE
from hwc.quantise.linears import SHARED, Linear

if TYPE_CHECKING:
    import numpy as np

KIND, ENCODING = "float32", "f32-tiled"
"""What a descriptor's [encoding] calls weights in float, and what it may say of them."""
SUFFIXES = {False: ".tiles", True: ".tiles-of-rows"}
"""What is added to the key of a weight W[K, N], or W[N, K]: other bytes have another name, so nothing reads one for the
other."""


def tiled(rows: Iterable[Linear]) -> dict[str, bool]:
    """Return the weights that are stored in tiles: of linears in float, with N a multiple of ``TILE``.

    The value tells whether the weight is W[N, K], as a Gemm has it, rather than W[K, N].
    """
    return {
        row.weight: row.transposed for row in rows
        if row.format is None and row.role == "linear" and not row.gathered and row.skip != SHARED
        and row.n % TILE == 0
    }


def to_tiles(weight: np.ndarray, *, transposed: bool) -> np.ndarray:
    """Return W[K, N], or W[N, K] where ``transposed``, as [N/16, K, 16, 1]: 16 columns beside each other, by k."""
    import numpy as np

    columns = weight.T if transposed else weight
    k, n = columns.shape
    return np.ascontiguousarray(columns.reshape(k, n // TILE, TILE).transpose(1, 0, 2)).reshape(n // TILE, k, TILE, 1)


def from_tiles(tiles: np.ndarray, shape: Sequence[int], *, transposed: bool) -> np.ndarray:
    """Return the weight of ``shape``, which ``to_tiles`` was given."""
    import numpy as np

    k, n = reversed(shape) if transposed else shape
    columns = tiles.reshape(n // TILE, k, TILE).transpose(1, 0, 2).reshape(k, n)
    return np.ascontiguousarray(columns.T if transposed else columns)
