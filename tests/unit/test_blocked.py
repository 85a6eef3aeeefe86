"""The standard form of a quantised graph: exactly the codes' weights, in operators that every runtime has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from hwc import onnx_io
from hwc.errors import UsageError
from hwc.formats import Format
from hwc.quantise import blocked, blocked_weights
from hwc.quantise import codes as canonical
from hwc.quantise.codes import Codes, dequantise
from hwc.quantise.graph import apply
from hwc.quantise.linears import assign, find
from hwc.quantise.restore import layers
from hwc.serve.onnx_export_weights import write

INT4, INT8 = Format(kind="int4", group_size=32), Format(kind="int8", group_size=32)
FORMATS = {
    "int4": INT4, "int4-g64": Format(kind="int4", group_size=64), "int8": INT8,
    "int4-points": Format(kind="int4", group_size=32, zeros="point"),
    "int8-points": Format(kind="int8", group_size=32, zeros="point"),
    "int4-offsets": Format(kind="int4", group_size=32, zeros="offset"),
    "int8-offsets": Format(kind="int8", group_size=32, zeros="offset"),
}
ROWS, WIDTH, OUT = 320, 64, 47
"""An odd number of outputs: two rows of a packed weight share a byte."""
IDS = np.array([[0, 5, 319, -1], [7, 7, 100, -320]], np.int64)


def coded(form: Format, rows: int) -> Codes:
    """Return any codes of a format."""
    rng = np.random.default_rng(rows)
    most, groups = 1 << (4 if form.kind == "int4" else 8), WIDTH // form.group_size
    points = rng.integers(0, most, (rows, groups)).astype(np.uint8)
    offsets = rng.standard_normal((rows, groups)).astype(np.float16)
    return Codes(
        kind=form.kind, codes=rng.integers(0, most, (rows, WIDTH)).astype(np.uint8),
        scales=rng.uniform(0.001, 0.02, (rows, groups)).astype(np.float16),
        zeros=points if form.zeros == "point" else None, offsets=offsets if form.zeros == "offset" else None,
    )


def linear_model(opset: int = 21) -> onnx.ModelProto:
    """Return a detached model with one linear, and a ReduceMean that changed its form in opset 18."""
    nodes = [helper.make_node("MatMul", ["x", "fc.weight"], ["y"], name="/fc")]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "tokens", OUT])]
    if opset < 18:
        nodes.append(helper.make_node("ReduceMean", ["y"], ["mean"], axes=[-1], keepdims=0))
        outputs.append(helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch", "tokens"]))
    weight = onnx.numpy_helper.from_array(np.zeros((WIDTH, OUT), np.float32), "fc.weight")
    graph = helper.make_graph(
        nodes, "main", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "tokens", WIDTH])], outputs,
        [weight],
    )
    return detached(graph, opset)


def table_model(*, tied: bool) -> onnx.ModelProto:
    """Return a detached model that reads rows of a table, and multiplies them by it where it is the head as well."""
    nodes = [helper.make_node("Gather", ["table.weight", "ids"], ["rows"], name="/rows")]
    outputs = [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", "tokens", WIDTH])]
    if tied:
        nodes += [
            helper.make_node("Transpose", ["table.weight"], ["across"], perm=[1, 0]),
            helper.make_node("Tanh", ["rows"], ["hidden"], name="/body"),
            helper.make_node("MatMul", ["hidden", "across"], ["logits"], name="/head"),
        ]
        outputs.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "tokens", ROWS]))
    table = onnx.numpy_helper.from_array(np.zeros((ROWS, WIDTH), np.float32), "table.weight")
    graph = helper.make_graph(
        nodes, "main", [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "tokens"])], outputs, [table]
    )
    return detached(graph, 21)


def detached(graph: onnx.GraphProto, opset: int) -> onnx.ModelProto:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx_io.detach(model)
    return model


def standard(model: onnx.ModelProto, form: Format, codes: Codes, path: Path, *, beside: bool = False) -> Path:
    """Write the standard form of a model with one layer in these codes."""
    chosen = assign(find(model), {"linear": form, "embedding": form})
    quantised = apply(chosen, model, where="test")
    (layer,) = layers(quantised)
    whole = blocked.rewrite(quantised, [layer])
    del whole.graph.input[1:]
    write(whole, blocked_weights.tensors(layer, codes), path, beside=beside)
    return path


def strict(path: Path, optimised: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(str(path), options)


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_a_linear_multiplies_by_exactly_what_the_codes_stand_for(form: Format, tmp_path: Path) -> None:
    codes = coded(form, OUT)
    path = standard(linear_model(), form, codes, tmp_path / "m.onnx")
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", 21)}
    x = np.random.default_rng(0).standard_normal((2, 3, WIDTH)).astype(np.float32)
    expected = x @ dequantise(codes).T
    for found in (ReferenceEvaluator(model).run(None, {"x": x})[0], strict(path).run(None, {"x": x})[0]):
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(dequantise(codes)).max() * WIDTH)
    if form.zeros != "offset":
        one = np.eye(WIDTH, dtype=np.float32)[None]
        np.testing.assert_array_equal(ReferenceEvaluator(model).run(None, {"x": one})[0][0].T, dequantise(codes))


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_onnx_runtime_multiplies_by_packed_integers(form: Format, tmp_path: Path) -> None:
    path = standard(linear_model(), form, coded(form, OUT), tmp_path / "m.onnx")
    strict(path, tmp_path / "fused.onnx")
    made = [node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node]
    assert "MatMulNBits" in made
    assert "DequantizeLinear" not in made


TABLES = [name for name, form in FORMATS.items() if form.zeros != "offset"]


@pytest.mark.parametrize("tied", [False, True], ids=["table", "table and head"])
@pytest.mark.parametrize("name", TABLES)
def test_rows_of_a_table_are_exactly_what_the_codes_stand_for(name: str, tied: bool, tmp_path: Path) -> None:
    codes = coded(FORMATS[name], ROWS)
    path = standard(table_model(tied=tied), FORMATS[name], codes, tmp_path / "m.onnx")
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    weight = dequantise(codes)
    for rows, *logits in (ReferenceEvaluator(model).run(None, {"ids": IDS}), strict(path).run(None, {"ids": IDS})):
        np.testing.assert_array_equal(rows, weight[IDS])
        assert len(logits) == tied
        for found in logits:
            np.testing.assert_allclose(found, np.tanh(weight[IDS]) @ weight.T, rtol=1e-5, atol=1e-5)
    read = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= read


def test_a_table_is_dequantised_row_by_row(tmp_path: Path) -> None:
    path = standard(table_model(tied=False), INT8, coded(INT8, ROWS), tmp_path / "m.onnx")
    made = {node.name: node for node in onnx.load(path).graph.node}
    assert made["/rows"].op_type == "DequantizeLinear"
    assert made["/rows.codes"].op_type == made["/rows.scales"].op_type == "Gather"


def test_an_older_operator_set_becomes_one_that_has_blocks(tmp_path: Path) -> None:
    codes = coded(INT4, OUT)
    path = standard(linear_model(opset=13), INT4, codes, tmp_path / "m.onnx")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    x = np.random.default_rng(0).standard_normal((1, 2, WIDTH)).astype(np.float32)
    y, mean = strict(path).run(None, {"x": x})
    np.testing.assert_allclose(y, x @ dequantise(codes).T, rtol=0, atol=1e-5)
    np.testing.assert_allclose(mean, y.mean(axis=-1), rtol=0, atol=1e-6)


def test_a_table_with_offsets_is_refused_with_its_name(tmp_path: Path) -> None:
    form = FORMATS["int4-offsets"]
    with pytest.raises(UsageError, match="matmulnbits") as refused:
        standard(table_model(tied=False), form, coded(form, ROWS), tmp_path / "m.onnx")
    assert refused.value.where == "table"


def test_a_graph_that_no_newer_operator_set_can_tell_is_refused(tmp_path: Path) -> None:
    model = linear_model(opset=13)
    model.graph.node.append(  # statistics of a batch, which opset 14 dropped
        helper.make_node("BatchNormalization", ["y", *"abcd"], ["normal", "mean_", "var", "saved_mean", "saved_var"])
    )
    model.graph.input.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["tokens"]) for name in "abcd")
    model.graph.output.append(helper.make_tensor_value_info("normal", TensorProto.FLOAT, None))
    with pytest.raises(UsageError, match="operator set 13 and cannot be told in 21"):
        standard(model, INT4, coded(INT4, OUT), tmp_path / "m.onnx")


def test_scaled_rounding_gives_the_same_weights_as_before(tmp_path: Path) -> None:
    weight = np.random.default_rng(1).standard_normal((OUT, WIDTH)).astype(np.float32)
    codes = canonical.nearest(weight, INT4)
    path = standard(linear_model(), INT4, codes, tmp_path / "m.onnx")
    stored = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
    back = onnx.numpy_helper.to_array(stored["fc.codes"]).astype(np.int16) + 8
    np.testing.assert_array_equal(back.T, codes.codes)
