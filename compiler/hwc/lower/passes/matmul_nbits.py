"""MatMulNBits with 4 bits to a packed int4 parameter, its dequantisation and a grouped contraction.

Source: the MatMulNBits specification in ONNX Runtime's ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hwc.lower.passes.graph import Operator, operators
from hwc.lower.passes.linear import Kernel, QuantisedLinear
from hwc.quantise.encodings import Geometry, Part


def find(lines: Sequence[str], keys: Mapping[str, str]) -> list[QuantisedLinear]:
    """Match every MatMulNBits; ``keys`` maps a value to its parameter's key.

    Takes x float32 […, K], codes uint8 [N, G, g/2], scales [N, G], optional zero points [N, ⌈G/2⌉]. Raises
    ValueError for other bit widths, a bias, a group index, dynamic shapes, or codes that are no named parameter.
    """
    return [_linear(entry, keys) for entry in operators(lines, frozenset({"MatMulNBits"}))]


def _linear(entry: Operator, keys: Mapping[str, str]) -> QuantisedLinear:
    where = f"MatMulNBits {entry.result}"
    bits = entry.attributes.get("bits", 4)
    if bits != 4:
        raise ValueError(f"{where} has {bits} bits; only 4 are lowered")
    if any(kind is not None for kind in entry.types[4:]):
        raise ValueError(f"{where} has a group index or a bias, which are not lowered")
    x_type = entry.types[0] if entry.types else None
    if x_type is None or entry.type is None or x_type.dtype != "f32" or len(x_type.shape) < 2:
        raise ValueError(f"{where} needs a static float32 input of rank 2 or more")
    key = keys.get(entry.operands[1], "")
    if not key.endswith(".codes"):
        raise ValueError(f"{where} reads its codes from {key or entry.operands[1]!r}, no parameter named *.codes")
    geometry = Geometry(
        n=entry.attributes["N"],
        k=entry.attributes["K"],
        group=entry.attributes["block_size"],
        zeros=len(entry.types) > 3 and entry.types[3] is not None,
    )
    return QuantisedLinear(
        lines=(entry.line,), layer=key.removesuffix(".codes"), result=entry.result,
        x=entry.operands[0], x_type=x_type, result_type=entry.type, geometry=geometry,
    )


def i4_grouped(geometry: Geometry) -> Kernel:
    """Decode i4 codes [N, G, g], stored as code − 8: ``weight = (code − zero) · scale`` in float32."""
    body = ["%code = arith.extsi %codes : i4 to i32", *_weight(geometry)]
    return Kernel(
        loops=(("n", geometry.n), ("g", geometry.groups), ("k", geometry.group)),
        indexing={"codes": ("n", "g", "k"), **_group_loops(geometry)},
        body=tuple(body),
    )


def u8_nibbles(geometry: Geometry) -> Kernel:
    """Decode i32 words [N, G, g/8], eight codes each from the lowest nibble up."""
    body = [
        "%c15 = arith.constant 15 : i32",
        "%c8 = arith.constant 8 : i32",
        "%low = arith.shrui %codes, %shift : i32",
        "%nibble = arith.andi %low, %c15 : i32",
        "%code = arith.subi %nibble, %c8 : i32",
        *_weight(geometry),
    ]
    return Kernel(
        loops=(("n", geometry.n), ("g", geometry.groups), ("w", geometry.group // 8), ("i", 8)),
        indexing={"codes": ("n", "g", "w"), **_group_loops(geometry)},
        body=tuple(body),
        shifts=tuple(range(0, 32, 4)),
    )


def _group_loops(geometry: Geometry) -> dict[Part, tuple[str, ...]]:
    parts: tuple[Part, ...] = ("scales", "zeros") if geometry.zeros else ("scales",)
    return dict.fromkeys(parts, ("n", "g"))


def _weight(geometry: Geometry) -> list[str]:
    offset = [
        "%zero = arith.extsi %zeros : i8 to i32",
        "%level = arith.subi %code, %zero : i32",
        "%float = arith.sitofp %level : i32 to f32",
    ]
    plain = ["%float = arith.sitofp %code : i32 to f32"]
    return [
        *(offset if geometry.zeros else plain),
        "%scale = arith.extf %scales : f16 to f32",
        "%weight = arith.mulf %float, %scale : f32",
    ]
