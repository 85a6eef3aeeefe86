"""The weights of a graph in blocked form (blocked.py): canonical codes to the initializers that it reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwc.formats import BITS
from hwc.quantise.codes import Codes
from hwc.quantise.linears import Linear

if TYPE_CHECKING:
    import numpy as np

SCALES = ".scales"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One initializer."""

    name: str
    data_type: int
    """ONNX's number of the type."""
    dims: tuple[int, ...]
    payload: np.ndarray
    """C-contiguous; its bytes are ONNX's raw data."""


def of_array(name: str, value: np.ndarray) -> Tensor:
    """Return an array of a whole number of bytes an element as an initializer."""
    import numpy as np
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    return Tensor(name=name, data_type=kind, dims=value.shape, payload=np.ascontiguousarray(value))


def tensors(linear: Linear, codes: Codes) -> Iterator[Tensor]:
    """Yield what the rewritten graph reads in place of one layer of integers.

    Where it is multiplied: ``codes`` int4 or int8 [K, N], uint4 or uint8 with zero points; ``scales`` f32 [G, N];
    ``zeros`` like the codes [G, N]; ``offsets`` f32 [G, N], counted from the middle code. Where its rows are read:
    ``row_codes`` int8 or uint8 [N, K], or uint8 [N, K/2] with the first half of a row in the low nibbles;
    ``row_scales`` f32 [N, G], ``row_zeros`` uint8 [N, G].
    """
    if linear.multiplied:
        yield from _multiplied(linear.layer, codes)
    if linear.gathered:
        yield from _gathered(linear.layer, codes)


def _multiplied(layer: str, codes: Codes) -> Iterator[Tensor]:
    import numpy as np

    scales = codes.scales.T.astype(np.float32)
    yield _integers(f"{layer}.codes", codes.codes.T, codes, signed=codes.zeros is None)
    yield of_array(f"{layer}{SCALES}", scales)
    if codes.zeros is not None:
        yield _integers(f"{layer}.zeros", codes.zeros.T, codes, signed=False)
    if codes.offsets is not None:
        middle = np.float32(1 << (BITS[codes.kind] - 1))
        yield of_array(f"{layer}.offsets", codes.offsets.T.astype(np.float32) + middle * scales)


def _gathered(layer: str, codes: Codes) -> Iterator[Tensor]:
    import numpy as np

    yield of_array(f"{layer}.row_scales", codes.scales.astype(np.float32))
    if codes.kind == "int4":
        half = codes.codes.shape[1] // 2
        yield of_array(f"{layer}.row_codes", codes.codes[:, :half] | (codes.codes[:, half:] << 4))
    else:
        yield _integers(f"{layer}.row_codes", codes.codes, codes, signed=codes.zeros is None)
    if codes.zeros is not None:
        yield of_array(f"{layer}.row_zeros", codes.zeros)


def _integers(name: str, values: np.ndarray, codes: Codes, *, signed: bool) -> Tensor:
    """Return integers of the codes' width; signed ones count from the middle code, which flips the top bit."""
    import numpy as np
    from onnx import TensorProto

    kinds: Mapping[tuple[int, bool], int] = {
        (4, True): TensorProto.INT4, (4, False): TensorProto.UINT4, (8, True): TensorProto.INT8,
        (8, False): TensorProto.UINT8,
    }
    bits = BITS[codes.kind]
    flat = np.ascontiguousarray(values).reshape(-1)
    flat = flat ^ np.uint8(1 << (bits - 1)) if signed else flat
    if codes.kind == "int4":
        flat = np.append(flat, np.uint8(0)) if len(flat) % 2 else flat
        flat = flat[0::2] | (flat[1::2] << 4)
    return Tensor(name=name, data_type=kinds[bits, signed], dims=values.shape, payload=flat)
