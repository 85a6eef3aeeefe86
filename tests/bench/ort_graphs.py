"""ONNX graphs as ONNX Runtime is to run them: other encodings of the same codes, and weights beside the graph."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.external_data_helper import set_external_data

LEAST_OUTSIDE = 1024
"""Bytes from which on a weight lies outside the graph."""
_ALIGN = 4096


def with_accuracy(model: onnx.ModelProto, level: int) -> onnx.ModelProto:
    """Return the graph with every MatMulNBits at an accuracy level: 1 float32 inside, 4 int8 inside."""
    changed = _copied(model)
    for node in changed.graph.node:
        for entry in node.attribute:
            if node.op_type == "MatMulNBits" and entry.name == "accuracy_level":
                entry.i = level
    return changed


def has_int4(model: onnx.ModelProto) -> bool:
    """Tell whether any product holds 4-bit codes, for which ONNX Runtime has kernels on CPUs."""
    products = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    return any(entry.i == 4 for node in products for entry in node.attribute if entry.name == "bits")


def as_qdq(model: onnx.ModelProto, coded: Mapping[str, Any]) -> onnx.ModelProto:
    """Return the graph with each int4 MatMulNBits as a blocked DequantizeLinear and a MatMul, weights [K, N].

    ``coded`` holds the codes by layer; symmetric ones alone can be told so.
    """
    changed = _copied(model)
    nodes, tensors, replaced = [], [], set[str]()
    for node in model.graph.node:
        layer = node.input[1].removesuffix(".codes") if node.op_type == "MatMulNBits" else ""
        if layer not in coded:
            nodes.append(node)
            continue
        replaced |= set(node.input[1:4])  # codes, scales, zero points
        codes = coded[layer]
        signed = np.ascontiguousarray((codes.codes.astype(np.int8) - 8).T).astype(ml_dtypes.int4)
        scales = np.ascontiguousarray(codes.scales.astype(np.float32).T)
        tensors.append(numpy_helper.from_array(signed, f"{layer}.int4"))
        tensors.append(numpy_helper.from_array(scales, f"{layer}.int4.scales"))
        inputs = [f"{layer}.int4", f"{layer}.int4.scales"]
        block = codes.codes.shape[1] // codes.scales.shape[1]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{layer}.w"], axis=0, block_size=block))
        nodes.append(helper.make_node("MatMul", [node.input[0], f"{layer}.w"], list(node.output)))
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in replaced]
    del changed.graph.node[:], changed.graph.initializer[:]
    changed.graph.node.extend(nodes)
    changed.graph.initializer.extend([*kept, *tensors])
    return changed


def dynamic_int8(model: onnx.ModelProto, work: Path) -> onnx.ModelProto:
    """Return a float graph as ONNX Runtime's own dynamic quantiser makes it int8."""
    from onnxruntime.quantization import quantize_dynamic

    source, made = work / "float.onnx", work / "int8.onnx"
    onnx.save(model, source)
    quantize_dynamic(source, made)
    return onnx.load(made)


class Folder:
    """Graphs that share a file of weights: the shapes of one model."""

    def __init__(self, place: Path) -> None:
        place.mkdir(parents=True)
        self._place = place
        self._held: dict[bytes, tuple[int, int]] = {}

    def write(self, model: onnx.ModelProto, name: str) -> Path:
        """Write a graph, its weights outside as ONNX Runtime maps them; what another graph holds too is there once."""
        kept = _copied(model)
        for tensor in kept.graph.initializer:
            if len(tensor.raw_data) < LEAST_OUTSIDE:
                continue
            key = hashlib.blake2b(tensor.raw_data).digest()
            if key not in self._held:
                self._held[key] = self._append(tensor.raw_data)
            offset, length = self._held[key]
            set_external_data(tensor, "weights", offset=offset, length=length)
            tensor.ClearField("raw_data")
        onnx.save(kept, self._place / f"{name}.onnx")
        return self._place / f"{name}.onnx"

    def _append(self, raw: bytes) -> tuple[int, int]:
        with (self._place / "weights").open("ab") as stream:
            offset = -(-stream.tell() // _ALIGN) * _ALIGN
            stream.write(bytes(offset - stream.tell()) + raw)
        return offset, len(raw)


def _copied(model: onnx.ModelProto) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    return changed
