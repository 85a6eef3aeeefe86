"""Restore: the weights of a detached quantised graph, back from the archives that a target's code reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from hwc import onnx_io
from hwc.errors import IntegrityError
from hwc.formats import BITS, Format, Kind, Zeros
from hwc.quantise.codes import Codes
from hwc.quantise.encodings import Geometry, unpack
from hwc.quantise.graph import onnx_tensors
from hwc.quantise.linears import FLOAT, Linear, attribute
from hwc.quantise.tiles import SUFFIXES, from_tiles

if TYPE_CHECKING:
    import numpy as np
    import onnx

CODES = ".codes"
UINT8 = 2
"""ONNX's number of uint8."""


def restore(
    model: onnx.ModelProto, stored: Mapping[str, bytes], encodings: Mapping[Kind, str]
) -> dict[str, np.ndarray]:
    """Return every weight of a detached graph, to the bit, from archive entries by key.

    ``encodings`` tells the encoding of each kind of codes. Raises IntegrityError for a weight that no archive holds,
    or that has another length than the graph says.
    """
    weights: dict[str, np.ndarray] = {}
    for linear in layers(model):
        weights.update(onnx_tensors(linear, codes_of(linear, stored, encodings)))
    for name in onnx_io.weight_names(model):
        if name not in weights:
            weights[name] = plain(model, name, stored)
    return weights


def codes_of(linear: Linear, stored: Mapping[str, bytes], encodings: Mapping[Kind, str]) -> Codes:
    """Return the canonical codes of one layer; raise IntegrityError if the archives do not hold them."""
    form = linear.format
    assert form is not None
    geometry = Geometry(n=linear.n, k=linear.k, group=form.group_size or linear.k, zeros=form.zeros)
    return unpack(linear.layer, stored, form.kind, geometry, encodings[form.kind])


def layers(model: onnx.ModelProto) -> Iterator[Linear]:
    """Yield each quantised layer of a detached graph once, with its sizes, its format and how it is used."""
    names = set(onnx_io.weight_names(model))
    inputs = {value.name: value.type.tensor_type for value in model.graph.input}
    shapes = {name: [dim.dim_value for dim in kind.shape.dim] for name, kind in inputs.items()}
    zeros: dict[int, Zeros] = {UINT8: "point", FLOAT: "offset"}
    multiplied = {node.input[2] for node in model.graph.node if node.op_type == "MatMulNBits"}
    seen: set[str] = set()
    for node in model.graph.node:
        name = next((name for name in node.input if name in names and name.endswith(CODES)), "")
        layer = name.removesuffix(CODES)
        if not name or layer in seen or node.op_type not in ("MatMulNBits", "GatherBlockQuantized", "DequantizeLinear"):
            continue
        seen.add(layer)
        sizes = shapes[name]
        if node.op_type == "DequantizeLinear":
            yield Linear(
                layer=layer, weight=layer, n=sizes[1], k=sizes[0], transposed=True, format=Format(kind="fp8")
            )
            continue
        kind: Kind = "int8" if attribute(node, "bits", 4) == BITS["int8"] else "int4"
        told = inputs.get(f"{layer}.zeros")
        form = Format(
            kind=kind, group_size=int(attribute(node, "block_size", 0)),
            zeros="none" if told is None else zeros[told.elem_type],
        )
        yield Linear(
            layer=layer, weight=layer, n=sizes[0], k=shapes[f"{layer}.scales"][1] * form.group_size, transposed=True,
            format=form, gathered=node.op_type == "GatherBlockQuantized", multiplied=f"{layer}.scales" in multiplied,
        )


def plain(model: onnx.ModelProto, name: str, stored: Mapping[str, bytes]) -> np.ndarray:
    """Return one weight that is stored in float; raise IntegrityError if its length is not the one that is declared."""
    import numpy as np
    from onnx import helper

    kind = next(value.type.tensor_type for value in model.graph.input if value.name == name)
    shape = [dim.dim_value for dim in kind.shape.dim]
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
    transposed = next((turned for turned, suffix in SUFFIXES.items() if f"{name}{suffix}" in stored), None)
    payload = stored.get(name if transposed is None else f"{name}{SUFFIXES[transposed]}", b"")
    expected_bytes = int(np.prod(shape)) * dtype.itemsize
    if len(payload) != expected_bytes:
        raise IntegrityError(f"weight {name!r} has {len(payload)} bytes, not {expected_bytes}", where=name)
    read = np.frombuffer(payload, dtype)
    return read.reshape(shape) if transposed is None else from_tiles(read, shape, transposed=transposed)
