"""Restore: the weights of a detached quantised graph, back from the archives that a target's code reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from hwc import onnx_io
from hwc.errors import IntegrityError
from hwc.quantise.codes import Codes
from hwc.quantise.encodings import unpack
from hwc.quantise.graph import MS_DOMAIN, onnx_tensors
from hwc.quantise.linears import attribute

if TYPE_CHECKING:
    import numpy as np
    import onnx

CODES = ".codes"


def restore(model: onnx.ModelProto, stored: Mapping[str, bytes], encoding: str) -> dict[str, np.ndarray]:
    """Return every weight of a detached graph, to the bit, from archive entries by key.

    Raises IntegrityError for a weight that no archive holds, or that has another length than the graph says.
    """
    weights: dict[str, np.ndarray] = {}
    for layer, shapes in _quantised(model):
        weights.update(onnx_tensors(layer, unpack(layer, stored, shapes, encoding)))
    inputs = {value.name: value for value in model.graph.input}
    for name in onnx_io.weight_names(model):
        if name not in weights:
            weights[name] = _plain(inputs[name], stored)
    return weights


def _quantised(model: onnx.ModelProto) -> Iterator[tuple[str, Codes]]:
    """Yield each quantised layer once, with codes that have the right shapes and no values."""
    import numpy as np

    names = set(onnx_io.weight_names(model))
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.input}
    for node in model.graph.node:
        if node.op_type == "MatMulNBits" and node.domain == MS_DOMAIN:
            n, k = int(attribute(node, "N", 0)), int(attribute(node, "K", 0))
            groups = k // int(attribute(node, "block_size", k))
            scales = np.broadcast_to(np.float16(1), (n, groups))
            zeros = np.broadcast_to(np.uint8(0), (n, groups)) if len(node.input) > 3 else None
            codes = np.broadcast_to(np.uint8(0), (n, k))
            yield node.input[1].removesuffix(CODES), Codes(codes=codes, scales=scales, zeros=zeros)
        elif node.op_type == "DequantizeLinear" and node.input[0] in names and node.input[0].endswith(CODES):
            k, n = shapes[node.input[0]]
            codes, scale = np.broadcast_to(np.uint8(0), (n, k)), np.broadcast_to(np.float32(1), (n, 1))
            yield node.input[0].removesuffix(CODES), Codes(codes=codes, scales=scale)


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
