"""The tensor types a GGUF file may hold: how many values a block has and how many bytes it takes (ggml's own table)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorType:
    """How one type stores values: in blocks along the last axis."""

    name: str
    block_values: int
    block_bytes: int


def _plain(name: str, value_bytes: int) -> TensorType:
    return TensorType(name=name, block_values=1, block_bytes=value_bytes)


def _short(name: str, block_bytes: int) -> TensorType:
    return TensorType(name=name, block_values=32, block_bytes=block_bytes)


def _long(name: str, block_bytes: int) -> TensorType:
    return TensorType(name=name, block_values=256, block_bytes=block_bytes)


TYPES: dict[int, TensorType] = {
    0: _plain("F32", 4),
    1: _plain("F16", 2),
    2: _short("Q4_0", 18),
    3: _short("Q4_1", 20),
    6: _short("Q5_0", 22),
    7: _short("Q5_1", 24),
    8: _short("Q8_0", 34),
    9: _short("Q8_1", 40),
    10: _long("Q2_K", 84),
    11: _long("Q3_K", 110),
    12: _long("Q4_K", 144),
    13: _long("Q5_K", 176),
    14: _long("Q6_K", 210),
    15: _long("Q8_K", 292),
    16: _long("IQ2_XXS", 66),
    17: _long("IQ2_XS", 74),
    18: _long("IQ3_XXS", 98),
    19: _long("IQ1_S", 50),
    20: _short("IQ4_NL", 18),
    21: _long("IQ3_S", 110),
    22: _long("IQ2_S", 82),
    23: _long("IQ4_XS", 136),
    24: _plain("I8", 1),
    25: _plain("I16", 2),
    26: _plain("I32", 4),
    27: _plain("I64", 8),
    28: _plain("F64", 8),
    29: _long("IQ1_M", 56),
    30: _plain("BF16", 2),
    34: _long("TQ1_0", 54),
    35: _long("TQ2_0", 66),
    39: _short("MXFP4", 17),
}
"""By the number that stands in the file. The numbers between were retired by ggml."""
