"""A graph and its weights come apart and together again without changing what is computed."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_parts import linear, model_of

from hwc import onnx_io
from hwc.capture.capture import save_weights
from hwc.capture.simplify import session
from hwc.errors import IntegrityError, StepError
from hwc.quantise.weights import Weights


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return session(model).run(["y"], {"x": x})[0]


X = np.random.default_rng(1).standard_normal((2, 64)).astype(np.float32)


def test_a_detached_graph_with_its_weights_computes_what_the_model_did() -> None:
    model = linear()
    expected = run(model, X)
    weights = onnx_io.detach(model)
    assert list(weights) == ["fc.weight"]
    assert [value.name for value in model.graph.input] == ["x", "fc.weight"]
    np.testing.assert_array_equal(run(onnx_io.attach(model, weights), X), expected)


def test_a_detached_graph_is_run_on_weights_that_lie_in_a_file(tmp_path: Path) -> None:
    model = linear()
    expected = run(model, X)
    weights = onnx_io.detach(model)
    save_weights(weights, tmp_path / "w.safetensors")
    before = model.SerializeToString(deterministic=True)
    opened = session(model, Weights(tmp_path / "w.safetensors"))
    (tmp_path / "w.safetensors").unlink()
    np.testing.assert_array_equal(opened.run(["y"], {"x": X})[0], expected)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn"])
def test_weights_of_types_that_numpy_does_not_know_are_run_on_too(dtype: str) -> None:
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(ml_dtypes.bfloat16).astype(dtype)
    widen = helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT)
    model = model_of([widen, helper.make_node("MatMul", ["x", "wide"], ["y"])], {"w": weight}, width=64, out=64)
    weights = onnx_io.detach(model)
    assert list(weights) == ["w"]
    found = session(model, weights).run(["y"], {"x": X})[0]
    np.testing.assert_allclose(found, X @ weight.astype(np.float32), atol=1e-4)


def test_attaching_leaves_the_detached_graph_as_it_was() -> None:
    model = linear()
    weights = onnx_io.detach(model)
    before = model.SerializeToString(deterministic=True)
    onnx_io.attach(model, weights)
    assert model.SerializeToString(deterministic=True) == before


def test_constants_that_may_steer_shapes_stay_inside() -> None:
    shape = np.array([2, 64], np.int64)
    bias = np.ones(31, np.float32)
    weights = {"shape": shape, "small": bias, "large": np.ones(32, np.float32), "table": np.ones(4096, np.int64)}
    model = model_of([helper.make_node("Reshape", ["x", "shape"], ["y"])], weights, width=64, out=64)
    assert sorted(onnx_io.detach(model)) == ["large", "table"]
    assert sorted(tensor.name for tensor in model.graph.initializer) == ["shape", "small"]


def test_a_saved_graph_comes_back_and_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    model = linear()
    onnx_io.detach(model)
    for name in ("a.onnx", "b.onnx"):
        onnx_io.save(model, tmp_path / "sub" / name)
    assert (tmp_path / "sub" / "a.onnx").read_bytes() == (tmp_path / "sub" / "b.onnx").read_bytes()
    back = onnx_io.load_graph(tmp_path / "sub" / "a.onnx")
    assert onnx_io.weight_names(back) == ("fc.weight",)
    assert back == model


def test_names_of_weights_are_replaced_and_none_by_default() -> None:
    model = linear()
    assert onnx_io.weight_names(model) == ()
    onnx_io.set_weight_names(model, ["a", "b"])
    onnx_io.set_weight_names(model, ["c"])
    assert onnx_io.weight_names(model) == ("c",)
    assert len(model.metadata_props) == 1


def test_a_missing_file_and_an_invalid_graph_are_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="cannot read"):
        onnx_io.load(tmp_path / "absent.onnx")
    model = linear()
    model.graph.node[0].input[0] = "nowhere"
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(IntegrityError, match="not a valid ONNX model"):
        onnx_io.load(tmp_path / "x.onnx")


def test_a_file_past_what_a_protobuf_holds_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as stream:
        stream.truncate(2**31 + 1)
    with pytest.raises(IntegrityError, match="2 GiB"):
        onnx_io.load(path)


def unknown_op(domain: str, op: str, name: str) -> onnx.ModelProto:
    model = model_of([helper.make_node(op, ["x"], ["y"], name=name, domain=domain)], {}, width=64, out=64)
    if domain:
        model.opset_import.add(domain=domain, version=1)
    return model


@pytest.mark.parametrize("name", ["/encoder/layer.0/Frobnicate", ""])
def test_an_op_that_onnx_runtime_lacks_is_told_with_its_node_and_module(name: str) -> None:
    with pytest.raises(StepError) as caught:
        session(unknown_op("com.example", "Frobnicate", name))
    assert "Frobnicate" in caught.value.what
    assert (name or "'y'") in caught.value.what
    assert caught.value.where == f"module {'encoder.layer.0' if name else 'the graph'}"
    assert "Frobnicate" in caught.value.hint


def test_a_known_op_on_types_that_onnx_runtime_lacks_is_told_with_its_node() -> None:
    node = helper.make_node("NonMaxSuppression", ["x", "x"], ["y"], name="/head/nms")
    model = model_of([node], {}, width=64, out=64)
    with pytest.raises(StepError) as caught:
        session(model)
    assert "/head/nms" in caught.value.what
    assert caught.value.where == "module head"


def test_a_tensor_of_subgraphs_counts_as_used() -> None:
    then = helper.make_graph(
        [helper.make_node("Identity", ["outer"], ["inner"])], "then", [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, [1])],
    )
    model = model_of(
        [helper.make_node("If", ["yes"], ["y"], then_branch=then, else_branch=then)],
        {"yes": np.array(True), "outer": np.ones(1, np.float32)}, width=1, out=1,
    )
    assert {"yes", "outer"} <= onnx_io.used_names(model.graph)
    assert numpy_helper.to_array(model.graph.initializer[1]).tolist() == [1.0]
