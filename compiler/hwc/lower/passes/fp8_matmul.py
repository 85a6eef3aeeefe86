"""DequantizeLinear of E4M3 codes and its MatMul to a packed parameter decoded by bits.

An E4M3 code shifted up by 7 is the float16 of the same value times 2^-8 (the exponent biases are 7 and 15), for
subnormals too. Float16 on the way, rather than float32 times 2^120: there E4M3's subnormals would be float32
subnormals, which IREE's CPU workers flush to zero (measured: error 4.7e-6 of the largest against 5.7e-7). A NaN
would decode as ±480; `hwc.quantise.encodings.pack` refuses it, which costs nothing at run time.
Source: Micikevicius et al., "FP8 Formats for Deep Learning", arXiv 2209.05433.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hwc.lower.passes.graph import Operator, operators
from hwc.lower.passes.linear import Kernel, QuantisedLinear, share_of
from hwc.quantise.encodings import Geometry

SHARE = "HwcFp8MatMul"
"""ONNX operator of a sharded graph: x by a share of the weight that codes [K, N] and scales [N] stand for."""


def find(lines: Sequence[str], keys: Mapping[str, str]) -> list[QuantisedLinear]:
    """Match every MatMul whose second operand is a DequantizeLinear of a float8 parameter, and every share of one.

    Takes x float32 […, K], codes f8E4M3FN [K, N], scales float32 [N] along axis 1. Raises ValueError for other
    axes or scale shapes, dynamic shapes, or codes that are no named parameter.
    """
    found = list(operators(lines, frozenset({"DequantizeLinear", "MatMul"})))
    weights = {entry.result: entry for entry in found if _is_fp8(entry)}
    matmuls = [entry for entry in found if entry.name == "MatMul" and entry.operands[1] in weights]
    whole = [_linear(entry, weights[entry.operands[1]], keys) for entry in matmuls]
    return whole + [_share(entry, keys) for entry in operators(lines, frozenset({SHARE}))]


def _share(entry: Operator, keys: Mapping[str, str]) -> QuantisedLinear:
    where = f"the fp8 share {entry.result}"
    x_type, codes = entry.types[:2] if entry.types else (None, None)
    if x_type is None or codes is None or entry.type is None:
        raise ValueError(f"{where} needs static types")
    k, n = codes.shape
    share = share_of(entry, Geometry(n=n, k=k, group=k))
    if share is None:
        raise ValueError(f"{where} names no device")
    part = x_type.shape[-1]
    return QuantisedLinear(
        lines=(entry.line,), layer=_layer(where, entry.operands[1], keys), kind="fp8", result=entry.result,
        x=entry.operands[0], x_type=x_type, result_type=entry.type,
        geometry=Geometry(n=entry.type.shape[-1], k=part, group=part), share=share,
    )


def _layer(where: str, codes: str, keys: Mapping[str, str]) -> str:
    key = keys.get(codes, "")
    if not key.endswith(".codes"):
        raise ValueError(f"{where} reads its codes from {key or codes!r}, no parameter named *.codes")
    return key.removesuffix(".codes")


def _is_fp8(entry: Operator) -> bool:
    kind = entry.types[0] if entry.types else None
    return entry.name == "DequantizeLinear" and kind is not None and kind.dtype == "f8E4M3FN"


def _linear(matmul: Operator, weight: Operator, keys: Mapping[str, str]) -> QuantisedLinear:
    where = f"the fp8 MatMul {matmul.result}"
    codes, scales = weight.types[0], weight.types[1]
    x_type = matmul.types[0] if matmul.types else None
    if x_type is None or matmul.type is None or x_type.dtype != "f32" or len(x_type.shape) < 2:
        raise ValueError(f"{where} needs a static float32 input of rank 2 or more")
    if codes is None or scales is None or len(codes.shape) != 2 or len(weight.types) > 2:
        raise ValueError(f"{where} needs codes [K, N] and scales [N], and no zero point")
    k, n = codes.shape
    if weight.attributes.get("axis", 1) not in (1, -1) or scales.shape != (n,):
        raise ValueError(f"{where} needs one scale for each of its {n} output channels, along axis 1")
    return QuantisedLinear(
        lines=(weight.line, matmul.line), layer=_layer(where, weight.operands[0], keys), kind="fp8",
        result=matmul.result, x=matmul.operands[0], x_type=x_type, result_type=matmul.type,
        geometry=Geometry(n=n, k=k, group=k),
    )


def e4m3_bits(geometry: Geometry) -> Kernel:
    """Decode i8 codes [N, K]; the sign comes with the sign extension."""
    body = (
        "%c7 = arith.constant 7 : i16",
        "%mask = arith.constant 0xBF80 : i16",
        "%wide = arith.extsi %codes : i8 to i16",
        "%high = arith.shli %wide, %c7 : i16",
        "%bits = arith.andi %high, %mask : i16",
        *_value(),
    )
    return Kernel(
        loops=(("n", geometry.n), ("k", geometry.k)), indexing={"codes": ("n", "k")}, body=body, scale_product=True
    )


def e4m3_words(geometry: Geometry) -> Kernel:
    """Decode i32 words [N, K/4], four codes each from the lowest byte up."""
    body = (
        "%c7 = arith.constant 7 : i32",
        "%c8 = arith.constant 8 : i32",
        "%low = arith.shrui %codes, %shift : i32",
        "%c127 = arith.constant 127 : i32",
        "%c128 = arith.constant 128 : i32",
        "%magnitude = arith.andi %low, %c127 : i32",
        "%sign = arith.andi %low, %c128 : i32",
        "%magnitude16 = arith.shli %magnitude, %c7 : i32",
        "%sign16 = arith.shli %sign, %c8 : i32",
        "%bits32 = arith.ori %magnitude16, %sign16 : i32",
        "%bits = arith.trunci %bits32 : i32 to i16",
        *_value(),
    )
    return Kernel(
        loops=(("n", geometry.n), ("w", geometry.k // 4), ("i", 4)), indexing={"codes": ("n", "w")},
        body=body, shifts=(0, 8, 16, 24), scale_product=True,
    )


def _value() -> tuple[str, ...]:
    return (
        "%half = arith.bitcast %bits : i16 to f16",
        "%small = arith.extf %half : f16 to f32",
        "%c256 = arith.constant 256.0 : f32",
        "%weight = arith.mulf %small, %c256 : f32",
    )
