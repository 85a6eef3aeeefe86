"""Work read from the compiler's flow IR equals what counting by hand gives."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from compiled_parts import FLAGS, LIMITS

from hwc.errors import StepError
from hwc.lower import iree, workload
from hwc.lower.dispatch_work import counted
from hwc.predict.operation import Operation

PACKED = """
util.global private @codes = #stream.parameter.named<"model"::"codes"> : tensor<256x8x32xi4>
util.global private @scales = #stream.parameter.named<"model"::"scales"> : tensor<256x8xf16>
func.func @main(%x: tensor<1x8x32xf32>) -> tensor<1x256xf32> {
  %c = util.global.load @codes : tensor<256x8x32xi4>
  %s = util.global.load @scales : tensor<256x8xf16>
  %e = tensor.empty() : tensor<256x8x32xf32>
  %w = linalg.generic {indexing_maps = [affine_map<(n, g, i) -> (n, g, i)>, affine_map<(n, g, i) -> (n, g)>,
      affine_map<(n, g, i) -> (n, g, i)>], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%c, %s : tensor<256x8x32xi4>, tensor<256x8xf16>) outs(%e : tensor<256x8x32xf32>) {
  ^bb0(%a: i4, %b: f16, %o: f32):
    %f = arith.sitofp %a : i4 to f32
    %g = arith.extf %b : f16 to f32
    %m = arith.mulf %f, %g : f32
    linalg.yield %m : f32
  } -> tensor<256x8x32xf32>
  %z = arith.constant 0.0 : f32
  %d = tensor.empty() : tensor<1x256xf32>
  %i = linalg.fill ins(%z : f32) outs(%d : tensor<1x256xf32>) -> tensor<1x256xf32>
  %y = linalg.generic {indexing_maps = [affine_map<(m, n, g, i) -> (m, g, i)>, affine_map<(m, n, g, i) -> (n, g, i)>,
      affine_map<(m, n, g, i) -> (m, n)>], iterator_types = ["parallel", "parallel", "reduction", "reduction"]}
      ins(%x, %w : tensor<1x8x32xf32>, tensor<256x8x32xf32>) outs(%i : tensor<1x256xf32>) {
  ^bb0(%a: f32, %b: f32, %o: f32):
    %p = arith.mulf %a, %b : f32
    %q = arith.addf %p, %o : f32
    linalg.yield %q : f32
  } -> tensor<1x256xf32>
  return %y : tensor<1x256xf32>
}
"""
ROWS = """
util.global private @table = #stream.parameter.named<"model"::"table"> : tensor<30000x384xf32>
func.func @main(%ids: tensor<16xi64>) -> tensor<16x384xf32> {
  %t = util.global.load @table : tensor<30000x384xf32>
  %e = tensor.empty() : tensor<16x384xf32>
  %y = linalg.generic {indexing_maps = [affine_map<(i, j) -> (i)>, affine_map<(i, j) -> (i, j)>],
      iterator_types = ["parallel", "parallel"]} ins(%ids : tensor<16xi64>) outs(%e : tensor<16x384xf32>) {
  ^bb0(%a: i64, %o: f32):
    %r = arith.index_cast %a : i64 to index
    %c = linalg.index 1 : index
    %v = tensor.extract %t[%r, %c] : tensor<30000x384xf32>
    linalg.yield %v : f32
  } -> tensor<16x384xf32>
  return %y : tensor<16x384xf32>
}
"""
WEIGHTED = """
util.global private @w = #stream.parameter.named<"model"::"w"> : tensor<{k}x{n}xf32>
func.func @main(%x: tensor<{m}x{k}xf32>) -> tensor<{m}x{n}xf32> {{
  %w = util.global.load @w : tensor<{k}x{n}xf32>
  %z = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<{m}x{n}xf32>
  %i = linalg.fill ins(%z : f32) outs(%e : tensor<{m}x{n}xf32>) -> tensor<{m}x{n}xf32>
  %y = linalg.matmul ins(%x, %w : tensor<{m}x{k}xf32>, tensor<{k}x{n}xf32>) outs(%i : tensor<{m}x{n}xf32>)
      -> tensor<{m}x{n}xf32>
  return %y : tensor<{m}x{n}xf32>
}}
"""
CONVOLVED = """
util.global private @w = #stream.parameter.named<"model"::"w"> : tensor<8x3x3x3xf32>
func.func @main(%x: tensor<1x3x34x34xf32>) -> tensor<1x8x32x32xf32> {
  %w = util.global.load @w : tensor<8x3x3x3xf32>
  %z = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<1x8x32x32xf32>
  %i = linalg.fill ins(%z : f32) outs(%e : tensor<1x8x32x32xf32>) -> tensor<1x8x32x32xf32>
  %y = linalg.conv_2d_nchw_fchw ins(%x, %w : tensor<1x3x34x34xf32>, tensor<8x3x3x3xf32>)
      outs(%i : tensor<1x8x32x32xf32>) -> tensor<1x8x32x32xf32>
  return %y : tensor<1x8x32x32xf32>
}
"""


def read(mlir: str, tmp_path: Path) -> tuple[Operation, ...]:
    return workload.operations(iree.flow_text(mlir, FLAGS, work=tmp_path, limits=LIMITS))


def test_packed_weights_count_as_stored_and_their_scales_with_them(tmp_path: Path) -> None:
    found = [one for one in read(PACKED, tmp_path) if one.op == "matmul"]
    told = [(one.m, one.n, one.k, one.weights, one.activations) for one in found]
    assert told == [(1, 256, 256, "int4", "float32")]
    assert found[0].weight_bytes == 256 * 256 / 2 + 256 * 8 * 2
    assert found[0].flops == 2 * 256 * 256 + 256 * 256  # the product, and a code times its scale
    assert (found[0].read_bytes, found[0].write_bytes) == (256 * 4, 256 * 4)


def test_a_gather_counts_the_rows_it_takes_and_not_its_table(tmp_path: Path) -> None:
    (found,) = read(ROWS, tmp_path)
    assert found.op == "gather"
    assert found.weight_bytes == 16 * 384 * 4
    assert found.read_bytes == 16 * 8


@pytest.mark.parametrize(("m", "n", "k"), [(1, 96, 64), (5, 96, 64), (64, 48, 160)])
def test_a_matmul_tells_its_extents_with_the_weights_side_as_n(m: int, n: int, k: int, tmp_path: Path) -> None:
    found = [one for one in read(WEIGHTED.format(m=m, n=n, k=k), tmp_path) if one.op == "matmul"]
    assert [(one.batch, one.m, one.n, one.k, one.weights) for one in found] == [(1, m, n, k, "float32")]
    assert math.isclose(found[0].flops, 2 * m * n * k)
    assert found[0].weight_bytes == 4 * n * k


def test_a_convolution_counts_a_multiply_add_for_each_weight_and_point(tmp_path: Path) -> None:
    found = [one for one in read(CONVOLVED, tmp_path) if one.op == "conv"]
    assert [one.flops for one in found] == [2 * 8 * 32 * 32 * 3 * 3 * 3]
    assert found[0].weight_bytes == 8 * 3 * 3 * 3 * 4


def test_equal_dispatches_are_one_operation_with_their_count() -> None:
    one = Operation(op="copy", name="a", activations="float32", flops=0, read_bytes=1, write_bytes=1)
    assert [(found.name, found.count) for found in counted([one, one, one])] == [("a", 3)]


def test_text_that_is_no_flow_ir_is_an_error_of_its_step() -> None:
    with pytest.raises(StepError, match="cannot be read"):
        workload.read("module { this is not MLIR }")


def test_a_shape_that_is_not_static_is_told(tmp_path: Path) -> None:
    text = WEIGHTED.format(m=4, n=8, k=8).replace("tensor<4x8xf32>", "tensor<?x8xf32>")
    text = text.replace("tensor.empty()", "tensor.empty(%d)").replace(
        "%z = arith", "%c = arith.constant 0 : index\n  %d = tensor.dim %x, %c : tensor<?x8xf32>\n  %z = arith"
    )
    with pytest.raises(StepError, match="not static"):
        read(text, tmp_path)
