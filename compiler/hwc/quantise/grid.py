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

    def encode(self, values: np.ndarray, column: int) -> np.ndarray:
        """Return the codes, uint8 [N], of the values nearest to the given ones."""

    def decode(self, codes: np.ndarray, column: int) -> np.ndarray:
        """Return the values, float32 [N], that codes stand for."""

    def finish(self, codes: np.ndarray) -> Codes:
        """Return canonical codes from uint8 [K, N]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Int4Grid:
    """Sixteen equal steps a group: ``(code − zero) · scale``."""

    scales: np.ndarray
    """float32 [G, N], each of them a float16; negative where the longer side of a symmetric group is positive."""
    zeros: np.ndarray
    """float32 [G, N], 0…15; 8 throughout where symmetric."""
    group_size: int
    symmetric: bool

    def encode(self, values: np.ndarray, column: int) -> np.ndarray:
        """Round to the nearest of sixteen values."""
        import numpy as np

        group = column // self.group_size
        codes: np.ndarray = np.clip(np.rint(values / self.scales[group]) + self.zeros[group], 0, 15).astype(np.uint8)
        return codes

    def decode(self, codes: np.ndarray, column: int) -> np.ndarray:
        """Multiply as ONNX Runtime does."""
        group = column // self.group_size
        decoded: np.ndarray = (codes - self.zeros[group]) * self.scales[group]
        return decoded

    def finish(self, codes: np.ndarray) -> Codes:
        """Lay codes out as [N, K] with float16 scales."""
        import numpy as np

        return Codes(
            codes=np.ascontiguousarray(codes.T),
            scales=np.ascontiguousarray(self.scales.T).astype(np.float16),
            zeros=None if self.symmetric else np.ascontiguousarray(self.zeros.T).astype(np.uint8),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fp8Grid:
    """E4M3 values times one scale for each output channel."""

    scales: np.ndarray
    """float32 [N]."""

    def encode(self, values: np.ndarray, column: int) -> np.ndarray:  # noqa: ARG002
        """Clamp, then cast: E4M3 has no infinity."""
        import ml_dtypes
        import numpy as np

        clamped = np.clip(values / self.scales, -FP8_MAX, FP8_MAX).astype(np.float32)
        codes: np.ndarray = clamped.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
        return codes

    def decode(self, codes: np.ndarray, column: int) -> np.ndarray:  # noqa: ARG002
        """Look the values up and scale them."""
        import ml_dtypes
        import numpy as np

        decoded: np.ndarray = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32) * self.scales
        return decoded

    def finish(self, codes: np.ndarray) -> Codes:
        """Lay codes out as [N, K]."""
        import numpy as np

        return Codes(codes=np.ascontiguousarray(codes.T), scales=self.scales[:, None].astype(np.float32))


def search_int4(weight: np.ndarray, importance: np.ndarray, *, group_size: int, symmetric: bool) -> Int4Grid:
    """Choose each group's scale and zero point for the least ``Σ importance · error²`` of round to nearest.

    ``weight`` is float32 [N, K], ``importance`` float32 [K]. A symmetric scale may be negative: codes reach from −8
    to 7, and the sign says which side of zero has the ninth step. Raises StepError where a float16 overflows.
    """
    import numpy as np

    n, k = weight.shape
    grouped = np.ascontiguousarray(weight.T).reshape(k // group_size, group_size, n)
    weights = importance.astype(np.float32).reshape(k // group_size, group_size, 1)
    best: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    for scale, zero in _candidates(grouped, symmetric=symmetric):
        codes = np.clip(np.rint(grouped / scale[:, None]) + zero[:, None], 0, 15)
        error = ((((codes - zero[:, None]) * scale[:, None] - grouped) ** 2) * weights).sum(axis=1)
        if best is None:
            best = (error, scale, zero)
            continue
        better = error < best[0]
        best = (
            np.where(better, error, best[0]), np.where(better, scale, best[1]), np.where(better, zero, best[2])
        )
    assert best is not None
    return Int4Grid(scales=best[1], zeros=best[2], group_size=group_size, symmetric=symmetric)


def _candidates(grouped: np.ndarray, *, symmetric: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    import numpy as np

    if symmetric:
        eighth = np.abs(grouped).max(axis=1) / np.float32(8)
        steps = [half_exact(eighth * np.float32(sign * ratio)) for ratio in SYMMETRIC_RATIOS for sign in (1, -1)]
        return [(step, np.full(step.shape, 8, np.float32)) for step in steps]
    low, high = np.minimum(grouped.min(axis=1), 0), np.maximum(grouped.max(axis=1), 0)
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
        decoded = grid.decode(grid.encode(weight.T, 0), 0).T
        error = (((decoded - weight) ** 2) * importance[None, :]).sum(axis=1)
        best = np.where(error < best_error, grid.scales, best)
        best_error = np.minimum(error, best_error)
    return Fp8Grid(scales=best)
