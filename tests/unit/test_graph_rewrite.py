"""The quantised graph, in strict ONNX Runtime, computes with exactly the weights that the codes stand for."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_parts import model_of

from hwc import onnx_io
from hwc.capture.simplify import session
from hwc.formats import Format, Zeros
from hwc.quantise.codes import Codes, dequantise, fp8, int4
from hwc.quantise.graph import apply, onnx_tensors
from hwc.quantise.linears import Linear, assign, find

OUT = 48


def built(op: str, width: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return a detached model with one linear and its weights: MatMul, or Gemm with a bias, transposed or not."""
    rng = np.random.default_rng(width)
    weight = (rng.standard_normal((width, OUT)) + 0.5).astype(np.float32)
    if op == "MatMul":
        nodes, tensors = [helper.make_node("MatMul", ["x", "fc.weight"], ["y"], name="fc")], {"fc.weight": weight}
    else:
        transposed = op == "Gemm transposed"
        nodes = [helper.make_node("Gemm", ["x", "fc.weight", "fc.bias"], ["y"], name="fc", transB=int(transposed))]
        bias = rng.standard_normal(OUT).astype(np.float32)
        tensors = {"fc.weight": np.ascontiguousarray(weight.T) if transposed else weight, "fc.bias": bias}
    model = model_of(nodes, tensors, width=width, out=OUT, rows=3)
    return model, onnx_io.detach(model)


def formatted(model: onnx.ModelProto, scheme: str, group: int) -> list[Linear]:
    zeros: Zeros = "point" if scheme == "w4a16-asym" else "none"
    form = Format(kind="fp8") if scheme == "fp8" else Format(kind="int4", group_size=group, zeros=zeros)
    return assign(find(model), {"linear": form})


def coded(matrix: np.ndarray, scheme: str, group: int) -> Codes:
    return fp8(matrix) if scheme == "fp8" else int4(matrix, group_size=group, symmetric=scheme == "w4a16")


@pytest.mark.parametrize("scheme", ["w4a16", "w4a16-asym", "fp8"])
@pytest.mark.parametrize("op", ["MatMul", "Gemm", "Gemm transposed"])
@pytest.mark.parametrize(("width", "group"), [(32, 32), (96, 32), (128, 32), (160, 32), (64, 16), (256, 128)])
def test_a_quantised_linear_computes_with_its_dequantised_weight(scheme: str, op: str, width: int, group: int) -> None:
    model, weights = built(op, width)
    (linear,) = formatted(model, scheme, group)
    weight = weights.pop("fc.weight")
    made = coded(np.ascontiguousarray(weight if linear.transposed else weight.T), scheme, group)
    apply([linear], model, where="test")
    x = np.random.default_rng(9).standard_normal((3, width)).astype(np.float32)
    whole = onnx_io.attach(model, {**weights, **onnx_tensors(linear, made)})
    (found,) = session(whole).run(["y"], {"x": x})
    expected = x.astype(np.float64) @ dequantise(made).astype(np.float64).T + weights.get("fc.bias", 0.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("scheme", ["w4a16", "w4a16-asym", "fp8"])
def test_the_float_weight_is_gone_from_the_quantised_graph(scheme: str) -> None:
    model, _ = built("Gemm", 96)
    apply(formatted(model, scheme, 32), model, where="test")
    names = [value.name for value in model.graph.input]
    assert "fc.weight" not in names
    parts = ["fc.codes", "fc.scales", *(["fc.zeros"] if scheme == "w4a16-asym" else [])]
    assert names == ["x", "fc.bias", *parts]
    assert list(onnx_io.weight_names(model)) == ["fc.bias", *parts]


def test_a_linear_that_was_not_chosen_stays_as_it_is() -> None:
    model, _ = built("MatMul", 64)
    before = model.SerializeToString(deterministic=True)
    apply([], model, where="test")
    assert model.SerializeToString(deterministic=True) == before


def test_a_zero_point_matters_to_onnx_runtime() -> None:
    """Were zero points ignored, the tests above could not tell."""
    model, weights = built("MatMul", 96)
    (linear,) = formatted(model, "w4a16-asym", 32)
    made = int4(np.ascontiguousarray(weights["fc.weight"].T), group_size=32, symmetric=False)
    apply([linear], model, where="test")
    x = np.ones((3, 96), np.float32)
    right = session(onnx_io.attach(model, onnx_tensors(linear, made))).run(["y"], {"x": x})[0]
    assert made.zeros is not None
    wrong = Codes(kind="int4", codes=made.codes, scales=made.scales, zeros=np.full_like(made.zeros, 8))
    other = session(onnx_io.attach(model, onnx_tensors(linear, wrong))).run(["y"], {"x": x})[0]
    assert np.abs(right - other).max() > 0.1
