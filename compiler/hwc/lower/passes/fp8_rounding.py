"""A Cast to E4M3 and back, which rounds an activation, to float32 arithmetic that every target has.

The importer knows no Cast to float8, and not every target has the type. A float32 of E4M3's normal range keeps three
bits of its mantissa; one below 2^-6 is a multiple of 2^-9. Ties go to even, as in ONNX's Cast.
Source: Micikevicius et al., "FP8 Formats for Deep Learning", arXiv 2209.05433.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hwc.lower.passes import linalg
from hwc.lower.passes.graph import Operator, TensorType, operators
from hwc.lower.passes.linalg import Input, Output, Value

_BODY = (
    "%c20 = arith.constant 20 : i32",
    "%c1 = arith.constant 1 : i32",
    "%half = arith.constant 524287 : i32",
    "%kept = arith.constant -1048576 : i32",
    "%bits = arith.bitcast %x : f32 to i32",
    "%last = arith.shrui %bits, %c20 : i32",
    "%odd = arith.andi %last, %c1 : i32",
    "%up = arith.addi %bits, %half : i32",
    "%tied = arith.addi %up, %odd : i32",
    "%cut = arith.andi %tied, %kept : i32",
    "%normal = arith.bitcast %cut : i32 to f32",
    "%c512 = arith.constant 512.0 : f32",
    "%inverse = arith.constant 0.001953125 : f32",
    "%times = arith.mulf %x, %c512 : f32",
    "%whole = math.roundeven %times : f32",
    "%small = arith.mulf %whole, %inverse : f32",
    "%size = math.absf %x : f32",
    "%least = arith.constant 0.015625 : f32",
    "%below = arith.cmpf olt, %size, %least : f32",
    "%rounded = arith.select %below, %small, %normal : f32",
)


def rewrite(lines: Sequence[str]) -> list[str]:
    """Return the module with every pair of Casts, float32 to E4M3 and back, written as arithmetic.

    The values must lie within ±448: what the graph clips before. Raises ValueError for a Cast to E4M3 that something
    else reads, or of another type than float32.
    """
    written = list(lines)
    for index, (to, back) in enumerate(_pairs(lines)):
        written[to.line] = f"    // {lines[to.line].strip()}"
        written[back.line] = "\n".join([f"    // {lines[back.line].strip()}", *_emit(to, back, f"fp8r{index}")])
    return "\n".join(written).splitlines()


def _pairs(lines: Sequence[str]) -> Iterator[tuple[Operator, Operator]]:
    casts = list(operators(lines, frozenset({"Cast"})))
    readers = {entry.operands[0]: entry for entry in casts}
    for entry in casts:
        if entry.type is None or entry.type.dtype != "f8E4M3FN":
            continue
        back = readers.get(entry.result)
        uses = sum(line.count(f"{entry.result} ") + line.count(f"{entry.result})") for line in lines)
        if back is None or back.type is None or uses > 2:
            raise ValueError(f"the Cast to E4M3 {entry.result} is not read by one Cast back to float32")
        if any(kind is None or kind.dtype != "f32" for kind in (*entry.types[:1], back.type)):
            raise ValueError(f"the Cast to E4M3 {entry.result} is not from and to a static float32")
        yield entry, back


def _emit(to: Operator, back: Operator, prefix: str) -> list[str]:
    kind = back.type
    assert kind is not None
    source, result = _value(f"%{prefix}.x", kind), _value(f"%{prefix}.y", kind)
    start = _value(f"%{prefix}.empty", kind)
    loops = [f"d{axis}" for axis in range(len(kind.shape))]
    lines = [
        f"{source.name} = torch_c.to_builtin_tensor {to.operands[0]} : {kind.torch()} -> {kind.builtin()}",
        linalg.empty(start),
        *linalg.generic(
            loops, [Input(value=source, loops=loops, element="x")], Output(value=result, loops=loops, start=start),
            _BODY,
        ),
        f"{back.result} = torch_c.from_builtin_tensor {result.name} : {kind.builtin()} -> {kind.torch()}",
    ]
    return [f"    {line}" for line in lines]


def _value(name: str, kind: TensorType) -> Value:
    return Value(name=name, type=kind)
