"""Halves widened by integers are the halves themselves, every finite one of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hwc.lower import iree
from hwc.lower.passes.widen_halves import widen_halves

MODULE = """func.func @f(%x: tensor<65536xf16>) -> tensor<65536xf32> {
  %e = tensor.empty() : tensor<65536xf32>
  %r = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>],
    iterator_types = ["parallel"]} ins(%x : tensor<65536xf16>) outs(%e : tensor<65536xf32>) {
  ^bb0(%half: f16, %out: f32):
    %wide = arith.extf %half : f16 to f32
    linalg.yield %wide : f32
  } -> tensor<65536xf32>
  return %r : tensor<65536xf32>
}
"""
FLAGS = (
    "--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=vmvx",
    "--mlir-print-op-on-diagnostic=false",
)
LIMITS = iree.Limits(timeout_s=120, memory_bytes=4 << 30)


def test_every_finite_half_is_widened_exactly_by_the_reference_backend(tmp_path: Path) -> None:
    import iree.runtime as rt

    module, _ = iree.compile_module(widen_halves(MODULE), FLAGS, work=tmp_path, limits=LIMITS)
    loaded = rt.load_vm_flatbuffer(module.read_bytes(), driver="local-sync")
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    found = np.array(loaded.f(halves).to_host())
    finite = np.isfinite(halves)
    assert np.array_equal(found[finite].view(np.uint32), halves[finite].astype(np.float32).view(np.uint32))


def test_other_lines_stay_as_they_are() -> None:
    text = "a\n    // %x = arith.extf %y : f16 to f32\n%x = arith.extf %y : bf16 to f32\n"
    assert widen_halves(text) == text


def test_each_widening_has_values_of_its_own() -> None:
    lines = widen_halves("  %a = arith.extf %x : f16 to f32\n  %b = arith.extf %x : f16 to f32\n").splitlines()
    made = [line.strip().partition(" = ")[0] for line in lines]
    assert len(made) == len(set(made))
    assert {"%a", "%b"} <= set(made)
