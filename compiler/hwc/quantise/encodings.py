"""Encodings: canonical codes to the exact bytes that a target's code reads, and back.

An encoding is a name. `lower/passes` declares parameters with the dtypes and shapes of `layout`, and `pack` makes
bytes that fit them, so both sides of an archive come from the one table here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from hwc.errors import IntegrityError
from hwc.formats import BITS, Kind, Zeros
from hwc.quantise.codes import Codes

if TYPE_CHECKING:
    import numpy as np

Part = Literal["codes", "scales", "zeros", "offsets"]
DTYPE_BITS = {"i4": 4, "i8": 8, "f16": 16, "i32": 32, "f32": 32}
"""MLIR element type to its width in bits."""
E4M3_NAN = 0x7F
TILE = 16
"""Output channels whose codes lie beside each other in a tiled encoding; see lower/kernels/hwc_kernels.h."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """One entry of a parameter archive: bytes, and the tensor type under which code reads them."""

    payload: np.ndarray
    """C-contiguous; its bytes are the tensor's, whatever its own shape."""
    dtype: str
    """MLIR element type (``i4``, ``i8``, ``i32``, ``f16``, ``f32``); numpy's name for a weight that stays in float."""
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The sizes of a quantised weight W[N, K]."""

    n: int
    k: int
    group: int
    """Weights along K that share a scale; ``k`` for one scale an output channel."""
    zeros: Zeros = "none"

    @property
    def groups(self) -> int:
        """Number of groups G along K."""
        return self.k // self.group


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorLayout:
    """How code declares one part of a packed weight."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def byte_count(self) -> int:
        """Bytes in the archive; sub-byte elements are packed, the even index in the low nibble."""
        return math.prod(self.shape) * DTYPE_BITS[self.dtype] // 8


Layout = dict[Part, TensorLayout]


def layout(encoding: str, geometry: Geometry) -> Layout:
    """Return the parts of a packed weight with their dtypes and shapes.

    | encoding | codes | scales | what it compiles for (IREE 3.13) |
    |---|---|---|---|
    | ``i4-grouped`` | i4 [N, G, g], code − 8 | f16 [N, G] | llvm-cpu, cuda, rocm |
    | ``i4-tiled`` | i4 [N/16, G, g/8, 16, 8], code − 8 | f16 [N/16, G, 16] | llvm-cpu, for kernels |
    | ``u8-nibbles`` | i32 [N, G, g/8]: nibbles, even k low | f16 [N, G] | these and Vulkan |
    | ``i8-grouped`` | i8 [N, G, g], code − 128 | f16 [N, G] | llvm-cpu, cuda, rocm |
    | ``u8-words`` | i32 [N, G, g/4]: the codes' bytes | f16 [N, G] | these and Vulkan |
    | ``e4m3-bits`` | i8 [N, K] | f32 [N] | these and Vulkan, but llvmpipe takes minutes |
    | ``e4m3-words`` | i32 [N, K/4], the same bytes | f32 [N] | these and Vulkan |

    ``i4-tiled`` is ``i4-grouped`` where N is no multiple of 16 or g none of 8; its zeros and offsets lie as its scales.
    Grouped integers may have ``zeros``, i8 [N, G] (zero point − 8, or − 128), or ``offsets``, f16 [N, G]: what is
    added to code · scale, with the code counted from 0.
    The bytes of ``u8-nibbles`` codes are those of MatMulNBits, read four at a time. On llvmpipe i4 vectors do not
    compile at 4 rows and more, and nibbles read as i8 gave wrong numbers or hung.
    Raises ValueError for an unknown encoding or sizes it cannot hold.
    """
    if encoding not in _LAYOUTS:
        raise ValueError(f"unknown encoding `{encoding}`; known: {', '.join(_LAYOUTS)}")
    if geometry.group <= 0 or geometry.k % geometry.group:
        raise ValueError(f"K = {geometry.k} is no multiple of the group of {geometry.group}")
    return _LAYOUTS[encoding](geometry)


def _grouped(geometry: Geometry, dtype: str, per_element: int) -> Layout:
    n, groups, group = geometry.n, geometry.groups, geometry.group
    unit = max(per_element, 2)
    if group % unit:
        raise ValueError(f"a group of {group} is no multiple of {unit}")
    parts: Layout = {
        "codes": TensorLayout(dtype=dtype, shape=(n, groups, group // per_element)),
        "scales": TensorLayout(dtype="f16", shape=(n, groups)),
    }
    if geometry.zeros == "point":
        parts["zeros"] = TensorLayout(dtype="i8", shape=(n, groups))
    elif geometry.zeros == "offset":
        parts["offsets"] = TensorLayout(dtype="f16", shape=(n, groups))
    return parts


def in_tiles(encoding: str, geometry: Geometry) -> bool:
    """Tell whether a weight of these sizes lies in tiles."""
    return encoding == "i4-tiled" and geometry.n % TILE == 0 and geometry.group % 8 == 0


def _tiled(geometry: Geometry) -> Layout:
    rows = _grouped(geometry, "i4", 1)
    if not in_tiles("i4-tiled", geometry):
        return rows
    tiles, groups = geometry.n // TILE, geometry.groups
    return {
        part: replace(kept, shape=(tiles, groups, geometry.group // 8, TILE, 8) if part == "codes" else (
            tiles, groups, TILE
        ))
        for part, kept in rows.items()
    }


def _per_channel(geometry: Geometry, dtype: str, per_element: int) -> Layout:
    if geometry.k % per_element:
        raise ValueError(f"K = {geometry.k} is no multiple of {per_element}")
    if geometry.zeros != "none" or geometry.groups != 1:
        raise ValueError("fp8 weights have one scale an output channel and no zero points")
    return {
        "codes": TensorLayout(dtype=dtype, shape=(geometry.n, geometry.k // per_element)),
        "scales": TensorLayout(dtype="f32", shape=(geometry.n,)),
    }


_LAYOUTS: dict[str, Callable[[Geometry], Layout]] = {
    "i4-grouped": lambda geometry: _grouped(geometry, "i4", 1),
    "i4-tiled": _tiled,
    "u8-nibbles": lambda geometry: _grouped(geometry, "i32", 8),
    "i8-grouped": lambda geometry: _grouped(geometry, "i8", 1),
    "u8-words": lambda geometry: _grouped(geometry, "i32", 4),
    "e4m3-bits": lambda geometry: _per_channel(geometry, "i8", 1),
    "e4m3-words": lambda geometry: _per_channel(geometry, "i32", 4),
}
ENCODINGS: Mapping[Kind, tuple[str, ...]] = {
    "int4": ("i4-grouped", "i4-tiled", "u8-nibbles"),
    "int8": ("i8-grouped", "u8-words"),
    "fp8": ("e4m3-bits", "e4m3-words"),
}
"""Kind of codes to the encodings that can hold them."""
_FLIP = {"i4-grouped": 0x88, "i4-tiled": 0x88, "i8-grouped": 0x80}
"""Flipping a code's top bit turns it into the two's complement of code − 8, or − 128."""


def geometry_of(entry: Codes) -> Geometry:
    """Return the sizes of a canonical weight: codes uint8 [N, K], scales [N, G]."""
    n, k = entry.codes.shape
    return Geometry(n=n, k=k, group=k // entry.scales.shape[1], zeros=entry.zero_kind)


def pack(layer: str, entry: Codes, encoding: str) -> dict[str, Packed]:
    """Return ``<layer>.codes``, ``<layer>.scales`` and, where there are any, ``<layer>.zeros`` or ``.offsets``.

    Raises ValueError for an unknown or unfit encoding; IntegrityError for codes past their range, an fp8 NaN (the
    kernels decode it as ±480) or a scale that is not finite.
    """
    import numpy as np

    parts = layout(encoding, geometry_of(entry))
    _check(layer, entry, encoding)
    codes = entry.codes
    if entry.kind == "int4":
        codes = codes[:, 0::2] | (codes[:, 1::2] << 4)
    arrays = {"codes": codes ^ np.uint8(_FLIP.get(encoding, 0)), "scales": entry.scales, "offsets": entry.offsets}
    if entry.zeros is not None:
        arrays["zeros"] = (entry.zeros.astype(np.int16) - _middle(entry.kind)).astype(np.int8)
    if in_tiles(encoding, geometry_of(entry)):
        arrays = {part: _to_tiles(value, part) for part, value in arrays.items() if value is not None}
    made = {part: np.ascontiguousarray(arrays[part]) for part in parts}
    assert all(made[part].nbytes == parts[part].byte_count for part in parts)
    return {
        f"{layer}.{part}": Packed(payload=made[part], dtype=parts[part].dtype, shape=parts[part].shape)
        for part in parts
    }


def _to_tiles(rows: np.ndarray, part: str) -> np.ndarray:
    """Bring codes [N, K/2] or a part [N, G] to tiles; the bytes of eight codes stay together."""
    width = 4 if part == "codes" else 1
    return rows.reshape(rows.shape[0] // TILE, TILE, -1, width).transpose(0, 2, 1, 3)


def _from_tiles(tiles: np.ndarray, part: str, n: int) -> np.ndarray:
    """Bring the elements of a part in tiles back to rows."""
    width = 4 if part == "codes" else 1
    return tiles.reshape(n // TILE, -1, TILE, width).transpose(0, 2, 1, 3).reshape(n, -1)


def _middle(kind: Kind) -> int:
    return 1 << (BITS[kind] - 1)


def unpack(layer: str, stored: Mapping[str, bytes], kind: Kind, geometry: Geometry, encoding: str) -> Codes:
    """Return the canonical codes that an archive's bytes stand for.

    Raises IntegrityError if a part is missing or has another length than its layout.
    """
    import numpy as np

    raw = {part: _stored(f"{layer}.{part}", stored, kept) for part, kept in layout(encoding, geometry).items()}
    tiled = in_tiles(encoding, geometry)

    def rows(part: Part, dtype: type[np.generic]) -> np.ndarray:
        read = np.frombuffer(raw[part], dtype)
        return _from_tiles(read, part, geometry.n) if tiled else read.reshape(geometry.n, -1)

    codes = rows("codes", np.uint8) ^ np.uint8(_FLIP.get(encoding, 0))
    if kind == "fp8":
        return Codes(kind=kind, codes=codes, scales=rows("scales", np.float32))
    if kind == "int4":
        codes = np.stack([codes & 0x0F, codes >> 4], axis=-1).reshape(geometry.n, geometry.k)
    back = Codes(kind=kind, codes=codes, scales=rows("scales", np.float16))
    if geometry.zeros == "offset":
        return replace(back, offsets=rows("offsets", np.float16))
    if geometry.zeros == "none":
        return back
    zeros = (rows("zeros", np.int8).astype(np.int16) + _middle(kind)).astype(np.uint8)
    return replace(back, zeros=zeros)


def _stored(key: str, stored: Mapping[str, bytes], kind: TensorLayout) -> bytes:
    found = stored.get(key, b"")
    if len(found) != kind.byte_count:
        raise IntegrityError(f"parameter {key!r} has {len(found)} bytes, not {kind.byte_count}", where=key)
    return found


def _check(layer: str, entry: Codes, encoding: str) -> None:
    import numpy as np

    if encoding not in ENCODINGS[entry.kind]:
        raise ValueError(f"{encoding} does not hold {entry.kind} codes")
    wanted = np.float32 if entry.kind == "fp8" else np.float16
    if entry.codes.dtype != np.uint8 or entry.scales.dtype != wanted:
        raise ValueError(f"{encoding} takes uint8 codes and {wanted.__name__} scales, not those of {layer}")
    integers = [part for part in (entry.codes, entry.zeros) if part is not None]
    if entry.kind == "int4" and max(int(part.max(initial=0)) for part in integers) > 15:
        raise IntegrityError("an int4 code or zero point is past 15", where=layer)
    if entry.kind == "fp8" and ((entry.codes & 0x7F) == E4M3_NAN).any():
        raise IntegrityError("an fp8 weight holds NaN", where=layer, hint="the checkpoint is damaged")
    for part in (entry.scales, entry.offsets):
        if part is not None and not np.isfinite(part).all():
            raise IntegrityError("a scale is NaN or infinite", where=layer, hint="the checkpoint is damaged")
