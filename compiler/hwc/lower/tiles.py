"""Tile sizes from a chip's own measures, where its descriptor names none."""

from __future__ import annotations

from hwc.spec.figure import spread
from hwc.spec.hardware import Hardware, Unit
from hwc.spec.target import Lowering

OPERANDS = 3
"""What lies in the nearest memory while a tile is multiplied: both operands and the accumulators."""
ACCUMULATOR_BYTES = 4
WIDE, MOST_ROWS, FEW_ROWS = "+avx512f", 16, 4


def derived(lowering: Lowering, hardware: Hardware) -> Lowering:
    """Return the lowering with its tiles filled in from the array and the memory nearest to it.

    A tile of the result is as wide as the array, halved until its accumulators fit in their share of the memory: a
    third of it, or a sixth where the next tile's operands arrive while this one is multiplied. Chips without a matrix
    array, or without a figure for their memory, keep the compiler's own tiles.
    """
    array = _array(hardware)
    if lowering.backend != "llvm-cpu" or array is None or not hardware.by_level:
        return lowering
    _, nearest = hardware.by_level[0]
    halves = 2 if hardware.overheads.transfers_overlap else 1
    share_bytes = _power_of_two(int(spread(nearest.size_bytes).low) // (OPERANDS * halves))
    bytes_ = lowering.matmul_tile_bytes or max(share_bytes, 64)
    points = lowering.distribution_tile or _width(array, bytes_)
    return lowering.model_copy(update={"matmul_tile_bytes": bytes_, "distribution_tile": points})


def rows_at_once(lowering: Lowering) -> int:
    """Return how many rows of activations a product of float tiles works on at once.

    Its sums, rows × 16, stay in registers: 16 vectors of the 32 of AVX-512, 8 half as wide of the 16 of AVX2.
    """
    return MOST_ROWS if WIDE in lowering.cpu_features else FEW_ROWS


def product_flags(lowering: Lowering) -> tuple[str, ...]:
    """Return the flags that products of float tiles need.

    IREE's own microkernels, which its compiler calls at O1, know these tiles with AVX-512 alone. Elsewhere they do one
    number at a time, at a fortieth of the speed of generated code, and get 16 rows at once wrong.
    """
    return () if WIDE in lowering.cpu_features else ("--iree-llvmcpu-enable-ukernels=none",)


def _array(hardware: Hardware) -> Unit | None:
    return next((unit for unit in hardware.units.values() if unit.kind == "matrix" and unit.columns), None)


def _width(array: Unit, share_bytes: int) -> int:
    width = array.columns or 1
    while width > 1 and width * width * ACCUMULATOR_BYTES > share_bytes:
        width //= 2
    return width


def _power_of_two(most: int) -> int:
    return 1 << max(most.bit_length() - 1, 0)
