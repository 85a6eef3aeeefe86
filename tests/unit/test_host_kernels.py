"""The CPU's own kernels: exact sums within their bounds on every instruction set, and not a byte too many."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the kernels are for x86-64")
@pytest.mark.parametrize("march", ["native", "x86-64-v4", "x86-64-v3", "x86-64"])
def test_kernels_compute_exact_sums_over_shapes_groups_and_zeros(march: str, tmp_path: Path) -> None:
    flags = Path("/proc/cpuinfo").read_text()
    needs = {"x86-64-v4": "avx512vl", "x86-64-v3": "avx2"}.get(march, "")
    if needs not in flags:
        pytest.skip(f"this CPU has no {needs}")
    program = tmp_path / "check"
    sources = [ROOT / "tests" / "kernels" / "check_kernels.c", *sorted((ROOT / "targets" / "kernels").glob("x86_*.c"))]
    headers = f"-I{ROOT / 'compiler' / 'hwc' / 'lower' / 'kernels'}"
    argv = ["cc", "-std=c11", "-O2", "-g", f"-march={march}", *SANITIZERS, headers, *map(str, sources), "-lm"]
    subprocess.run([*argv, "-o", str(program)], check=True, timeout=120)
    ran = subprocess.run([str(program)], capture_output=True, text=True, timeout=120, check=False)
    assert (ran.returncode, ran.stdout.strip(), ran.stderr) == (0, "all within their bounds", "")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
def test_the_check_of_kernels_finds_a_wrong_scale(tmp_path: Path) -> None:
    kernel = (ROOT / "targets" / "kernels" / "x86_w8a16.c").read_text()
    wrong = kernel.replace("portable_product(c, 8)", "portable_product(c, 8), c->y[c->n_end - 1] += 0.01f")
    wrong = wrong.replace("#if defined(__AVX512BW__)", "#if 0 && defined(__AVX512BW__)")
    assert wrong != kernel
    (tmp_path / "x86_w8a16.c").write_text(wrong)
    folder = ROOT / "targets" / "kernels"
    sources = [
        ROOT / "tests" / "kernels" / "check_kernels.c", folder / "x86_w4a16.c", folder / "x86_fp8.c",
        tmp_path / "x86_w8a16.c",
    ]
    headers = [f"-I{ROOT / 'compiler' / 'hwc' / 'lower' / 'kernels'}", f"-I{folder}"]
    program = tmp_path / "check"
    subprocess.run(
        ["cc", "-std=c11", "-O2", *headers, *map(str, sources), "-lm", "-o", str(program)], check=True, timeout=120
    )
    ran = subprocess.run([str(program)], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 1
    assert "w8a16" in ran.stdout
