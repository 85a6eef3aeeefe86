"""A packed table of embeddings is read by row and multiplied, from one copy, as ONNX Runtime computes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from compiled_parts import FLAGS, LIMITS, run_on_cpu
from onnx import TensorProto, helper

from hwc import onnx_io
from hwc.capture.simplify import session
from hwc.formats import Format
from hwc.lower import iree
from hwc.lower.passes.linears import rewrite_linears
from hwc.quantise import codes as canonical
from hwc.quantise.codes import dequantise
from hwc.quantise.encode import write_archive
from hwc.quantise.encodings import ENCODINGS, pack
from hwc.quantise.graph import apply, onnx_tensors
from hwc.quantise.linears import Linear, assign, find

ROWS, WIDTH = 320, 96
IDS = np.array([[0, 5, 319], [7, 7, 100]], np.int64)
FORMATS = [
    Format(kind="int8", group_size=32), Format(kind="int4", group_size=32),
    Format(kind="int4", group_size=32, zeros="point"),
]


def tied(table: np.ndarray, *, spoilt: bool = False) -> onnx.ModelProto:
    """Return a detached model that reads rows of a table and multiplies them by it; ``spoilt``: adds to it as well."""
    nodes = [
        helper.make_node("Gather", ["table.weight", "ids"], ["rows"], name="gather"),
        helper.make_node("Transpose", ["table.weight"], ["across"], perm=[1, 0]),
        helper.make_node("MatMul", ["rows", "across"], ["logits"], name="head"),
    ]
    if spoilt:
        nodes.append(helper.make_node("Add", ["table.weight", "table.weight"], ["twice"]))
    values = {"rows": [*IDS.shape, WIDTH], "logits": [*IDS.shape, ROWS]}
    graph = helper.make_graph(
        nodes, "main_graph", [helper.make_tensor_value_info("ids", TensorProto.INT64, IDS.shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values.items()],
        [onnx.numpy_helper.from_array(table, "table.weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx_io.detach(model)
    return model


def table() -> np.ndarray:
    return np.random.default_rng(2).standard_normal((ROWS, WIDTH)).astype(np.float32)


def layer(model: onnx.ModelProto, form: Format | None) -> Linear:
    (found,) = assign(find(model), {"linear": None, "embedding": form})
    return found


def test_a_table_is_an_embedding_whether_it_is_the_head_or_not() -> None:
    found = layer(tied(table()), None)
    assert (found.layer, found.role, found.n, found.k) == ("table", "embedding", ROWS, WIDTH)
    assert found.gathered
    assert found.multiplied
    assert found.skip == "embeddings stay in float in this scheme"


def test_a_table_that_something_else_reads_is_left_alone() -> None:
    assert find(tied(table(), spoilt=True)) == []


def test_a_table_of_few_rows_is_left_alone() -> None:
    assert find(tied(table()[:8])) == []


@pytest.mark.parametrize("form", FORMATS, ids=Format.told)
def test_the_quantised_graph_computes_with_what_the_codes_stand_for(form: Format) -> None:
    model, weight = tied(table()), table()
    found = layer(model, form)
    coded = canonical.nearest(weight, form)
    apply([found], model, where="test")
    rows, logits = session(onnx_io.attach(model, onnx_tensors(found, coded))).run(["rows", "logits"], {"ids": IDS})
    decoded = dequantise(coded)
    np.testing.assert_allclose(rows, decoded[IDS], rtol=0, atol=1e-6)
    np.testing.assert_allclose(logits, decoded[IDS] @ decoded.T, rtol=0, atol=1e-4)


@pytest.mark.parametrize("form", FORMATS, ids=Format.told)
@pytest.mark.parametrize("place", [0, 1])
def test_compiled_code_reads_and_multiplies_one_packed_copy(form: Format, place: int, tmp_path: Path) -> None:
    model = tied(table())
    found = layer(model, form)
    coded = canonical.nearest(table(), form)
    apply([found], model, where="test")
    tensors = onnx_tensors(found, coded)
    expected = session(onnx_io.attach(model, tensors)).run(["rows", "logits"], {"ids": IDS})
    onnx_io.save(model, tmp_path / "g.onnx")
    text = iree.import_graph(tmp_path / "g.onnx", inputs=1, work=tmp_path, limits=LIMITS)
    encoding = ENCODINGS[form.kind][place]
    rewritten = rewrite_linears(text, encodings={form.kind: encoding}, scope="model")
    assert (rewritten.layers, rewritten.matched) == ({"table"}, 2)
    assert rewritten.mlir.count('"table.codes">') == 1
    packed = pack("table", coded, encoding)
    assert {(use.key, use.shape) for use in rewritten.parameters} == {(key, one.shape) for key, one in packed.items()}
    write_archive(packed, tmp_path / "w.irpa")
    code, _ = iree.compile_module(rewritten.mlir, FLAGS, work=tmp_path, limits=LIMITS)
    shapes = {"rows": (*IDS.shape, WIDTH), "logits": (*IDS.shape, ROWS)}
    found_outputs = run_on_cpu(code, tmp_path / "w.irpa", {"ids": IDS}, shapes)
    np.testing.assert_allclose(found_outputs["rows"], expected[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found_outputs["logits"], expected[1], rtol=0, atol=1e-4)
    outside = run_on_cpu(code, tmp_path / "w.irpa", {"ids": np.full_like(IDS, 10**9)}, shapes)
    np.testing.assert_allclose(outside["rows"], np.broadcast_to(dequantise(coded)[-1], shapes["rows"]), atol=1e-6)
