"""GatherBlockQuantized of a packed parameter: the rows' codes are read by number, then decoded.

Source: the GatherBlockQuantized specification in ONNX Runtime's ContribOperators.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hwc.formats import Kind
from hwc.lower.passes import linalg
from hwc.lower.passes.graph import Operator, TensorType, operators
from hwc.lower.passes.linalg import Input, Output, Value
from hwc.lower.passes.linear import Kernel, dequantise, f32, load
from hwc.lower.passes.matmul_nbits import KINDS, zeros_of
from hwc.quantise.encodings import TILE, Geometry, Layout, Part


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantisedRows:
    """A gather that was matched: ``result[…, K] = W[N, K][ids[…]]``."""

    lines: tuple[int, ...]
    layer: str
    kind: Kind
    result: str
    ids: str
    ids_type: TensorType
    result_type: TensorType
    geometry: Geometry


def find(lines: Sequence[str], keys: Mapping[str, str]) -> list[QuantisedRows]:
    """Match every GatherBlockQuantized; ``keys`` maps a value to its parameter's key.

    Takes codes uint8 [N, bytes of a row], ids of any static shape, scales [N, G], optional zero points. Raises
    ValueError for other axes or bit widths, dynamic shapes, or codes that are no named parameter.
    """
    return [_rows(entry, keys) for entry in operators(lines, frozenset({"GatherBlockQuantized"}))]


def _rows(entry: Operator, keys: Mapping[str, str]) -> QuantisedRows:
    where = f"GatherBlockQuantized {entry.result}"
    bits = entry.attributes.get("bits", 4)
    told = entry.types[:3] if len(entry.types) >= 3 else (None,) * 3
    codes, ids, scales = told
    if bits not in KINDS or entry.attributes.get("gather_axis", 0) != 0:
        raise ValueError(f"{where} has {bits} bits or reads no rows; only 4 and 8 bits and axis 0 are lowered")
    if codes is None or ids is None or scales is None or entry.type is None or len(codes.shape) != 2:
        raise ValueError(f"{where} needs static codes [N, bytes], ids and scales [N, G]")
    key = keys.get(entry.operands[0], "")
    if not key.endswith(".codes"):
        raise ValueError(f"{where} reads its codes from {key or entry.operands[0]!r}, no parameter named *.codes")
    n, k = codes.shape[0], codes.shape[1] * 8 // bits
    geometry = Geometry(
        n=n, k=k, group=entry.attributes["block_size"],
        zeros=zeros_of(entry.types[3] if len(entry.types) > 3 else None),
    )
    return QuantisedRows(
        lines=(entry.line,), layer=key.removesuffix(".codes"), kind=KINDS[bits], result=entry.result,
        ids=entry.operands[1], ids_type=ids, result_type=entry.type, geometry=geometry,
    )


def emit(rows: QuantisedRows, kernel: Kernel, layout: Layout, prefix: str) -> list[str]:
    """Return the lines that compute ``rows``; every value they define begins with ``%{prefix}.``.

    ``kernel`` decodes codes that lie by row: those in tiles are brought to rows as they are read.

    A number outside the table reads the nearest row of it: no input can make the code read past its end.
    """
    count = math.prod(rows.ids_type.shape)
    parts, lines = load(rows.layer, layout, prefix)
    numbers, made = _numbers(rows, count, prefix)
    lines += made
    gathered: dict[Part, Value] = {}
    tiled = len(parts["codes"].type.shape) > 3 and rows.kind == "int4"
    for part, table in parts.items():
        still = (rows.geometry.groups, rows.geometry.group)[: 2 if part == "codes" else 1]
        shape = (count, *(still if tiled else table.type.shape[1:]))
        gathered[part] = Value(name=f"{table.name}.rows", type=replace(table.type, shape=shape))
        lines += _gather(table, numbers, gathered[part], rows.geometry.n, tiled=tiled)
    sizes = (count, *(size for _, size in kernel.loops[1:]))
    weight = f32(f"%{prefix}.weight", sizes)
    lines += dequantise(kernel, gathered, weight, prefix)
    flat = f32(f"%{prefix}.flat", (count, rows.geometry.k))
    lines += linalg.reshape(weight, flat)
    shaped = f32(f"%{prefix}.out", rows.result_type.shape)
    if shaped.type.shape != flat.type.shape:
        lines += linalg.reshape(flat, shaped)
        flat = shaped
    kinds = f"{flat.type.builtin()} -> {rows.result_type.torch()}"
    lines.append(f"{rows.result} = torch_c.from_builtin_tensor {flat.name} : {kinds}")
    return [f"    {line}" for line in lines]


def _numbers(rows: QuantisedRows, count: int, prefix: str) -> tuple[Value, list[str]]:
    """Bring the ids to the shape [count]."""
    dtype = rows.ids_type.dtype.removeprefix("s")
    ids = Value(name=f"%{prefix}.ids", type=replace(rows.ids_type, dtype=dtype))
    lines = [
        f"{ids.name} = torch_c.to_builtin_tensor {rows.ids} : {rows.ids_type.torch()} -> {ids.type.builtin()}"
    ]
    flat = Value(name=f"%{prefix}.numbers", type=TensorType(shape=(count,), dtype=dtype))
    if ids.type.shape == flat.type.shape:
        return ids, lines
    return flat, [*lines, *linalg.reshape(ids, flat)]


def _gather(table: Value, numbers: Value, result: Value, n: int, *, tiled: bool) -> list[str]:
    loops = ["m", *(f"d{axis}" for axis in range(1, len(result.type.shape)))]
    dtype = numbers.type.dtype
    indices = [f"%i{axis}" for axis in range(1, len(loops))]
    found, at = _in_tiles(indices) if tiled else ([], ["%row", *indices])
    body = [
        f"%least = arith.constant 0 : {dtype}",
        f"%most = arith.constant {n - 1} : {dtype}",
        f"%above = arith.maxsi %number, %least : {dtype}",
        f"%within = arith.minsi %above, %most : {dtype}",
        f"%row = arith.index_cast %within : {dtype} to index",
        *(f"%i{axis} = linalg.index {axis} : index" for axis in range(1, len(loops))),
        *found,
        f"%element = tensor.extract {table.name}[{', '.join(at)}] : {table.type.builtin()}",
    ]
    start = Value(name=f"{result.name}.empty", type=result.type)
    output = Output(value=result, loops=loops, start=start)
    inputs = [Input(value=numbers, loops=["m"], element="number")]
    return [linalg.empty(start), *linalg.generic(loops, inputs, output, body)]


def _in_tiles(indices: list[str]) -> tuple[list[str], list[str]]:
    """Return the lines that find a row's element in tiles by its group, and its place in it; and the indices there."""
    lines = [
        f"%height = arith.constant {TILE} : index", "%tile = arith.divui %row, %height : index",
        "%lane = arith.remui %row, %height : index",
    ]
    if len(indices) == 1:
        return lines, ["%tile", *indices, "%lane"]
    group, place = indices
    lines += [
        "%eight = arith.constant 8 : index", f"%eights = arith.divui {place}, %eight : index",
        f"%rest = arith.remui {place}, %eight : index",
    ]
    return lines, ["%tile", group, "%eights", "%lane", "%rest"]
