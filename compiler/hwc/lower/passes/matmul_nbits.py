"""MatMulNBits with 4 or 8 bits to a packed parameter, its dequantisation and a grouped contraction.

Source: the MatMulNBits specification in ONNX Runtime's ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hwc.formats import Kind, Zeros
from hwc.lower.passes import int8_rounding
from hwc.lower.passes.graph import Operator, TensorType, operators
from hwc.lower.passes.linear import Kernel, QuantisedLinear, share_of
from hwc.quantise.encodings import TILE, Geometry, Part, in_tiles

KINDS: Mapping[int, Kind] = {4: "int4", 8: "int8"}


def find(lines: Sequence[str], keys: Mapping[str, str]) -> list[QuantisedLinear]:
    """Match every MatMulNBits; ``keys`` maps a value to its parameter's key.

    Takes x float32 […, K], codes uint8 [N, G, bytes of a group], by way of a Reshape or not, scales [N, G], and
    optional zero points, packed uint8 or f32 [N, G]. In a sharded graph N and K are those of the device's share, and
    the codes' shape tells the whole. Raises ValueError for other bit widths, a bias, a group index,
    dynamic shapes, or codes that are no named parameter.
    """
    found = list(operators(lines, frozenset({"MatMulNBits", "Reshape"})))
    reshapes = {entry.result: entry for entry in found if entry.name == "Reshape"}
    rounded = int8_rounding.find(lines)
    linears = [_linear(entry, keys, reshapes) for entry in found if entry.name == "MatMulNBits"]
    return [replace(linear, unrounded=rounded.get(linear.x, "")) for linear in linears]


def _linear(entry: Operator, keys: Mapping[str, str], reshapes: Mapping[str, Operator]) -> QuantisedLinear:
    where = f"MatMulNBits {entry.result}"
    bits = entry.attributes.get("bits", 4)
    if bits not in KINDS:
        raise ValueError(f"{where} has {bits} bits; only 4 and 8 are lowered")
    if any(kind is not None for kind in entry.types[4:]):
        raise ValueError(f"{where} has a group index or a bias, which are not lowered")
    x_type = entry.types[0] if entry.types else None
    if x_type is None or entry.type is None or x_type.dtype != "f32" or len(x_type.shape) < 2:
        raise ValueError(f"{where} needs a static float32 input of rank 2 or more")
    reshape = reshapes.get(entry.operands[1])
    source = reshape.operands[0] if reshape else entry.operands[1]
    key = keys.get(source, "")
    if not key.endswith(".codes"):
        raise ValueError(f"{where} reads its codes from {key or source!r}, no parameter named *.codes")
    codes = entry.types[1]
    if codes is None or len(codes.shape) != 3:
        raise ValueError(f"{where} needs codes [N, G, bytes of a group]")
    geometry = Geometry(
        n=entry.attributes["N"], k=entry.attributes["K"], group=entry.attributes["block_size"],
        zeros=zeros_of(entry.types[3] if len(entry.types) > 3 else None),
    )
    whole = replace(geometry, n=codes.shape[0], k=codes.shape[1] * geometry.group)
    return QuantisedLinear(
        lines=(entry.line,) if reshape is None else (reshape.line, entry.line), layer=key.removesuffix(".codes"),
        kind=KINDS[bits], result=entry.result, x=entry.operands[0], x_type=x_type, result_type=entry.type,
        geometry=geometry, share=share_of(entry, whole),
    )


def zeros_of(kind: TensorType | None) -> Zeros:
    """Tell what an operand of zero points is: integers, or offsets in float."""
    return "none" if kind is None else "offset" if kind.dtype == "f32" else "point"


def i4_grouped(geometry: Geometry) -> Kernel:
    """Decode i4 codes [N, G, g], stored as code − 8: ``weight = (code − zero) · scale`` in float32."""
    return _signed(geometry, "i4", 8)


def i4_tiled(geometry: Geometry) -> Kernel:
    """Decode i4 codes in tiles [N/16, G, g/8, 16, 8], stored as code − 8; as `i4_grouped` where there are none."""
    if not in_tiles("i4-tiled", geometry):
        return i4_grouped(geometry)
    body = ["%code = arith.extsi %codes : i4 to i32", *_weight(geometry, 8)]
    loops = (
        ("t", geometry.n // TILE), ("n", TILE), ("g", geometry.groups), ("e", geometry.group // 8), ("k", 8),
    )
    return Kernel(
        loops=loops, indexing={"codes": ("t", "g", "e", "n", "k"), **_group_loops(geometry, ("t", "g", "n"))},
        body=tuple(body), outer=2,
    )


def i8_grouped(geometry: Geometry) -> Kernel:
    """Decode i8 codes [N, G, g], stored as code − 128."""
    return _signed(geometry, "i8", 128)


def _signed(geometry: Geometry, dtype: str, middle: int) -> Kernel:
    body = [f"%code = arith.extsi %codes : {dtype} to i32", *_weight(geometry, middle)]
    return Kernel(
        loops=(("n", geometry.n), ("g", geometry.groups), ("k", geometry.group)),
        indexing={"codes": ("n", "g", "k"), **_group_loops(geometry)},
        body=tuple(body),
    )


def u8_nibbles(geometry: Geometry) -> Kernel:
    """Decode i32 words [N, G, g/8], eight codes each from the lowest nibble up."""
    return _words(geometry, bits=4)


def u8_words(geometry: Geometry) -> Kernel:
    """Decode i32 words [N, G, g/4], four codes each from the lowest byte up."""
    return _words(geometry, bits=8)


def _words(geometry: Geometry, *, bits: int) -> Kernel:
    middle, each = 1 << (bits - 1), 32 // bits
    body = [
        f"%mask = arith.constant {(1 << bits) - 1} : i32",
        f"%middle = arith.constant {middle} : i32",
        "%low = arith.shrui %codes, %shift : i32",
        "%plain = arith.andi %low, %mask : i32",
        "%code = arith.subi %plain, %middle : i32",
        *_weight(geometry, middle),
    ]
    return Kernel(
        loops=(("n", geometry.n), ("g", geometry.groups), ("w", geometry.group // each), ("i", each)),
        indexing={"codes": ("n", "g", "w"), **_group_loops(geometry)},
        body=tuple(body),
        shifts=tuple(range(0, 32, bits)),
    )


def _group_loops(geometry: Geometry, loops: tuple[str, ...] = ("n", "g")) -> dict[Part, tuple[str, ...]]:
    more: dict[Zeros, tuple[Part, ...]] = {"none": (), "point": ("zeros",), "offset": ("offsets",)}
    parts: tuple[Part, ...] = ("scales", *more[geometry.zeros])
    return dict.fromkeys(parts, loops)


def _weight(geometry: Geometry, middle: int) -> list[str]:
    """Turn %code, the code less the middle one, into %weight."""
    scale = ["%scale = arith.extf %scales : f16 to f32"]
    if geometry.zeros == "offset":
        return [
            f"%from = arith.constant {middle} : i32",
            "%level = arith.addi %code, %from : i32",
            "%float = arith.sitofp %level : i32 to f32",
            *scale,
            "%scaled = arith.mulf %float, %scale : f32",
            "%offset = arith.extf %offsets : f16 to f32",
            "%weight = arith.addf %scaled, %offset : f32",
        ]
    point = ["%zero = arith.extsi %zeros : i8 to i32", "%level = arith.subi %code, %zero : i32"]
    level = "%code" if geometry.zeros == "none" else "%level"
    return [
        *(point if geometry.zeros == "point" else []),
        f"%float = arith.sitofp {level} : i32 to f32",
        *scale,
        "%weight = arith.mulf %float, %scale : f32",
    ]
