"""The code that stands in for a matrix unit: exact sums over shapes, groups, codes and zeros, in the columns asked."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
KERNELS, HEADER = ROOT / "targets" / "kernels", ROOT / "compiler" / "hwc" / "lower" / "kernels"
COLUMNS, BEGIN, END, UNTOUCHED = 7, 2, 6, 3.0
SIGNED, NONE, POINT, OFFSET = 1, 0, 1, 2
pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
Array = NDArray[np.float64]


class Kernels:
    """The kernels compiled for this machine; every call computes some columns, and is held to leave the others."""

    def __init__(self, work: Path, header: str = "") -> None:
        (work / "array.h").write_text(header or (KERNELS / "array.h").read_text())
        sources = [str(shutil.copy(path, work)) for path in sorted(KERNELS.glob("array_*.c"))]
        argv = ["cc", "-std=c11", "-O2", "-shared", "-fPIC", f"-I{HEADER}", *sources, "-lm", "-o", "array.so"]
        subprocess.run(argv, cwd=work, check=True, timeout=120)
        self.library = ctypes.CDLL(str(work / "array.so"))

    def columns(self, symbol: str, buffers: list[NDArray[np.generic]], m: int, k: int, *sizes: int) -> Array:
        """Call a kernel for columns BEGIN to END; return them."""
        y = np.full((m, COLUMNS), UNTOUCHED, np.float32)
        pointers = [
            part for one in (*buffers, y) for part in (ctypes.c_void_p(one.ctypes.data), ctypes.c_size_t(0))
        ]
        getattr(self.library, symbol)(*pointers, *map(ctypes.c_size_t, (m, COLUMNS, k, *sizes, BEGIN, END)))
        assert np.all(y[:, :BEGIN] == UNTOUCHED)
        assert np.all(y[:, END:] == UNTOUCHED)
        return y[:, BEGIN:END].astype(np.float64)

    def grouped(self, bits: int, m: int, k: int, group: int, form: int, zeros: int) -> tuple[Array, Array]:
        """Return a quantised product's columns, and the exact ones."""
        random, middle, groups = np.random.default_rng(bits + m + k), 1 << (bits - 1), k // group
        x = random.standard_normal((m, k)).astype(np.float32)
        codes = random.integers(0, 2 * middle, (COLUMNS, k)).astype(np.uint8)
        stored = codes ^ middle if form == SIGNED else codes
        packed = stored if bits == 8 else stored[:, ::2] | stored[:, 1::2] << 4
        scales, offsets = (random.uniform(-0.02, 0.02, (COLUMNS, groups)).astype(np.float16) for _ in range(2))
        points = random.integers(-middle, middle, (COLUMNS, groups)).astype(np.int8)
        third = {NONE: packed, POINT: points, OFFSET: offsets}[zeros]
        levels = codes.astype(np.float64) - (0 if zeros == OFFSET else middle)
        spread = [np.repeat(one.astype(np.float64), group, axis=1) for one in (scales, points, offsets)]
        weights = (levels - (spread[1] if zeros == POINT else 0)) * spread[0] + (spread[2] if zeros == OFFSET else 0)
        buffers = [x, np.ascontiguousarray(packed), scales.view(np.uint16), np.ascontiguousarray(third).view(np.uint8)]
        found = self.columns(f"hwc_array_int{bits}", buffers, m, k, group, form, zeros)
        return found, (x.astype(np.float64) @ weights.T)[:, BEGIN:END]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    return Kernels(tmp_path_factory.mktemp("kernels"))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", [NONE, POINT, OFFSET])
@pytest.mark.parametrize("form", [0, SIGNED])
def test_grouped_products_are_exact_sums(kernels: Kernels, bits: int, zeros: int, form: int) -> None:
    for m in (1, 4, 9):
        for k, group in ((32, 32), (96, 16), (256, 128), (384, 64), (240, 48), (512, 256)):
            found, exact = kernels.grouped(bits, m, k, group, form, zeros)
            np.testing.assert_allclose(found, exact, atol=2e-6 * k * bits)


def test_the_scale_of_another_group_is_found(tmp_path: Path) -> None:
    header = (KERNELS / "array.h").read_text()
    wrong = header.replace("left < rows ? left : rows", "rows")  # the first group's scale for all rows of the array
    assert wrong != header
    found, exact = Kernels(tmp_path, wrong).grouped(8, 4, 96, 16, SIGNED, NONE)
    assert np.max(np.abs(found - exact)) > 0.1


def test_e4m3_products_are_exact_sums(kernels: Kernels) -> None:
    random = np.random.default_rng(8)
    for m, k in ((1, 1), (4, 129), (9, 640)):
        x = random.standard_normal((m, k)).astype(np.float32)
        codes = random.integers(0, 256, (COLUMNS, k)).astype(np.uint8)
        codes[codes & 0x7F == 0x7F] = 1  # never NaN; a subnormal instead
        scales = random.uniform(0.001, 0.01, COLUMNS).astype(np.float32)
        exact = x.astype(np.float64) @ (codes.view(ml_dtypes.float8_e4m3fn).astype(np.float64) * scales[:, None]).T
        found = kernels.columns("hwc_array_fp8", [x, codes, scales], m, k)
        np.testing.assert_allclose(found, exact[:, BEGIN:END], atol=1e-6 * k)


def test_float_products_are_exact_sums_in_either_order_of_weights(kernels: Kernels) -> None:
    random = np.random.default_rng(5)
    for m in (1, 3, 4, 9):
        for k in (0, 1, 127, 128, 129, 300):
            x = random.standard_normal((m, k)).astype(np.float32)
            w = random.standard_normal((k, COLUMNS)).astype(np.float32)
            exact = (x.astype(np.float64) @ w)[:, BEGIN:END]
            for weights, strides in ((w, (COLUMNS, 1)), (np.ascontiguousarray(w.T), (1, k))):
                found = kernels.columns("hwc_array_f32", [x, weights], m, k, *strides)
                np.testing.assert_allclose(found, exact, atol=2e-5)
