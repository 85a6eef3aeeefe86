"""The CPU's int4 kernel on weights in tiles, linked into an artefact, computes what ONNX Runtime computes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from compiled_parts import run_on_cpu
from cpu_targets import TARGETS, V3, shipped
from test_kernel_calls import compiled
from test_passes import LAYER, imported, integers, quantised_graph
from vendor_parts import X86

from hwc import onnx_io
from hwc.capture.simplify import session
from hwc.lower import cpu_flags, vendor
from hwc.lower.opened import Opened
from hwc.lower.passes.linears import rewrite_linears
from hwc.quantise.encode import write_archive
from hwc.quantise.encodings import pack


def own(work: Path) -> Opened:
    """Return the opened door of the shipped x86-64-v3 target."""
    spec, note = cpu_flags.resolved(shipped("x86-64-v3"), "x86_64", V3)
    assert note == ""
    door = vendor.door(vendor.params(spec, TARGETS), TARGETS, 60.0)
    assert door is not None
    return Opened(replace(door, whole=False), X86, work)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
@pytest.mark.parametrize(
    ("shape", "n", "k", "group", "zeros"),
    [
        ([1, 256], 48, 256, 32, "none"),
        pytest.param([2, 9, 128], 32, 128, 64, "point", marks=pytest.mark.slow),
        pytest.param([5, 96], 20, 96, 32, "point", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_linear_in_tiles_by_the_kernel_computes_what_onnx_runtime_computes(shape, n, k, group, zeros, tmp_path: Path):
    codes = integers("int4", n, k, group, zeros)
    model, tensors = quantised_graph(shape, codes)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = session(onnx_io.attach(model, tensors)).run(None, {"x": x})[0]
    opened = own(tmp_path)
    text = imported(model, tmp_path)
    rewritten = rewrite_linears(text, encodings={"int4": "i4-tiled"}, scope="model", choose=opened.door.chosen)
    (seen,) = rewritten.seen
    assert seen.call is not None
    assert seen.product.tiled == (n % 16 == 0)
    opened.note("main_graph", rewritten.seen)
    write_archive(pack(LAYER, codes, "i4-tiled"), tmp_path / "w.irpa")
    opened.complete()
    code = compiled(opened.declared(rewritten.mlir), tmp_path)
    found = run_on_cpu(code, tmp_path / "w.irpa", {"x": x}, {"y": expected.shape})["y"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=6e-5 * np.abs(expected).max())
