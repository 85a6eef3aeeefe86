"""E4M3 activations: compiled code rounds as ONNX Runtime and ml_dtypes do, by token or by tensor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from compiled_parts import FLAGS, LIMITS, run_on_cpu
from onnx import TensorProto, helper
from onnx_parts import model_of

from hwc import onnx_io
from hwc.capture.simplify import session
from hwc.errors import InternalError, UsageError
from hwc.formats import Activations, Format
from hwc.lower import iree
from hwc.lower.passes.linears import rewrite_linears
from hwc.quantise.codes import FP8_MAX, Codes, dequantise, fp8
from hwc.quantise.encode import write_archive
from hwc.quantise.encodings import Packed, pack
from hwc.quantise.graph import apply, onnx_tensors
from hwc.quantise.linears import assign, find
from hwc.quantise.scheme import find as scheme

WIDTH, OUT, ROWS = 64, 32, 4


def e4m3(values: np.ndarray) -> np.ndarray:
    return np.clip(values, -FP8_MAX, FP8_MAX).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)


def every_value() -> np.ndarray:
    """Return float32 numbers about every E4M3 value and every middle between two, and some of each size."""
    codes = np.array([bits for bits in range(256) if bits & 0x7F != 0x7F], np.uint8)
    exact = np.sort(codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32))
    middles = (exact[1:] + exact[:-1]) / 2
    near = np.concatenate([np.nextafter(middles, np.float32(side)) for side in (-np.inf, np.inf)])
    sizes = 10.0 ** np.random.default_rng(0).uniform(-6, 2.6, 500) * np.random.default_rng(1).choice([-1, 1], 500)
    return np.concatenate([exact, middles, near, sizes]).astype(np.float32)


def test_compiled_rounding_is_that_of_the_format_at_every_value_and_tie(tmp_path: Path) -> None:
    x = every_value()
    nodes = [
        helper.make_node("Cast", ["x"], ["q"], to=TensorProto.FLOAT8E4M3FN),
        helper.make_node("Cast", ["q"], ["c"], to=TensorProto.FLOAT), helper.make_node("Mul", ["c", "one"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [len(x)]) for name in ("x", "one", "y")]
    graph = helper.make_graph(nodes, "main_graph", values[:2], values[2:])
    onnx_io.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "g.onnx"
    )
    text = iree.import_graph(tmp_path / "g.onnx", inputs=None, work=tmp_path, limits=LIMITS)
    code, _ = iree.compile_module(
        rewrite_linears(text, encodings={}, scope="model").mlir, FLAGS, work=tmp_path, limits=LIMITS
    )
    write_archive({}, tmp_path / "w.irpa")
    found = run_on_cpu(code, tmp_path / "w.irpa", {"x": x, "one": np.ones_like(x)}, {"y": x.shape})["y"]
    np.testing.assert_array_equal(found, e4m3(x))


def built(form: Format, *, scale: float = 0.0) -> tuple[onnx.ModelProto, dict[str, np.ndarray], Codes, np.ndarray]:
    """Return a detached model of one linear with a bias, its initializers, its codes and the bias."""
    rng = np.random.default_rng(4)
    weight = rng.standard_normal((WIDTH, OUT)).astype(np.float32)
    bias = rng.standard_normal(OUT).astype(np.float32)
    node = helper.make_node("Gemm", ["x", "fc.weight", "fc.bias"], ["y"], name="fc")
    model = model_of([node], {"fc.weight": weight, "fc.bias": bias}, width=WIDTH, out=OUT, rows=ROWS)
    onnx_io.detach(model)
    (linear,) = assign(find(model), {"linear": form})
    linear = replace(linear, activation_scale=scale)
    apply([linear], model, where="test")
    made = fp8(np.ascontiguousarray(weight.T))
    return model, {**onnx_tensors(linear, made), "fc.bias": bias}, made, bias


def activations() -> np.ndarray:
    x = np.random.default_rng(8).standard_normal((ROWS, WIDTH)).astype(np.float32)
    x[0] *= 1000
    x[1] = 0
    return x


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_linear_with_fp8_activations_computes_with_rounded_ones(kind: Activations, tmp_path: Path) -> None:
    x = activations()
    scale = float(np.abs(x[2:]).max() / FP8_MAX)  # of rows 2 and 3: row 0 is clipped
    model, tensors, codes, bias = built(Format(kind="fp8", activations=kind), scale=scale)
    step = np.abs(x).max(axis=1, keepdims=True) / np.float32(FP8_MAX) if kind == "dynamic" else np.float32(scale)
    rounded = e4m3(x / np.where(step == 0, 1, step)) * step
    expected = rounded @ dequantise(codes).T + bias
    (found,) = session(onnx_io.attach(model, tensors)).run(["y"], {"x": x})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())

    onnx_io.save(model, tmp_path / "g.onnx")
    text = iree.import_graph(tmp_path / "g.onnx", inputs=1, work=tmp_path, limits=LIMITS)
    rewritten = rewrite_linears(text, encodings={"fp8": "e4m3-bits"}, scope="model")
    assert rewritten.layers == {"fc"}
    kept = {"fc.bias": Packed(payload=bias, dtype="float32", shape=bias.shape)}
    write_archive({**pack("fc", codes, "e4m3-bits"), **kept}, tmp_path / "w.irpa")
    code, _ = iree.compile_module(rewritten.mlir, FLAGS, work=tmp_path, limits=LIMITS)
    compiled = run_on_cpu(code, tmp_path / "w.irpa", {"x": x}, {"y": found.shape}, "graph")["y"]
    np.testing.assert_allclose(compiled, found, rtol=0, atol=1e-5 * np.abs(found).max())


def test_static_activations_need_a_scale() -> None:
    with pytest.raises(InternalError, match="without a scale"):
        built(Format(kind="fp8", activations="static"))


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("fp8(activations=dynamic)", "fp8-dynamic"), ("w4a16(group=128)", "w4a16-g128"),
        ("w4a16(embeddings=int8, budget_bits=4.6)", "w4a16-e8-b4.6"), ("w4a16-g128-asym", "w4a16-asym-g128"),
    ],
)
def test_long_and_short_names_are_one_scheme(name: str, same: str) -> None:
    assert scheme(name) == scheme(same)
    assert scheme(name).name == same


@pytest.mark.parametrize(
    "name",
    [
        "w4a16-dynamic", "fp8-asym", "fp32-e8", "w4a16-g7", "w4a16-b99", "w4a16-b4-b5", "w4a16-e9", "fp8-static-rtn",
        "w4a16(colour=red)", "fp8-b5", "w4a16-", "w4a17",
    ],
)
def test_options_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        scheme(name)
    assert caught.value.hint
