"""Grids: the values a quantised weight can take, one grid for each group, fixed before codes are chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hwc.errors import StepError
from hwc.quantise.codes import FP8_MAX, Codes

if TYPE_CHECKING:
    import numpy as np

SYMMETRIC_RATIOS = tuple(1.16 - 0.03 * step for step in range(17))
"""Candidate steps as shares of absmax / 8: 8/7 keeps the whole range on either side, 1.00 on the longer one."""
ASYMMETRIC_RATIOS = tuple(1.0 - 0.025 * step for step in range(17))
FP8_RATIOS = tuple(2.0 ** (step / 8) for step in range(8))
"""Within one octave: E4M3's steps double with every power of two, so a further one repeats the pattern."""


class Grid(Protocol):
    """Rounds one column of a weight [N] at a time."""

    def nearest(self, values: np.ndarray, column: int) -> np.ndarray:
        """Return the values on the grid, float32 [N], that are nearest to the given ones."""

    def finish(self, values: np.ndarray) -> Codes:
        """Return canonical codes of values on the grid, float32 [K, N]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Int4Grid:
    """Sixteen equal steps a group: ``step · scale`` for whole steps from −zero to 15 − zero."""

    scales: np.ndarray
    """float32 [G, N], each of them a float16; negative where the longer side of a symmetric group is positive."""
    zeros: np.ndarray
    """float32 [G, N], 0…15; 8 throughout where symmetric."""
    group_size: int
    symmetric: bool

    def nearest(self, values: np.ndarray, column: int) -> np.ndarray:
        """Round to the nearest of sixteen values."""
        group = column // self.group_size
        return _rounded(values, self.scales[group], self.zeros[group])

    def finish(self, values: np.ndarray) -> Codes:
        """Lay codes out as [N, K] with float16 scales."""
        import numpy as np

        codes = np.rint(values / np.repeat(self.scales, self.group_size, axis=0))
        codes += np.repeat(self.zeros, self.group_size, axis=0)
        return Codes(
            kind="int4",
            codes=np.ascontiguousarray(codes.astype(np.uint8).T),
            scales=np.ascontiguousarray(self.scales.T).astype(np.float16),
            zeros=None if self.symmetric else np.ascontiguousarray(self.zeros.T).astype(np.uint8),
        )


def _rounded(values: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    import numpy as np

    steps: np.ndarray = values / scale
    np.rint(steps, out=steps)
    np.maximum(steps, -zero, out=steps)
    np.minimum(steps, 15 - zero, out=steps)
    steps *= scale
    return steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8Grid:
    """E4M3 values times one scale for each output channel."""

    scales: np.ndarray
    """float32 [N]."""

    def nearest(self, values: np.ndarray, column: int) -> np.ndarray:  # noqa: ARG002
        """Clamp, then round, ties to even: E4M3 has no infinity."""
        import numpy as np

        scaled = np.clip(values / self.scales, -FP8_MAX, FP8_MAX)
        rounded: np.ndarray = round_e4m3(scaled) * self.scales
        return rounded

    def finish(self, values: np.ndarray) -> Codes:
        """Lay codes out as [N, K]."""
        import ml_dtypes
        import numpy as np

        codes = round_e4m3(values / self.scales).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
        return Codes(kind="fp8", codes=np.ascontiguousarray(codes.T), scales=self.scales[:, None].astype(np.float32))


def round_e4m3(values: np.ndarray) -> np.ndarray:
    """Round float32 within ±448 to E4M3 as a cast does, ties to even.

    A value of 2^e ≤ |x| < 2^(e+1) is a multiple of 2^(e−3), below 2^−6 of 2^−9. Adding 1.5 · 2^23 such steps leaves no
    bits below one, so the sum is rounded to whole ones.
    """
    import numpy as np

    power = (values.view(np.uint32) & np.uint32(0x7F800000)).view(np.float32)
    np.maximum(power, np.float32(2.0**-6), out=power)
    power *= np.float32(1.5 * 2**20)
    rounded: np.ndarray = values + power
    rounded -= power
    return rounded


def search_int4(weight: np.ndarray, importance: np.ndarray, *, group_size: int, symmetric: bool) -> Int4Grid:
    """Choose each group's scale and zero point for the least ``Σ importance · error²`` of round to nearest.

    ``weight`` is float32 [N, K], ``importance`` float32 [K]. A symmetric scale may be negative: codes reach from −8
    to 7, and the sign says which side of zero has the ninth step. Raises StepError where a float16 overflows.
    """
    import numpy as np

    n, k = weight.shape
    scales, zeros = np.empty((k // group_size, n), np.float32), np.empty((k // group_size, n), np.float32)
    for group in range(k // group_size):  # one group at a time stays in cache
        own = slice(group * group_size, (group + 1) * group_size)
        scales[group], zeros[group] = _searched(
            np.ascontiguousarray(weight[:, own].T), importance[own].astype(np.float32), symmetric=symmetric
        )
    return Int4Grid(scales=scales, zeros=zeros, group_size=group_size, symmetric=symmetric)


def _searched(values: np.ndarray, importance: np.ndarray, *, symmetric: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and zero point [N] of one group, float32 [group, N]."""
    import numpy as np

    least = np.full(values.shape[1], np.inf, np.float32)
    best = (np.ones_like(least), np.zeros_like(least))
    for scale, zero in _candidates(values, symmetric=symmetric):
        error = _rounded(values, scale, zero)
        error -= values
        cost = importance @ np.square(error, out=error)
        better = cost < least
        least = np.where(better, cost, least)
        best = (np.where(better, scale, best[0]), np.where(better, zero, best[1]))
    return best


def _candidates(values: np.ndarray, *, symmetric: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    import numpy as np

    if symmetric:
        eighth = np.abs(values).max(axis=0) / np.float32(8)
        steps = [half_exact(eighth * np.float32(sign * ratio)) for ratio in SYMMETRIC_RATIOS for sign in (1, -1)]
        return [(step, np.full(step.shape, 8, np.float32)) for step in steps]
    low, high = np.minimum(values.min(axis=0), 0), np.maximum(values.max(axis=0), 0)
    made: list[tuple[np.ndarray, np.ndarray]] = []
    for ratio in ASYMMETRIC_RATIOS:
        scale = half_exact((high - low) * np.float32(ratio / 15))
        centre = np.rint(-low * np.float32(ratio) / scale)
        made += [(scale, np.clip(centre + offset, 0, 15).astype(np.float32)) for offset in (0, -1, 1)]
    return made


def half_exact(scale: np.ndarray) -> np.ndarray:
    """Round scales to float16 and return them as float32; a scale of zero becomes 1. Raises StepError on overflow."""
    import numpy as np

    with np.errstate(over="ignore"):
        rounded = scale.astype(np.float16).astype(np.float32)
    if not np.isfinite(rounded).all():
        raise StepError("a weight is too large for a float16 scale", hint="exclude the layer from quantisation")
    return np.where(rounded == 0, np.float32(1), rounded)


def search_fp8(weight: np.ndarray, importance: np.ndarray) -> Fp8Grid:
    """Choose each output channel's scale, from absmax / 448 up one octave, for the least weighted error."""
    import numpy as np

    largest = np.abs(weight).max(axis=1)
    plain = np.where(largest == 0, np.float32(1), largest / np.float32(FP8_MAX)).astype(np.float32)
    plain = np.maximum(plain, np.finfo(np.float32).tiny)
    best_error, best = np.full(len(weight), np.inf, np.float32), plain
    for ratio in FP8_RATIOS:  # nothing is clipped; what changes is where values fall on the grid
        grid = Fp8Grid(scales=plain * np.float32(ratio))
        decoded = grid.nearest(weight.T, 0).T
        error = (((decoded - weight) ** 2) * importance[None, :]).sum(axis=1)
        best = np.where(error < best_error, grid.scales, best)
        best_error = np.minimum(error, best_error)
    return Fp8Grid(scales=best)
