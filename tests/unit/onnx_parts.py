"""Small ONNX models, shared by tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwc import onnx_io


def model_of(
    nodes: Sequence[onnx.NodeProto], weights: dict[str, np.ndarray], *, width: int, out: int, rows: int = 2
) -> onnx.ModelProto:
    """Return a model from x float32 [rows, width] to y float32 [rows, out]."""
    graph = helper.make_graph(
        list(nodes), "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, out])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def linear(width: int = 64, out: int = 48, seed: int = 0) -> onnx.ModelProto:
    """Return ``y = x · fc.weight``."""
    weight = np.random.default_rng(seed).standard_normal((width, out)).astype(np.float32)
    return model_of(
        [helper.make_node("MatMul", ["x", "fc.weight"], ["y"], name="/fc/MatMul")], {"fc.weight": weight},
        width=width, out=out,
    )


def detached_ones(
    nodes: Sequence[onnx.NodeProto], weights: Mapping[str, tuple[int, ...]], outputs: Sequence[str], *, width: int
) -> onnx.ModelProto:
    """Return a detached model from x float32 [rows, width] whose weights are all ones: for what its nodes tell."""
    graph = helper.make_graph(
        list(nodes), "graph", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", width])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    onnx_io.detach(model)
    return model
