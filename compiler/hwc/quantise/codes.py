"""Canonical codes: the one form of a quantised weight, from which every encoding is a mechanical repack."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hwc.errors import StepError
from hwc.formats import BITS, Format, Kind, Zeros

if TYPE_CHECKING:
    import numpy as np

FP8_MAX = 448.0
SEARCH_RATIOS = tuple(1.0 - 0.02 * step for step in range(16))
"""Candidate scales as shares of the absmax scale: 1.00, 0.98, … 0.70."""
CHUNK_WEIGHTS = 1 << 22
"""Weights that are rounded at once: the search holds several float32 copies of them."""
PARTS = ("codes", "scales", "zeros", "offsets")
_KINDS = "kinds"
"""Key of the file's metadata that tells each layer's kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """A quantised weight W[N, K].

    Integers: ``W ≈ (codes − zeros) · scales``, or ``codes · scales + offsets``; fp8: ``W ≈ e4m3(codes) · scales``.
    """

    kind: Kind
    codes: np.ndarray
    """uint8 [N, K]: 0…15 for int4, 0…255 for int8, E4M3 bit patterns for fp8."""
    scales: np.ndarray
    """[N, G]: float16 for integers (G = K / group), float32 for fp8 (G = 1)."""
    zeros: np.ndarray | None = None
    """uint8 [N, G], within the codes' range; without it and without offsets the middle code is zero."""
    offsets: np.ndarray | None = None
    """float16 [N, G]: what code 0 stands for, for weights that came with such an offset."""

    @property
    def zero_kind(self) -> Zeros:
        """How zero is told."""
        return "offset" if self.offsets is not None else "none" if self.zeros is None else "point"


def dequantise(codes: Codes) -> np.ndarray:
    """Return the float32 [N, K] weight that codes stand for, as ONNX Runtime computes it."""
    import ml_dtypes
    import numpy as np

    n, k = codes.codes.shape
    scales = codes.scales.astype(np.float32)
    groups = scales.shape[1]
    if codes.kind == "fp8":
        return np.asarray(codes.codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32) * scales)
    grouped = codes.codes.reshape(n, groups, k // groups).astype(np.float32)
    if codes.offsets is not None:
        return (grouped * scales[:, :, None] + codes.offsets.astype(np.float32)[:, :, None]).reshape(n, k)
    middle = np.float32(1 << (BITS[codes.kind] - 1))
    zeros = np.full(scales.shape, middle) if codes.zeros is None else codes.zeros.astype(np.float32)
    return ((grouped - zeros[:, :, None]) * scales[:, :, None]).reshape(n, k)


def nearest(weight: np.ndarray, form: Format) -> Codes:
    """Quantise float32 [N, K] to a format by round to nearest; no data is looked at. Raises StepError on overflow."""
    import numpy as np

    if form.kind == "fp8":
        return fp8(weight)
    rows = max(1, CHUNK_WEIGHTS // weight.shape[1])
    parts = [_integers(weight[start : start + rows], form) for start in range(0, len(weight), rows)]
    zeros = [part.zeros for part in parts if part.zeros is not None]
    return Codes(
        kind=form.kind, codes=np.concatenate([part.codes for part in parts]),
        scales=np.concatenate([part.scales for part in parts]), zeros=np.concatenate(zeros) if zeros else None,
    )


def _integers(weight: np.ndarray, form: Format) -> Codes:
    if form.kind == "int4":
        return int4(weight, group_size=form.group_size, symmetric=form.symmetric)
    return int8(weight, group_size=form.group_size)


def int8(weight: np.ndarray, *, group_size: int) -> Codes:
    """Quantise float32 [N, K] to symmetric int8, absmax / 127 a group: with 256 steps a search gains nothing."""
    import numpy as np

    n, k = weight.shape
    grouped = weight.reshape(n, k // group_size, group_size).astype(np.float32)
    scale = _rounded(np.abs(grouped).max(axis=2) / np.float32(127))
    codes = np.clip(np.rint(grouped / scale[..., None]) + 128, 0, 255)
    return Codes(kind="int8", codes=codes.astype(np.uint8).reshape(n, k), scales=scale.astype(np.float16))


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
        kind="int4",
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
    return Codes(kind="fp8", codes=clamped.astype(ml_dtypes.float8_e4m3fn).view(np.uint8), scales=scales)


def save(layers: dict[str, Codes], path: Path) -> None:
    """Write codes as safetensors: ``<layer>.codes``, ``.scales`` and, where there are any, ``.zeros``, ``.offsets``."""
    import numpy as np
    from safetensors.numpy import save_file

    tensors: dict[str, np.ndarray] = {}
    for layer in sorted(layers):
        for part in PARTS:
            value = getattr(layers[layer], part)
            if value is not None:
                tensors[f"{layer}.{part}"] = np.ascontiguousarray(value)
    kinds = {layer: layers[layer].kind for layer in sorted(layers)}
    save_file(tensors, path, metadata={_KINDS: json.dumps(kinds)})


def load(path: Path) -> dict[str, Codes]:
    """Read codes back, by layer; their arrays are mapped, not read."""
    from hwc.quantise.weights import Weights

    stored = Weights(path)
    kinds: dict[str, Kind] = json.loads(stored.metadata[_KINDS])
    return {
        layer: Codes(
            kind=kind, **{part: stored[f"{layer}.{part}"] for part in PARTS if f"{layer}.{part}" in stored}
        )
        for layer, kind in kinds.items()
    }
