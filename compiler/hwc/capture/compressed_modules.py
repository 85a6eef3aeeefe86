"""One quantised linear of a compressed-tensors checkpoint: its codes, what they stand for, whether they can be kept.

pack-quantized: ``weight_packed`` int32 [N, K · bits / 32], value i of a word at bits ``bits · i``, counted from 0;
``weight_scale`` [N, G]; ``weight_shape`` [2]; for zero points ``weight_zero_point`` int32 [N · bits / 32, G], packed
along N. The others: ``weight`` int8 or E4M3 [N, K], ``weight_scale`` [N, G] or one number, ``weight_zero_point`` int8
[N, G]. Source: compressed-tensors 0.19, compressors/pack_quantized and naive_quantized.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwc.capture.arrived import Arrived, Kept, Rows
from hwc.errors import IntegrityError
from hwc.formats import BITS, Kind

if TYPE_CHECKING:
    import numpy as np

CHUNK_VALUES = 1 << 22
"""Weights decoded at a time."""
SCALE_TYPES = ("F32", "F16", "BF16")
GROUPS = (128, 64, 32)
"""Sizes of groups that can be kept; a larger group is kept as several with the same scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A tensor in a safetensors file, as the file's header has it."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]

    def read(self, part: slice = slice(None)) -> Any:
        """Return its rows as a tensor of torch."""
        from safetensors import safe_open

        with safe_open(self.file, framework="pt") as opened:
            return opened.get_slice(self.name)[part] if self.shape else opened.get_tensor(self.name)

    def wrong(self, what: str) -> IntegrityError:
        """Return the error that says what is wrong with it."""
        return IntegrityError(
            f"tensor `{self.name}`, {self.dtype} {list(self.shape)}: {what}", where=str(self.file),
            hint="the checkpoint is damaged, or its config.json is of another one",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A quantised linear: codes that are read some rows at a time, and all else of it."""

    name: str
    kind: Kind
    n: int
    k: int
    codes: Stored
    scales: np.ndarray
    """float32 [N, G]."""
    zeros: np.ndarray | None
    """uint8 [N, G], counted from 0 as codes are."""

    @property
    def group(self) -> int:
        """Weights along K that share a scale."""
        return self.k // int(self.scales.shape[1])

    def told(self) -> str:
        """Name what is stored in a few characters, as ``int4 g128 zero points``."""
        size = f"g{self.group}" if self.scales.shape[1] > 1 else "channel"
        return f"{self.kind} {size}" + ("" if self.zeros is None else " zero points")

    def rows(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield places and codes, uint8 [rows, K]: integers counted from 0, or E4M3's bits."""
        step = max(1, CHUNK_VALUES // self.k)
        for start in range(0, self.n, step):
            part = slice(start, min(start + step, self.n))
            yield part, as_codes(self.codes.read(part), self.kind)[:, : self.k]

    def values(self) -> Iterator[np.ndarray]:
        """Yield float32 [rows, K]: what the codes stand for, multiplied in float32."""
        import ml_dtypes
        import numpy as np

        for part, codes in self.rows():
            if self.kind == "fp8":
                numbers = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
            else:
                numbers = codes.astype(np.float32)
            numbers = numbers.reshape(len(codes), -1, self.group)
            if self.zeros is not None:
                numbers -= self.zeros[part].astype(np.float32)[:, :, None]
            elif self.kind != "fp8":
                numbers -= np.float32(1 << (BITS[self.kind] - 1))
            yield (numbers * self.scales[part][:, :, None]).reshape(len(codes), self.k)

    def arrived(self) -> Arrived:
        """Return the codes where they have a form here, and else why they have none."""
        name, told = f"{self.name}.weight", self.told()
        if reason := self._unfit():
            return Arrived(name=name, type=told, reason=reason)
        size = self.group if self.kind == "fp8" else next(size for size in GROUPS if self.group % size == 0)
        kept = Kept(
            kind=self.kind, n=self.n, k=self.k, groups=self.k // size, zeros="none" if self.zeros is None else "point",
            rows=lambda: self._kept(self.group // size),
        )
        return Arrived(name=name, type=told, kept=kept)

    def _unfit(self) -> str:
        import numpy as np

        if self.kind == "fp8":
            return "FP8 in groups has no form here" if self.scales.shape[1] > 1 else ""
        if self.group % GROUPS[-1]:
            return f"a group of {self.group} is no multiple of {GROUPS[-1]}"
        with np.errstate(over="ignore"):
            halves = self.scales.astype(np.float16).astype(np.float32)
        return "" if np.array_equal(halves, self.scales) else "its scales are no float16 numbers"

    def _kept(self, times: int) -> Iterator[Rows]:
        """Yield rows as they are kept: each group as ``times`` smaller ones."""
        import numpy as np

        dtype = np.float32 if self.kind == "fp8" else np.float16
        for part, codes in self.rows():
            scales = np.repeat(self.scales[part].astype(dtype), times, axis=1)
            zeros = None if self.zeros is None else np.repeat(self.zeros[part], times, axis=1)
            yield Rows(codes=codes, scales=scales, zeros=zeros)


def as_codes(tensor: Any, kind: Kind) -> np.ndarray:
    """Return uint8 [rows, …] codes of a tensor: of words, signed bytes or E4M3; ones that are padding come with it."""
    import numpy as np
    import torch

    signed = tensor.dtype == torch.int8
    raw: np.ndarray = tensor.contiguous().view(torch.uint8).numpy()
    if signed:
        return raw ^ np.uint8(0x80)
    return np.stack([raw & 15, raw >> 4], axis=-1).reshape(len(raw), -1) if kind == "int4" else raw


def read_scales(stored: Stored, n: int, k: int) -> np.ndarray:
    """Return float32 [N, G] from [N, G], or from one number for all. Raises IntegrityError for any other shape."""
    import numpy as np
    import torch

    if stored.dtype not in SCALE_TYPES:
        raise stored.wrong(f"scales are {', '.join(SCALE_TYPES)}")
    values: np.ndarray = stored.read().to(torch.float32).numpy()
    if not np.isfinite(values).all():
        raise stored.wrong("it holds NaN or infinity")
    if values.size == 1:
        return np.full((n, 1), values.reshape(()), np.float32)
    if len(stored.shape) != 2 or stored.shape[0] != n or not stored.shape[1] or k % stored.shape[1]:
        raise stored.wrong(f"it gives no scales to groups of a weight [{n}, {k}]")
    return values


def read_zeros(stored: Stored, kind: Kind, shape: tuple[int, int]) -> np.ndarray:
    """Return uint8 [N, G] zero points, counted from 0, from int8 [N, G] or packed words. Raises IntegrityError."""
    import numpy as np

    n, groups = shape
    words = -(-n * BITS[kind] // 32)
    if kind == "fp8":
        raise stored.wrong("FP8 weights have no zero points")
    if (stored.dtype, stored.shape) == ("I8", shape):
        zeros = as_codes(stored.read(), "int8") - (np.uint8(120) if kind == "int4" else np.uint8(0))  # −8 is code 0
        if int(zeros.max()) >= 1 << BITS[kind]:
            raise stored.wrong(f"a zero point is out of the range of {kind}")
        return zeros
    if (stored.dtype, stored.shape) != ("I32", (words, groups)):
        raise stored.wrong(f"it gives no zero points to {n} rows of {groups} groups")
    packed: np.ndarray = as_codes(stored.read().t(), kind)[:, :n].T
    return packed
