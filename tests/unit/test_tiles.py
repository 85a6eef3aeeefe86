"""Float weights in tiles: what lies where, and that products and everything else read the same numbers."""

from __future__ import annotations

import platform
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled_parts import LIMITS, run_on_cpu
from cpu_targets import TARGETS, V3, shipped
from vendor_parts import X86

from hwc.errors import IntegrityError
from hwc.formats import Format
from hwc.lower import cpu_flags, dispatch_work, iree, vendor
from hwc.lower.flags import HOST_FLAGS, compiler_flags
from hwc.lower.opened import Opened
from hwc.lower.passes.tiled_floats import rewrite_tiled
from hwc.lower.tiles import product_flags, rows_at_once
from hwc.quantise.encode import write_archive
from hwc.quantise.encodings import Packed
from hwc.quantise.linears import SHARED, Linear
from hwc.quantise.tiles import SUFFIXES, from_tiles, tiled, to_tiles
from hwc.spec.target import Lowering

K, N = 24, 32
WEIGHT = np.random.default_rng(3).standard_normal((K, N), np.float32)


def _linear(name: str, **changed: Any) -> Linear:
    told: dict[str, Any] = {"layer": name, "weight": f"{name}.weight", "k": K, "n": N, "transposed": False, **changed}
    return Linear(**told)


SUFFIX = SUFFIXES[False]
KEYS = tuple(SUFFIXES.values())


def test_only_whole_float_linears_lie_in_tiles() -> None:
    """Tables, shared weights and what is quantised stay as they are; a Gemm's W[N, K] is told from a MatMul's."""
    rows = [
        _linear("a"), _linear("shared", skip=SHARED), _linear("odd", n=24), _linear("turned", transposed=True),
        _linear("table", role="embedding"), _linear("coded", format=Format(kind="fp8")),
    ]

    assert tiled(rows) == {"a.weight": False, "turned.weight": True}


def test_sixteen_columns_lie_beside_each_other_and_come_back() -> None:
    """The first 16 floats are the first row of the first 16 columns, the next 16 its second row."""
    tiles = to_tiles(WEIGHT, transposed=False)

    assert tiles.shape == (N // 16, K, 16, 1)
    assert np.array_equal(tiles.reshape(-1)[:32], np.concatenate([WEIGHT[0, :16], WEIGHT[1, :16]]))
    assert np.array_equal(from_tiles(tiles, (K, N), transposed=False), WEIGHT)
    assert np.array_equal(to_tiles(WEIGHT.T.copy(), transposed=True), tiles)
    assert np.array_equal(from_tiles(tiles, (N, K), transposed=True), WEIGHT.T)


def _module(rows: int, *, other_use: bool) -> str:
    """Return what the importer writes for x · W, and for W + x · W where something else reads W as well."""
    x, w, y = (f"!torch.vtensor<[{shape}],f32>" for shape in (f"1,{rows},{K}", f"{K},{N}", f"1,{rows},{N}"))
    second = f'    %3 = torch.operator "onnx.Neg"(%1) : ({w}) -> {w} '
    results, types = ("%2, %3", f"{y}, {w}") if other_use else ("%2", y)
    lines = [
        "module {",
        f'  util.global private @"a.weight" = #stream.parameter.named<"model"::"a.weight"> : tensor<{K}x{N}xf32>',
        f"  func.func @main_graph(%arg0: {x}) -> ({types}) attributes {{torch.onnx_meta.ir_version = 10 : si64, "
        'torch.onnx_meta.opset_version = 21 : si64, torch.onnx_meta.producer_name = "", '
        'torch.onnx_meta.producer_version = ""} {',
        f'    %_a.weight = util.global.load @"a.weight" : tensor<{K}x{N}xf32>',
        f"    %1 = torch_c.from_builtin_tensor %_a.weight : tensor<{K}x{N}xf32> -> {w}",
        f'    %2 = torch.operator "onnx.MatMul"(%arg0, %1) : ({x}, {w}) -> {y} ',
        *([second] if other_use else []),
        f"    return {results} : {types}",
        "  }",
        "}",
    ]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(("rows", "most"), [(1, 16), (5, 4), (16, 16), (19, 16)])
def test_products_of_tiles_are_those_of_the_weight(tmp_path: Path, rows: int, most: int) -> None:
    """Rows that fill no block are padded and left out again; nothing but the product reads the weight."""
    text, _ = rewrite_tiled(_module(rows, other_use=False), {"a.weight": False}, most)
    x = np.random.default_rng(rows).standard_normal((1, rows, K), np.float32)

    (found,) = _run(text, tmp_path, x)

    assert "linalg.unpack %_a" not in text
    assert np.allclose(found, x @ WEIGHT, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
def test_a_kernel_takes_products_of_tiles_and_what_else_reads_the_weight_gets_it_whole(tmp_path: Path) -> None:
    """Its call stands where the compiler's product of tiles would; sums are those of the weight."""
    opened = _opened(tmp_path)
    text, seen = rewrite_tiled(_module(19, other_use=True), {"a.weight": False}, 4, opened.door.chosen)
    opened.note("main_graph", seen)
    opened.complete()
    x = np.random.default_rng(19).standard_normal((1, 19, K), np.float32)

    product, negative = _run(opened.declared(text), tmp_path, x, opened.flags)

    (one,) = seen
    assert one.call is not None
    assert one.call.kernel.symbol == "hwc_matmul_f32"
    assert "linalg.mmt4d" not in text
    assert np.allclose(product, x @ WEIGHT, rtol=1e-5, atol=1e-5)
    assert np.array_equal(negative, -WEIGHT)


def _gemm(rows: int, *, alpha: float = 1.0) -> str:
    """Return what the importer writes for x · Wᵀ + b, with W[N, K]."""
    x, w, b, y = (f"!torch.vtensor<[{shape}],f32>" for shape in (f"{rows},{K}", f"{N},{K}", N, f"{rows},{N}"))
    lines = [
        "module {",
        f'  util.global private @"a.weight" = #stream.parameter.named<"model"::"a.weight"> : tensor<{N}x{K}xf32>',
        f'  util.global private @"a.bias" = #stream.parameter.named<"model"::"a.bias"> : tensor<{N}xf32>',
        f"  func.func @main_graph(%arg0: {x}) -> ({y}) attributes {{torch.onnx_meta.ir_version = 10 : si64, "
        'torch.onnx_meta.opset_version = 21 : si64, torch.onnx_meta.producer_name = "", '
        'torch.onnx_meta.producer_version = ""} {',
        f'    %_a.weight = util.global.load @"a.weight" : tensor<{N}x{K}xf32>',
        f"    %1 = torch_c.from_builtin_tensor %_a.weight : tensor<{N}x{K}xf32> -> {w}",
        f'    %_a.bias = util.global.load @"a.bias" : tensor<{N}xf32>',
        f"    %2 = torch_c.from_builtin_tensor %_a.bias : tensor<{N}xf32> -> {b}",
        f'    %3 = torch.operator "onnx.Gemm"(%arg0, %1, %2) {{torch.onnx.alpha = {alpha:e} : f32, '
        f"torch.onnx.beta = 1.000000e+00 : f32, torch.onnx.transB = 1 : si64}} : ({x}, {w}, {b}) -> {y} ",
        f"    return %3 : {y}",
        "  }",
        "}",
    ]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("generated", [True, False])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_a_gemm_reads_tiles_of_its_rows_and_adds_its_bias(
    tmp_path: Path, rows: int, alpha: float, *, generated: bool
) -> None:
    """In the compiler's product and in the kernel's; a Gemm with a factor gets its weight whole."""
    if not generated and shutil.which("cc") is None:
        pytest.skip("no C compiler is installed")
    opened = None if generated else _opened(tmp_path)
    text, seen = rewrite_tiled(_gemm(rows, alpha=alpha), {"a.weight": True}, 4, opened and opened.door.chosen)
    flags: tuple[str, ...] = ()
    if opened is not None:
        opened.note("main_graph", seen)
        opened.complete()
        text, flags = opened.declared(text), opened.flags
    x = np.random.default_rng(rows).standard_normal((rows, K), np.float32)

    (found,) = _run(text, tmp_path, x, flags)

    assert [one.call is None for one in seen] == ([generated] if alpha == 1.0 else [])
    assert re.findall(r'named<"model"::"(a.weight[^"]*)">', text) == ["a.weight" + SUFFIXES[True]]
    assert np.allclose(found, alpha * (x @ WEIGHT) + np.arange(N), rtol=1e-5, atol=1e-5)


def _opened(work: Path) -> Opened:
    """Open the door of the shipped target of this CPU."""
    spec, note = cpu_flags.resolved(shipped("llvm-cpu-host"), platform.machine(), V3)
    assert note == ""
    door = vendor.door(vendor.params(spec, TARGETS), TARGETS, 60.0)
    assert door is not None
    return Opened(replace(door, whole=False), X86, work)


def test_what_else_reads_a_weight_gets_it_whole(tmp_path: Path) -> None:
    """No module declares the plain key, whatever is done with the weight beside multiplying by it."""
    text, _ = rewrite_tiled(_module(3, other_use=True), {"a.weight": False}, 16)
    x = np.ones((1, 3, K), np.float32)

    product, negative = _run(text, tmp_path, x)

    assert re.findall(r'named<"model"::"([^"]+)">', text) == ["a.weight" + SUFFIX]
    assert np.allclose(product, x @ WEIGHT, rtol=1e-5, atol=1e-5)
    assert np.array_equal(negative, -WEIGHT)


def _run(text: str, work: Path, x: np.ndarray, more: tuple[str, ...] = ()) -> list[np.ndarray]:
    here = Lowering(backend="llvm-cpu", cpu="host", cpu_features=iree.probe_cpu(HOST_FLAGS, work).features)
    flags = (*HOST_FLAGS, "--iree-opt-level=O1", *product_flags(here), *more)
    path, _ = iree.compile_module(text, flags, work=work, limits=LIMITS)
    tiles, bias = to_tiles(WEIGHT, transposed=False), np.arange(N, dtype=np.float32)
    entries = {"a.weight" + suffix: Packed(payload=tiles, dtype="float32", shape=tiles.shape) for suffix in KEYS}
    write_archive({**entries, "a.bias": Packed(payload=bias, dtype="float32", shape=bias.shape)}, work / "w.irpa")
    shapes = {"product": (*x.shape[:-1], N), **({"negative": (K, N)} if "onnx.Neg" in text else {})}
    return list(run_on_cpu(path, work / "w.irpa", {"x": x}, shapes).values())


@pytest.mark.parametrize(("cpu", "generic"), [("x86-64-v3", True), ("x86-64-v4", False)])
def test_no_product_of_tiles_falls_to_a_microkernel_that_does_not_know_them(
    tmp_path: Path, cpu: str, generic: bool
) -> None:
    """The compiler's own calls one that does a number at a time, unless it is told not to."""
    lowering = Lowering(backend="llvm-cpu", cpu=cpu, opt_level="O1")
    lowering = lowering.model_copy(update={"cpu_features": iree.probe_cpu(compiler_flags(lowering), tmp_path).features})
    text, _ = rewrite_tiled(_module(16, other_use=False), {"a.weight": False}, rows_at_once(lowering))
    flags = (*compiler_flags(lowering), "--compile-to=executable-targets")

    before, _ = iree.compile_module(text, flags, work=tmp_path, limits=LIMITS)
    called = "iree_uk_mmt4d" in before.read_text()
    after, _ = iree.compile_module(text, (*flags, *product_flags(lowering)), work=tmp_path, limits=LIMITS)

    assert called
    assert ("iree_uk_mmt4d" in after.read_text()) is not generic


def test_the_work_of_a_product_of_tiles_is_told_by_its_extents(tmp_path: Path) -> None:
    """Rows that pad a block count: they are multiplied; packing moves what it packs."""
    text, _ = rewrite_tiled(_module(19, other_use=False), {"a.weight": False}, 4)
    flags = (*HOST_FLAGS, "--iree-opt-level=O1")

    rows = dispatch_work.read(iree.flow_text(text, flags, work=tmp_path, limits=LIMITS))["main_graph"]

    (product,) = [row for row in rows if row.op == "matmul"]
    assert (product.m, product.n, product.k, product.weights) == (20, N, K, "float32")
    assert (product.flops, product.weight_bytes) == (2 * 20 * N * K, 4 * N * K)
    assert {row.op for row in rows} == {"matmul", "transpose"}


def test_a_weight_in_tiles_is_restored_to_the_bit_and_a_short_one_refused() -> None:
    """A bundle's graph gets its weights back from what a target's code reads."""
    from onnx import TensorProto, helper

    from hwc.quantise.restore import plain

    weight = helper.make_tensor_value_info("a.weight", TensorProto.FLOAT, [K, N])
    turned = helper.make_tensor_value_info("b.weight", TensorProto.FLOAT, [N, K])
    model = helper.make_model(helper.make_graph([], "g", [weight, turned], []))
    stored = to_tiles(WEIGHT, transposed=False).tobytes()

    assert np.array_equal(plain(model, "a.weight", {"a.weight" + SUFFIX: stored}), WEIGHT)
    assert np.array_equal(plain(model, "b.weight", {"b.weight" + SUFFIXES[True]: stored}), WEIGHT.T)
    with pytest.raises(IntegrityError, match="bytes"):
        plain(model, "a.weight", {"a.weight" + SUFFIX: stored[:-4]})
