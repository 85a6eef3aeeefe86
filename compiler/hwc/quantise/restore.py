"""Restore: the weights of a detached quantised graph, back from the archives that a target's code reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from hwc import onnx_io
from hwc.errors import IntegrityError
from hwc.quantise.encodings import Geometry, unpack
from hwc.quantise.formats import BITS, Format, Kind, Zeros
from hwc.quantise.graph import onnx_tensors
from hwc.quantise.linears import FLOAT, Linear, attribute

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
    for linear in _quantised(model):
        form = linear.format
        assert form is not None
        geometry = Geometry(n=linear.n, k=linear.k, group=form.group_size or linear.k, zeros=form.zeros)
        codes = unpack(linear.layer, stored, form.kind, geometry, encodings[form.kind])
        weights.update(onnx_tensors(linear, codes))
    inputs = {value.name: value for value in model.graph.input}
    for name in onnx_io.weight_names(model):
        if name not in weights:
            weights[name] = _plain(inputs[name], stored)
    return weights


def _quantised(model: onnx.ModelProto) -> Iterator[Linear]:
    """Yield each quantised layer once, with its sizes and its format."""
    names = set(onnx_io.weight_names(model))
    inputs = {value.name: value.type.tensor_type for value in model.graph.input}
    shapes = {name: [dim.dim_value for dim in kind.shape.dim] for name, kind in inputs.items()}
    zeros: dict[int, Zeros] = {UINT8: "point", FLOAT: "offset"}
    seen: set[str] = set()
    for node in model.graph.node:
        name = next((name for name in node.input if name in names and name.endswith(CODES)), "")
        layer = name.removesuffix(CODES)
        if not name or layer in seen or node.op_type not in ("MatMulNBits", "GatherBlockQuantized", "DequantizeLinear"):
            continue
        seen.add(layer)
        sizes = shapes[name]
        if node.op_type == "DequantizeLinear":
            yield _layer(layer, n=sizes[1], k=sizes[0], form=Format(kind="fp8"))
            continue
        kind: Kind = "int8" if attribute(node, "bits", 4) == BITS["int8"] else "int4"
        told = inputs.get(f"{layer}.zeros")
        form = Format(
            kind=kind, group_size=int(attribute(node, "block_size", 0)),
            zeros="none" if told is None else zeros[told.elem_type],
        )
        k = shapes[f"{layer}.scales"][1] * form.group_size
        yield _layer(layer, n=sizes[0], k=k, form=form, gathered=node.op_type == "GatherBlockQuantized")


def _layer(layer: str, *, n: int, k: int, form: Format, gathered: bool = False) -> Linear:
    return Linear(layer=layer, weight=layer, n=n, k=k, transposed=True, format=form, gathered=gathered)


def _plain(value: onnx.ValueInfoProto, stored: Mapping[str, bytes]) -> np.ndarray:
    import numpy as np
    from onnx import helper

    kind = value.type.tensor_type
    shape = [dim.dim_value for dim in kind.shape.dim]
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
    payload = stored.get(value.name, b"")
    expected_bytes = int(np.prod(shape)) * dtype.itemsize
    if len(payload) != expected_bytes:
        raise IntegrityError(f"weight {value.name!r} has {len(payload)} bytes, not {expected_bytes}", where=value.name)
    return np.frombuffer(payload, dtype).reshape(shape)
