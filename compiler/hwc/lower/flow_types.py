"""Types of the compiler's IR as element names, extents and bytes."""

from __future__ import annotations

import math
import re

from hwc.spec.hardware import BITS

_ELEMENTS = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "f8E4M3FN": "float8_e4m3fn",
    "f8E5M2": "float8_e5m2", "f4E2M1FN": "float4_e2m1fn", "i64": "int64", "i32": "int32", "i16": "int16",
    "i8": "int8", "i4": "int4", "i1": "bool", "index": "int64",
}  # fmt: skip
_TENSOR = re.compile(r"tensor<((?:[\d?]+x)*)([A-Za-z0-9]+)")


def _parsed(kind: object) -> tuple[str, str]:
    found = _TENSOR.search(str(kind))
    if found is None or found[2] not in _ELEMENTS:
        raise ValueError(f"no tensor of a known element type: {kind}")
    return found[1], _ELEMENTS[found[2]]


def element(kind: object) -> str:
    """Return the name of a tensor type's elements; raise ValueError for a type there is no name for."""
    return _parsed(kind)[1]


def dims(kind: object) -> tuple[int, ...]:
    """Return a tensor type's extents; raise ValueError where one is not static."""
    told = _parsed(kind)[0]
    if "?" in told:
        raise ValueError(f"a shape that is not static: {kind}")
    return tuple(int(extent) for extent in told.split("x") if extent)


def byte_count(kind: object) -> float:
    """Return the bytes of a tensor type, packed: two int4 share one."""
    return math.prod(dims(kind)) * BITS[element(kind)] / 8
