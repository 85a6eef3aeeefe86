"""Canonical codes: the one form of a quantised weight, from which every encoding is a mechanical repack."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hwc.errors import StepError

if TYPE_CHECKING:
    import numpy as np

FP8_MAX = 448.0
SEARCH_RATIOS = tuple(1.0 - 0.02 * step for step in range(16))
"""Candidate scales as shares of the absmax scale: 1.00, 0.98, … 0.70."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """A quantised weight W[N, K]: ``W ≈ (codes − zeros) · scales`` (int4) or ``e4m3(codes) · scales`` (fp8)."""

    codes: np.ndarray
    """uint8 [N, K]: 0…15 for int4, E4M3 bit patterns for fp8."""
    scales: np.ndarray
    """[N, G]: float16 for int4 (G = K / group), float32 for fp8 (G = 1)."""
    zeros: np.ndarray | None = None
    """uint8 [N, G], 0…15; None means 8 for int4 (symmetric) and no offset for fp8."""


def dequantise(codes: Codes) -> np.ndarray:
    """Return the float32 [N, K] weight that codes stand for, exactly as ONNX Runtime computes it."""
    import ml_dtypes
    import numpy as np

    n, k = codes.codes.shape
    scales = codes.scales.astype(np.float32)
    groups = scales.shape[1]
    if codes.scales.dtype == np.float16:
        zeros = np.full(scales.shape, 8, np.float32) if codes.zeros is None else codes.zeros.astype(np.float32)
        grouped = codes.codes.reshape(n, groups, k // groups).astype(np.float32)
        return ((grouped - zeros[:, :, None]) * scales[:, :, None]).reshape(n, k)
    values = codes.codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    return np.asarray(values * scales)


def int4(weight: np.ndarray, *, group_size: int, symmetric: bool) -> Codes:
    """Quantise float32 [N, K] to int4 by round to nearest with a mean-squared-error scale search per group.

    Scales are rounded to float16 *before* codes are chosen, so the stored scale is the one that was searched.
    A group of zeros gets scale 1 and codes that decode to zero. Raises StepError where a float16 scale overflows.
    """
    import numpy as np

    n, k = weight.shape
    grouped = weight.reshape(n, k // group_size, group_size).astype(np.float32)
    best: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None = None
    for ratio in SEARCH_RATIOS:
        scale, zero = _symmetric(grouped, ratio) if symmetric else _asymmetric(grouped, ratio)
        codes = np.clip(np.rint(grouped / scale[..., None]) + zero[..., None], 0, 15)
        error = (((codes - zero[..., None]) * scale[..., None] - grouped) ** 2).sum(axis=2)
        if best is None:
            best = (error, scale, zero, codes)
            continue
        better = error < best[0]
        best = (
            np.where(better, error, best[0]),
            np.where(better, scale, best[1]),
            np.where(better, zero, best[2]),
            np.where(better[..., None], codes, best[3]),
        )
    assert best is not None
    _, scale, zero, codes = best
    return Codes(
        codes=codes.astype(np.uint8).reshape(n, k),
        scales=scale.astype(np.float16),
        zeros=None if symmetric else zero.astype(np.uint8),
    )


def _rounded(scale: np.ndarray) -> np.ndarray:
    import numpy as np

    with np.errstate(over="ignore"):
        rounded = scale.astype(np.float16).astype(np.float32)
    if not np.isfinite(rounded).all():
        raise StepError("a weight is too large for a float16 scale", hint="exclude the layer from quantisation")
    return np.where(rounded == 0, np.float32(1), rounded)


def _symmetric(grouped: np.ndarray, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    scale = _rounded(np.abs(grouped).max(axis=2) * np.float32(ratio / 7))
    return scale, np.full(scale.shape, 8, np.float32)


def _asymmetric(grouped: np.ndarray, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    low = np.minimum(grouped.min(axis=2), 0) * np.float32(ratio)
    high = np.maximum(grouped.max(axis=2), 0) * np.float32(ratio)
    scale = _rounded((high - low) / np.float32(15))
    return scale, np.clip(np.rint(-low / scale), 0, 15).astype(np.float32)


def fp8(weight: np.ndarray) -> Codes:
    """Quantise float32 [N, K] to FP8 E4M3 with one absmax / 448 scale for each output channel.

    Values are clamped before the cast: E4M3 has no infinity and the cast turns what is past 448 into NaN.
    """
    import ml_dtypes
    import numpy as np

    largest = np.abs(weight).max(axis=1, keepdims=True)
    scales = np.where(largest == 0, np.float32(1), largest / np.float32(FP8_MAX)).astype(np.float32)
    scales = np.maximum(scales, np.finfo(np.float32).tiny)
    clamped = np.clip(weight / scales, -FP8_MAX, FP8_MAX)
    return Codes(codes=clamped.astype(ml_dtypes.float8_e4m3fn).view(np.uint8), scales=scales)


def save(layers: dict[str, Codes], path: Path) -> None:
    """Write codes as safetensors: ``<layer>.codes``, ``.scales`` and, where there are any, ``.zeros``."""
    import numpy as np
    from safetensors.numpy import save_file

    tensors: dict[str, np.ndarray] = {}
    for layer in sorted(layers):
        codes = layers[layer]
        tensors[f"{layer}.codes"] = np.ascontiguousarray(codes.codes)
        tensors[f"{layer}.scales"] = np.ascontiguousarray(codes.scales)
        if codes.zeros is not None:
            tensors[f"{layer}.zeros"] = np.ascontiguousarray(codes.zeros)
    save_file(tensors, path)


def load(path: Path) -> dict[str, Codes]:
    """Read codes back, by layer."""
    from safetensors.numpy import load_file

    tensors = load_file(path)
    layers = sorted(name.removesuffix(".codes") for name in tensors if name.endswith(".codes"))
    return {
        layer: Codes(
            codes=tensors[f"{layer}.codes"],
            scales=tensors[f"{layer}.scales"],
            zeros=tensors.get(f"{layer}.zeros"),
        )
        for layer in layers
    }
