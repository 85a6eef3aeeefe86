"""A vendor's kernel computes what ONNX Runtime computes on the same linear, whatever its shape and its packing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from compiled_parts import FLAGS, LIMITS, run_on_cpu
from onnx import TensorProto, helper
from test_passes import CASES, LAYER, imported, quantised_graph
from vendor_parts import ACME, door, opened

from hwc import onnx_io
from hwc.capture.simplify import session
from hwc.lower import dispatch_work, iree, kernel_objects
from hwc.lower.passes.graph import TensorType
from hwc.lower.passes.kernel_call import Call, Import
from hwc.lower.passes.linears import rewrite_linears
from hwc.quantise.encode import Packed, write_archive
from hwc.quantise.encodings import geometry_of, in_tiles, pack

COLUMNS = 3
"""Fewer than a linear has, and no divisor of most: the last call is cut short."""


def compiled(mlir: str, work: Path) -> Path:
    flags = (*FLAGS, f"--iree-hal-executable-object-search-path={kernel_objects.FOLDER}")
    code, _ = iree.compile_module(mlir, flags, work=work, limits=LIMITS)
    return code


def quick(cases: list, chosen: Callable[..., bool]) -> list:
    """Leave a few cases to every run, and the others to the full one."""
    return [case if chosen(*case) else pytest.param(*case, marks=pytest.mark.slow) for case in cases]


FEW = [
    ("i4-grouped", "offset"), ("i4-grouped", "point"), ("u8-nibbles", "point"), ("i8-grouped", "none"),
    ("u8-words", "point"), ("e4m3-bits", "none"),
]


def first_of_its_kind(encoding, shape, codes) -> bool:
    """Tell whether a case is the first of its encoding and zero points, among those that every run takes."""
    kind = (encoding, codes.zero_kind)
    first = next(case for case in BY_ROW if (case[0], case[2].zero_kind) == kind)
    return kind in FEW and first[1] is shape


BY_ROW = [case for case in CASES if not in_tiles(case[0], geometry_of(case[2]))]


@pytest.mark.parametrize(("encoding", "shape", "codes"), quick(BY_ROW, first_of_its_kind))
def test_a_quantised_linear_by_a_kernel_computes_what_onnx_runtime_computes(encoding, shape, codes, tmp_path: Path):
    model, tensors = quantised_graph(shape, codes)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = session(onnx_io.attach(model, tensors)).run(None, {"x": x})[0]
    own = opened(tmp_path, columns=COLUMNS)
    rewritten = rewrite_linears(
        imported(model, tmp_path), encodings={codes.kind: encoding}, scope="model", choose=own.door.chosen
    )
    assert [one.product.layer for one in rewritten.seen if one.call is not None] == [LAYER]
    own.note("main_graph", rewritten.seen)
    write_archive(pack(LAYER, codes, encoding), tmp_path / "w.irpa")
    code = compiled(own.declared(rewritten.mlir), tmp_path)
    (called,) = {one.call.kernel.symbol for one in rewritten.seen if one.call}
    kernel_objects.require_linked(code.read_bytes(), [called])
    found = run_on_cpu(code, tmp_path / "w.irpa", {"x": x}, {"y": expected.shape})["y"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


PLAIN = [
    ("MatMul", [3, 96], {}, None),
    ("MatMul", [2, 5, 96], {}, None),
    ("MatMul", [1, 1, 96], {}, None),
    ("Gemm", [4, 96], {"transB": 1}, [20]),
    ("Gemm", [4, 96], {}, [1, 20]),
    ("Gemm", [1, 96], {"transB": 1}, None),
]


def plain_graph(operator: str, shape: list[int], attributes, bias, dtype) -> tuple[onnx.ModelProto, dict]:
    """Return a detached graph of one float linear of 96 to 20 with a ReLU before it, and its weights."""
    rng = np.random.default_rng(3)
    stored = (20, 96) if attributes.get("transB") else (96, 20)
    tensors = {"w": (rng.standard_normal(stored) / 8).astype(dtype)}
    if bias:
        tensors["b"] = rng.standard_normal(bias).astype(dtype)
    kind = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16}[dtype]
    nodes = [
        helper.make_node("Relu", ["x"], ["kept"]),
        helper.make_node(operator, ["kept", *tensors], ["y"], **attributes),
    ]
    inputs = [helper.make_tensor_value_info("x", kind, shape)]
    inputs += [helper.make_tensor_value_info(name, kind, value.shape) for name, value in tensors.items()]
    outputs = [helper.make_tensor_value_info("y", kind, [*shape[:-1], 20])]
    graph = helper.make_graph(nodes, "main_graph", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx_io.set_weight_names(model, list(tensors))
    return model, tensors


CASES_PLAIN = [(*case, dtype) for dtype in (np.float32, np.float16) for case in PLAIN]


@pytest.mark.parametrize(
    ("operator", "shape", "attributes", "bias", "dtype"),
    quick(CASES_PLAIN, lambda operator, shape, _, bias, dtype: bias == [20] or (dtype is np.float32 and shape[0] == 2)),
)
def test_a_float_linear_by_a_kernel_computes_what_numpy_computes(
    operator, shape, attributes, bias, dtype, tmp_path: Path
):
    model, tensors = plain_graph(operator, shape, attributes, bias, dtype)
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    own = opened(tmp_path, columns=COLUMNS)
    text = own.plain("main_graph", imported(model, tmp_path))
    packed = {name: Packed(payload=v, dtype="f32", shape=v.shape) for name, v in tensors.items()}
    write_archive(packed, tmp_path / "w.irpa")
    code = compiled(own.declared(text), tmp_path)
    assert own.facts(code.read_bytes(), tmp_path)["vendor"]["kernels"][
        "matmul-f32" if dtype is np.float32 else "matmul-f16"
    ]["matched"] == {"main_graph": 1}
    wide = {name: value.astype(np.float64) for name, value in tensors.items()}
    weight = wide["w"].T if attributes.get("transB") else wide["w"]
    expected = np.maximum(x, 0).astype(np.float64) @ weight + wide.get("b", 0.0)
    found = run_on_cpu(code, tmp_path / "w.irpa", {"x": x}, {"y": expected.shape}, dtype=dtype.__name__)["y"]
    bound = 1e-6 if dtype is np.float32 else 2e-3
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound * np.abs(expected).max())


def test_the_work_of_a_call_is_read_from_the_compilers_ir_beside_generated_work(tmp_path: Path):
    model, _ = plain_graph("Gemm", [4, 96], {"transB": 1}, [20], np.float32)
    own = opened(tmp_path)
    text = own.declared(own.plain("main_graph", imported(model, tmp_path)))
    flow = iree.flow_text(text, (*FLAGS, *own.flags), work=tmp_path, limits=LIMITS)
    (called,) = [one for one in dispatch_work.read(flow)["main_graph"] if one.op == "matmul"]
    assert (called.m, called.n, called.k, called.activations, called.weights) == (4, 20, 96, "float32", "float32")
    assert (called.flops, called.read_bytes, called.weight_bytes, called.write_bytes) == (15360, 1536, 7680, 320)


def test_the_last_call_ends_at_the_last_column():
    call = Call(
        kernel=Import(name="k", symbol="k", object="k.o", columns_per_call=3),
        pattern="matmul_f32", operands=(TensorType(shape=(1, 4), dtype="f32"), TensorType(shape=(4, 10), dtype="f32")),
        elements=("f32", "f32", "f32"), result=TensorType(shape=(1, 10), dtype="f32"), sizes=(1, 10, 4, 10, 1),
    )
    assert call.calls == 4
    assert any("arith.minui %next, %s1" in line for line in call.executable())


@pytest.mark.parametrize(
    ("n", "per_call", "least", "columns", "calls"),
    [
        (576, 2048, 2, 288, 2), (100, 2048, 2, 112, 1), (192, 2048, 2, 96, 2), (1000, 2048, 4, 256, 4),
        (8192, 2048, 2, 2048, 4), (3072, 2048, 2, 1536, 2), (10, 1, 2, 1, 10), (130, 64, 1, 48, 3),
    ],
)  # fmt: skip
def test_calls_have_equal_shares_in_whole_tiles_and_are_no_more_than_pay(n, per_call, least, columns, calls):
    call = Call(
        kernel=Import(name="k", symbol="k", object="k.o", columns_per_call=per_call, least_calls=least),
        pattern="matmul_f32", operands=(TensorType(shape=(1, 4), dtype="f32"), TensorType(shape=(4, n), dtype="f32")),
        elements=("f32", "f32", "f32"), result=TensorType(shape=(1, n), dtype="f32"), sizes=(1, n, 4, n, 1),
    )
    assert (call.columns, call.calls) == (columns, calls)


def test_a_rule_of_legality_sends_a_product_to_its_kernel_or_not():
    from hwc.lower.passes.kernel_linears import Product
    from hwc.spec.legality import LegalityRule

    few = LegalityRule(ops=("matmul",), at_most={"m": 4}, action="kernel", kernel="matmul-f32")
    own = door(ACME, rules=(few,))
    chosen = {
        m: own.chosen(Product(pattern="matmul_f32", layer="l", m=m, n=8, k=8)) is not None for m in (1, 4, 5, 128)
    }
    assert chosen == {1: True, 4: True, 5: False, 128: False}
