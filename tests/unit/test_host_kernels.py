"""The CPU's own kernels: exact sums within their bounds on every instruction set, and not a byte too many."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ("w4a16.c", "w4a8.c", "x86_w8a16.c", "x86_fp8.c", "matmul_f32_tiles.c")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the kernels are for x86-64")
@pytest.mark.parametrize(
    "march", ["native", "x86-64-v3", *(pytest.param(one, marks=pytest.mark.slow) for one in ("x86-64-v4", "x86-64"))]
)
def test_kernels_compute_exact_sums_over_shapes_groups_and_zeros(march: str, tmp_path: Path) -> None:
    flags = Path("/proc/cpuinfo").read_text()
    needs = {"x86-64-v4": "avx512vl", "x86-64-v3": "avx2"}.get(march, "")
    if needs not in flags:
        pytest.skip(f"this CPU has no {needs}")
    program = tmp_path / "check"
    folder = ROOT / "targets" / "kernels"
    sources = [ROOT / "tests" / "kernels" / "check_kernels.c", *(folder / name for name in KERNELS)]
    headers = f"-I{ROOT / 'compiler' / 'hwc' / 'lower' / 'kernels'}"
    argv = ["cc", "-std=c11", "-O1", "-g", f"-march={march}", *SANITIZERS, headers, *map(str, sources), "-lm"]
    subprocess.run([*argv, "-o", str(program)], check=True, timeout=120)
    ran = subprocess.run([str(program)], capture_output=True, text=True, timeout=120, check=False)
    assert (ran.returncode, ran.stdout.strip(), ran.stderr) == (0, "all within their bounds", "")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
@pytest.mark.parametrize(
    ("name", "right", "wrong", "found"),
    [
        ("x86_w8a16.c", "portable_product(c, 8)", "portable_product(c, 8), c->y[c->n_end - 1] += 0.01f", "w8a16"),
        ("portable.h", "float sum = 0.0f;", "float sum = 0.01f;", "w4a16"),
        ("blocks.h", "= -8 * sum", "= -7 * sum", "w4a16"),
        ("levels.h", '__builtin_nanf("")', "0.0f", "in a row gives"),
        ("levels.h", "scaled + 12582912.0f", "scaled + 0.25f + 12582912.0f", "w4a8"),
        ("levels.h", "MOST_LEVEL 127.0f", "MOST_LEVEL 126.0f", "w4a8"),
        ("w4_product.h", "sum * scales[0]", "sum", "w4a8"),
        ("w4_tiles.h", "++group, left", "left", "w4a16"),
        ("w4_rows.h", "[from]", "[to]", "w4a16"),
        ("matmul_f32_tiles.c", "(size_t)tile * c->k + k", "(size_t)tile * c->k", "f32 tiles"),
    ],
)  # fmt: skip
def test_the_check_of_kernels_finds_what_is_wrong(
    name: str, right: str, wrong: str, found: str, tmp_path: Path
) -> None:
    folder = tmp_path / "kernels"
    shutil.copytree(ROOT / "targets" / "kernels", folder)
    text = (folder / name).read_text()
    assert right in text
    (folder / name).write_text(text.replace(right, wrong))
    level = "x86-64" if name in ("x86_w8a16.c", "portable.h", "w4_product.h") else "native"
    if level == "native" and "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this CPU has no vectors of bytes that the kernel uses")
    program = tmp_path / "check"
    argv = ["cc", "-std=c11", "-O1", f"-march={level}", f"-I{ROOT / 'compiler' / 'hwc' / 'lower' / 'kernels'}"]
    sources = [ROOT / "tests" / "kernels" / "check_kernels.c", *(folder / name for name in KERNELS)]
    subprocess.run([*argv, *map(str, sources), "-lm", "-o", str(program)], check=True, timeout=120)
    ran = subprocess.run([str(program)], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 1
    assert found in ran.stdout
