"""int8 activations: ONNX Runtime, compiled code and the CPU's kernel round the same blocks to the same levels."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from compiled_parts import FLAGS, LIMITS, run_on_cpu
from onnx import TensorProto, helper
from test_kernel_calls import compiled
from test_passes import imported
from test_tiled_kernels import own
from vendor_parts import opened

from hwc import onnx_io
from hwc.capture.simplify import session
from hwc.errors import InternalError, UsageError
from hwc.formats import Format, Zeros
from hwc.lower import iree
from hwc.lower.passes.linears import rewrite_linears
from hwc.quantise.codes import Codes, dequantise, nearest
from hwc.quantise.encode import write_archive
from hwc.quantise.encodings import pack
from hwc.quantise.graph import apply, onnx_tensors
from hwc.quantise.linears import assign, find
from hwc.quantise.scheme import find as scheme

LAYER = "fc/1.b"
Made = tuple[onnx.ModelProto, dict[str, np.ndarray], Codes]


def rounded(x: np.ndarray) -> np.ndarray:
    """Return what blocks of 32 values are rounded to, in float32."""
    blocks = x.reshape(*x.shape[:-1], -1, 32)
    largest = np.maximum(np.abs(blocks).max(axis=-1, keepdims=True), np.float32(2.0**-100))
    levels = np.rint(blocks * (np.float32(127) / largest))
    assert np.abs(levels).max() <= 127
    return (levels * (largest * (np.float32(1) / np.float32(127)))).reshape(x.shape)


def built(shape: list[int | str], k: int, n: int, group: int = 32, zeros: Zeros = "none") -> Made:
    """Return a detached model of one linear with int8 activations, its initializers and its codes."""
    weight = np.random.default_rng(4).standard_normal((k, n)).astype(np.float32)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [*shape, k])]
    inputs.append(helper.make_tensor_value_info(f"{LAYER}.weight", TensorProto.FLOAT, [k, n]))
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [*shape, n])]
    node = helper.make_node("MatMul", ["x", f"{LAYER}.weight"], ["y"], name="fc")
    graph = helper.make_graph([node], "main_graph", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx_io.set_weight_names(model, [f"{LAYER}.weight"])
    form = Format(kind="int4", group_size=group, zeros=zeros, activations="int8")
    (linear,) = assign(find(model), {"linear": form})
    apply([linear], model, where="test")
    codes = nearest(np.ascontiguousarray(weight.T), form)
    return model, onnx_tensors(linear, codes), codes


def activations(shape: list[int], k: int) -> np.ndarray:
    """Return rows of every size: one of large values, one of zeros, one of ties between levels, one below all steps."""
    x = np.random.default_rng(8).standard_normal((*shape, k)).astype(np.float32)
    rows = x.reshape(-1, k)
    rows[0] *= 1e4
    rows[1] = 0
    rows[2] = np.resize(np.arange(-15.5, 16.5), k)
    rows[2, 7::32] = 127
    rows[3] *= np.float32(1e-36)
    return x


def answer(model: onnx.ModelProto, tensors: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    found: np.ndarray = session(onnx_io.attach(model, tensors)).run(["y"], {"x": x})[0]
    return found


@pytest.mark.parametrize("shape", [[4], ["rows"], ["batch", "tokens"]])
def test_the_reference_multiplies_by_rounded_activations_in_static_and_dynamic_shapes(shape: list[int | str]) -> None:
    sizes = [4] if len(shape) == 1 else [2, 3]
    model, tensors, codes = built(shape, 96, 20)
    x = activations(sizes, 96)
    expected = rounded(x).astype(np.float64) @ dequantise(codes).T.astype(np.float64)
    found = answer(model, tensors, x)
    worst = np.abs(found - expected).max(axis=-1) / (np.abs(expected).max(axis=-1) + 1e-30)
    assert worst.max() < 1e-6
    assert not found.reshape(-1, 20)[1].any()
    exact = np.abs(x.astype(np.float64) @ dequantise(codes).T - expected).max(axis=-1)
    assert (exact.reshape(-1)[[0, 2]] > 1e-3).all()  # what was rounded is not what came


def test_compiled_code_rounds_as_the_reference_does(tmp_path: Path) -> None:
    model, tensors, codes = built([4], 96, 20)
    x = activations([4], 96)
    expected = answer(model, tensors, x)
    rewritten = rewrite_linears(imported(model, tmp_path), encodings={"int4": "i4-grouped"}, scope="model")
    write_archive(pack(LAYER, codes, "i4-grouped"), tmp_path / "w.irpa")
    code, _ = iree.compile_module(rewritten.mlir, FLAGS, work=tmp_path, limits=LIMITS)
    found = run_on_cpu(code, tmp_path / "w.irpa", {"x": x}, {"y": expected.shape})["y"]
    np.testing.assert_array_less(np.abs(found - expected).max(axis=1), 1e-6 * np.abs(expected).max(axis=1) + 1e-30)
    for value in (np.nan, np.inf, -np.inf):
        x[2, 40] = value
        for given in (answer(model, tensors, x), run_on_cpu(code, tmp_path / "w.irpa", {"x": x}, {"y": (4, 20)})["y"]):
            assert np.isfinite(given).all(axis=1).tolist() == [True, True, False, True]
            assert not np.isfinite(given[2]).any()


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
@pytest.mark.parametrize(
    ("shape", "k", "n", "group", "zeros"),
    [
        ([4], 96, 48, 32, "none"),
        pytest.param([2, 9], 256, 32, 128, "point", marks=pytest.mark.slow),
        pytest.param([1, 5], 96, 20, 32, "none", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_the_kernel_takes_the_activation_as_it_comes_and_computes_what_the_reference_computes(
    shape: list[int], k: int, n: int, group: int, zeros: Zeros, tmp_path: Path
) -> None:
    model, tensors, codes = built([*shape], k, n, group, zeros)
    x = activations(shape, k)
    expected = answer(model, tensors, x)
    kernels = own(tmp_path)
    rewritten = rewrite_linears(
        imported(model, tmp_path), encodings={"int4": "i4-tiled"}, scope="model", choose=kernels.door.chosen
    )
    (seen,) = rewritten.seen
    assert (seen.product.pattern, seen.call and seen.call.kernel.symbol) == ("rounded_matmul_int4", "hwc_w4a8")
    kernels.note("main_graph", rewritten.seen)
    write_archive(pack(LAYER, codes, "i4-tiled"), tmp_path / "w.irpa")
    kernels.complete()
    flow = iree.flow_text(kernels.declared(rewritten.mlir), (*FLAGS, *kernels.flags), work=tmp_path, limits=LIMITS)
    assert "roundeven" not in flow
    code = compiled(kernels.declared(rewritten.mlir), tmp_path)
    found = run_on_cpu(code, tmp_path / "w.irpa", {"x": x}, {"y": expected.shape})["y"]
    size = np.abs(expected).max(axis=-1)
    np.testing.assert_array_less(np.abs(found - expected).max(axis=-1), 2e-6 * size + 1e-30)


def test_a_kernel_of_plain_int4_products_gets_the_rounded_activation(tmp_path: Path) -> None:
    model, tensors, codes = built([4], 96, 20)
    x = activations([4], 96)
    expected = answer(model, tensors, x)
    acme = opened(tmp_path)
    rewritten = rewrite_linears(
        imported(model, tmp_path), encodings={"int4": "i4-grouped"}, scope="model", choose=acme.door.chosen
    )
    (seen,) = rewritten.seen
    assert seen.call is not None
    assert seen.product.pattern == "dequantise_matmul_int4"
    acme.note("main_graph", rewritten.seen)
    write_archive(pack(LAYER, codes, "i4-grouped"), tmp_path / "w.irpa")
    code = compiled(acme.declared(rewritten.mlir), tmp_path)
    found = run_on_cpu(code, tmp_path / "w.irpa", {"x": x}, {"y": expected.shape})["y"]
    np.testing.assert_array_less(np.abs(found - expected).max(axis=1), 2e-6 * np.abs(expected).max(axis=1) + 1e-30)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [('most: "0x080000000000FE42"', 'most: "0x080000000000FC42"'), ('"onnx.Round"', '"onnx.Floor"'),
     ("[4,3,32]", "[4,6,16]"), ('"onnx.Max"', '"onnx.Min"')],
)  # fmt: skip
def test_only_this_rounding_is_taken_for_the_kernels(right: str, wrong: str, tmp_path: Path) -> None:
    model, _, _ = built([4], 96, 20)
    text = imported(model, tmp_path)
    assert right in text
    assert patterns_of(text) == ["rounded_matmul_int4", "dequantise_matmul_int4"]
    assert patterns_of(text.replace(right, wrong)) == ["dequantise_matmul_int4"]


def patterns_of(text: str) -> list[str]:
    """Return the patterns that kernels are looked for by, in order."""
    asked: list[str] = []
    rewrite_linears(
        text, encodings={"int4": "i4-grouped"}, scope="model", choose=lambda product: asked.append(product.pattern)
    )
    return asked


def test_blocks_do_not_end_within_a_group() -> None:
    with pytest.raises(InternalError, match="no multiple of the 32 activations"):
        built([4], 48, 16, group=16)


@pytest.mark.parametrize(
    ("name", "linears", "embeddings"),
    [
        ("w4a8", "int4 g32, int8 activations", "int8 g32"),
        ("w4a8-g128-rtn", "int4 g128, int8 activations", "int8 g32"),
        ("w4a8-asym-e4", "int4 g32 zero points, int8 activations", "int4 g32"),
        ("w4a8(group=64, inputs=awq)", "int4 g64, int8 activations", "int8 g32"),
    ],
)  # fmt: skip
def test_linears_alone_have_int8_activations(name: str, linears: str, embeddings: str) -> None:
    formats = scheme(name).of_model("int8").formats
    assert [form and form.told() for form in (formats["linear"], formats["embedding"])] == [linears, embeddings]
    assert scheme(name).rounds_activations


@pytest.mark.parametrize("name", ["w4a8-dynamic", "w4a8-static", "w8a8", "w4a8-b99"])
def test_options_that_do_not_fit_int8_activations_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        scheme(name)
