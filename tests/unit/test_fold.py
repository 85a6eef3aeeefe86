"""Folding moves a weight's elements and computes none."""

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from hwc import onnx_external, onnx_io
from hwc.capture.fold import fold_weights
from hwc.capture.weights import rename_invented
from hwc.quantise.linears import find


def _transposed_linear(through_output: bool = False) -> onnx.ModelProto:
    weight = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
    nodes = [
        helper.make_node("Identity", ["dense.weight"], ["copied"]),
        helper.make_node("Transpose", ["copied"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "turned"], ["y"], name="/dense/MatMul"),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 6])]
    if through_output:
        outputs.append(helper.make_tensor_value_info("turned", TensorProto.FLOAT, [64, 6]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 64])],
        outputs,
        [numpy_helper.from_array(weight, "dense.weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _run(model: onnx.ModelProto) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((2, 64)).astype(np.float32)
    return session.run(None, {"x": x})


def test_a_weight_behind_identity_and_transpose_becomes_a_linear_and_computes_the_same_bits():
    model = _transposed_linear()
    before = _run(model)
    assert fold_weights(model) == 2
    assert [node.op_type for node in model.graph.node] == ["MatMul"]
    assert [tensor.name for tensor in model.graph.initializer] == ["turned"]
    np.testing.assert_array_equal(_run(model)[0], before[0])
    onnx_io.detach(model)
    assert [(linear.k, linear.n) for linear in find(model)] == [(64, 6)]


def test_a_weight_outside_the_graph_is_folded_without_being_copied():
    model, inside = _transposed_linear(), _transposed_linear()
    value = numpy_helper.to_array(inside.graph.initializer[0])
    del model.graph.initializer[:]
    outside: dict[str, np.ndarray] = {}
    onnx_external.put(model, "dense.weight", value, outside)
    assert fold_weights(model, outside) == 2
    assert set(outside) == {"turned"}
    assert np.shares_memory(outside["turned"], value)
    weights = onnx_io.detach(model, outside)
    fold_weights(inside)
    np.testing.assert_array_equal(weights["turned"], onnx_io.detach(inside)["turned"])
    assert model.SerializeToString() == inside.SerializeToString()


def test_a_transposed_weight_that_is_also_an_output_keeps_its_node():
    model = _transposed_linear(through_output=True)
    before = _run(model)
    assert fold_weights(model) == 1
    for left, right in zip(_run(model), before, strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_weight_read_only_inside_an_inner_graph_is_kept():
    inner = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["inner_y"])],
        "then",
        [],
        [helper.make_tensor_value_info("inner_y", TensorProto.FLOAT, [64])],
    )
    node = helper.make_node("If", ["flag"], ["y"], then_branch=inner, else_branch=inner)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("flag", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64])],
        [numpy_helper.from_array(np.ones(64, np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    fold_weights(model)
    assert [tensor.name for tensor in model.graph.initializer] == ["w"]


def test_a_weights_name_loses_what_no_parameter_key_may_hold_and_stays_unique():
    weight = np.ones((64, 6), np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "net::w 1"], ["h"]),
        helper.make_node("Add", ["h", "net::w_1"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 6])],
        [numpy_helper.from_array(weight, "net::w 1"), numpy_helper.from_array(weight[0], "net::w_1")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    before = _run(model)
    rename_invented(model)
    names = [tensor.name for tensor in model.graph.initializer]
    assert sorted(names) == ["net__w_1", "net__w_1.2"]
    np.testing.assert_array_equal(_run(model)[0], before[0])
