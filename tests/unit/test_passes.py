"""Every encoding computes what ONNX Runtime computes on the same quantised linear, whatever its shape."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from compiled_parts import FLAGS, LIMITS, run_on_cpu
from onnx import TensorProto, helper

from hwc import onnx_io
from hwc.capture.simplify import session
from hwc.formats import BITS, Kind, Zeros
from hwc.lower import iree
from hwc.lower.passes.linears import rewrite_linears
from hwc.lower.passes.merge import merge_buckets
from hwc.quantise.codes import Codes
from hwc.quantise.encode import read_archive, write_archive
from hwc.quantise.encodings import ENCODINGS, geometry_of, pack, unpack
from hwc.quantise.graph import onnx_tensors
from hwc.quantise.linears import Linear

LAYER = "a/b-c.0"


def integers(kind: Kind, n: int, k: int, group: int, zeros: Zeros) -> Codes:
    rng = np.random.default_rng(n + k)
    levels = 1 << BITS[kind]
    return Codes(
        kind=kind,
        codes=rng.integers(0, levels, (n, k)).astype(np.uint8),
        scales=(rng.random((n, k // group)) * 0.1 + 0.01).astype(np.float16),
        zeros=rng.integers(0, levels, (n, k // group)).astype(np.uint8) if zeros == "point" else None,
        offsets=rng.standard_normal((n, k // group)).astype(np.float16) if zeros == "offset" else None,
    )


def fp8_codes(n: int, k: int) -> Codes:
    """Return codes that hold every E4M3 bit pattern that is a number."""
    patterns = np.array([bits for bits in range(256) if bits & 0x7F != 0x7F], np.uint8)
    scales = np.random.default_rng(n).random((n, 1)).astype(np.float32) * 0.01 + 0.001
    return Codes(kind="fp8", codes=np.resize(patterns, (n, k)), scales=scales)


def quantised_graph(shape: list[int], codes: Codes) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return a detached graph of one quantised linear, and its initializers."""
    n, k = codes.codes.shape
    tensors = onnx_tensors(Linear(layer=LAYER, weight=LAYER, n=n, k=k, transposed=True), codes)
    names = list(tensors)
    if codes.kind != "fp8":
        group = k // codes.scales.shape[1]
        attributes = {"K": k, "N": n, "bits": BITS[codes.kind], "block_size": group, "accuracy_level": 1}
        nodes = [helper.make_node("MatMulNBits", ["x", *names], ["y"], domain="com.microsoft", **attributes)]
    else:
        nodes = [
            helper.make_node("DequantizeLinear", names, ["w"], axis=1),
            helper.make_node("MatMul", ["x", "w"], ["y"]),
        ]
    fp8 = np.dtype(ml_dtypes.float8_e4m3fn)
    kinds = {np.dtype(np.uint8): TensorProto.UINT8, np.dtype(np.float32): TensorProto.FLOAT}
    kinds[fp8] = TensorProto.FLOAT8E4M3FN
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    inputs += [helper.make_tensor_value_info(name, kinds[value.dtype], value.shape) for name, value in tensors.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [*shape[:-1], n])]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(nodes, "main_graph", inputs, outputs)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx_io.set_weight_names(model, names)
    return model, tensors


def imported(model: onnx.ModelProto, work: Path, name: str = "g") -> str:
    onnx_io.save(model, work / f"{name}.onnx")
    return iree.import_graph(work / f"{name}.onnx", inputs=1, work=work, limits=LIMITS)


INTEGER_CASES: list[tuple[list[int], int, int, int, Zeros]] = [
    ([3, 96], 20, 96, 32, "point"),
    ([2, 5, 96], 7, 96, 32, "point"),
    ([2, 3, 4, 64], 16, 64, 16, "none"),
    ([1, 1, 256], 2, 256, 128, "point"),
    ([1, 64], 1, 64, 64, "none"),
    ([3, 96], 20, 96, 32, "offset"),
]
FP8_CASES = [([3, 96], 20, 96), ([2, 5, 96], 7, 96), ([1, 1, 508], 2, 508)]
CASES = [
    *(
        (encoding, shape, integers(kind, n, k, group, zeros))
        for kind, encodings in ENCODINGS.items() if kind != "fp8"
        for encoding in encodings
        for shape, n, k, group, zeros in INTEGER_CASES if not (kind == "int8" and zeros == "offset")
    ),
    *(
        ("i4-tiled", shape, integers("int4", n, k, group, zeros))
        for shape, n, k, group, zeros in (([2, 5, 96], 32, 96, 32, "point"), ([3, 96], 48, 96, 32, "offset"))
    ),
    *((encoding, shape, fp8_codes(n, k)) for encoding in ENCODINGS["fp8"] for shape, n, k in FP8_CASES),
]


@pytest.mark.parametrize(("encoding", "shape", "codes"), CASES)
def test_a_packed_linear_computes_what_onnx_runtime_computes(encoding, shape, codes, tmp_path: Path):
    model, tensors = quantised_graph(shape, codes)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = session(onnx_io.attach(model, tensors)).run(None, {"x": x})[0]
    rewritten = rewrite_linears(imported(model, tmp_path), encodings={codes.kind: encoding}, scope="model")
    assert rewritten.layers == {LAYER}
    packed = pack(LAYER, codes, encoding)
    declared = {(use.key, use.dtype, use.shape) for use in rewritten.parameters}
    assert declared == {(key, part.dtype, part.shape) for key, part in packed.items()}
    write_archive(packed, tmp_path / "w.irpa")
    code, _ = iree.compile_module(rewritten.mlir, FLAGS, work=tmp_path, limits=LIMITS)
    found = run_on_cpu(code, tmp_path / "w.irpa", {"x": x}, {"y": expected.shape})["y"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("encoding", "shape", "codes"), CASES)
def test_an_archive_gives_back_the_codes_it_was_packed_from(encoding, shape, codes, tmp_path: Path):
    write_archive(pack(LAYER, codes, encoding), tmp_path / "w.irpa")
    back = unpack(LAYER, read_archive(tmp_path / "w.irpa"), codes.kind, geometry_of(codes), encoding)
    np.testing.assert_array_equal(back.codes, codes.codes)
    np.testing.assert_array_equal(back.scales, codes.scales)
    for part in ("zeros", "offsets"):
        mine, found = getattr(codes, part), getattr(back, part)
        assert (found is None) == (mine is None)
        if mine is not None:
            np.testing.assert_array_equal(found, mine)


def test_merged_buckets_share_their_weights_and_keep_their_own_shapes(tmp_path: Path):
    codes = integers("int4", 8, 64, 32, "none")
    texts, expected, feeds = {}, {}, {}
    for name, shape in {"b1": [1, 64], "b5": [5, 64]}.items():
        model, tensors = quantised_graph(shape, codes)
        feeds[name] = np.random.default_rng(len(name)).standard_normal(shape).astype(np.float32)
        expected[name] = session(onnx_io.attach(model, tensors)).run(None, {"x": feeds[name]})[0]
        text = imported(model, tmp_path, name)
        texts[name] = rewrite_linears(text, encodings={"int4": "i4-grouped"}, scope="model").mlir
    merged = merge_buckets(texts)
    assert merged.count(f'"{LAYER}.codes">') == 1
    write_archive(pack(LAYER, codes, "i4-grouped"), tmp_path / "w.irpa")
    code, _ = iree.compile_module(merged, FLAGS, work=tmp_path, limits=LIMITS)
    for name, x in feeds.items():
        found = run_on_cpu(code, tmp_path / "w.irpa", {"x": x}, {"y": expected[name].shape}, name)["y"]
        np.testing.assert_allclose(found, expected[name], rtol=0, atol=1e-5 * np.abs(expected[name]).max())


def test_buckets_that_declare_a_weight_differently_are_not_merged():
    line = '  util.global private @w = #stream.parameter.named<"model"::"w"> : tensor<{}xf32>'
    texts = {name: "\n".join(["module {", line.format(size), "}"]) for name, size in {"a": 4, "b": 5}.items()}
    with pytest.raises(ValueError, match="declare w differently"):
        merge_buckets(texts)


def test_an_unknown_encoding_is_refused():
    with pytest.raises(ValueError, match="unknown encoding"):
        rewrite_linears("module {\n}\n", encodings={"int4": "i4-magic"}, scope="model")
