"""The kernel in RISC-V vector instructions: exact sums within its bounds on cores with registers of every length."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest
from emulated_parts import CPU, needs_emulator

from hwc.lower.kernel_objects import BASE_FLAGS

pytestmark = needs_emulator
ROOT = Path(__file__).resolve().parents[2]
KERNELS, HEADER = ROOT / "targets" / "kernels", ROOT / "compiler" / "hwc" / "lower" / "kernels"
SOURCE, OTHERS = "rvv_w4a16.c", ("w4a8.c", "x86_w8a16.c", "x86_fp8.c", "matmul_f32_tiles.c")
COMPILER = tomllib.loads((ROOT / "targets" / "spacemit-k1.toml").read_text())["vendor"]["compiler"]


def program(work: Path, text: str | None = None) -> Path:
    """Link the check of kernels for RISC-V, with the vector kernel in the other's place; ``text``: another source."""
    source = work / SOURCE
    source.write_text(text or (KERNELS / SOURCE).read_text())
    flags = [flag for flag in BASE_FLAGS if flag != "-ffreestanding"]
    folders = [f"-I{HEADER}", f"-I{KERNELS}"]
    sources = [ROOT / "tests" / "kernels" / "check_kernels.c", *(KERNELS / name for name in OTHERS), source]
    argv = [*COMPILER, *flags, "-static", "-Dhwc_rvv_w4a16=hwc_w4a16", *folders, *map(str, sources), "-lm"]
    subprocess.run([*argv, "-o", str(work / "check")], check=True, timeout=120)
    return work / "check"


def run(check: Path, vlen: int) -> tuple[int, str]:
    argv = ["qemu-riscv64", "-cpu", CPU.format(vlen=vlen), str(check), "w4a16", "large"]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    return ran.returncode, ran.stdout.strip()


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return program(tmp_path_factory.mktemp("rvv"))


@pytest.mark.parametrize("vlen", [128, 256, pytest.param(1024, marks=pytest.mark.slow)])
def test_it_computes_exact_sums_on_vectors_of_any_length(check: Path, vlen: int) -> None:
    assert run(check, vlen) == (0, "all within their bounds")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('vsra.vi " weights ", " weights ", 28', 'vsrl.vi " weights ", " weights ", 28'),
        ("-0x70002000", "0x0fffe000"),
        ('"vmv.v.i v4, -8', '"vmv.v.i v4, -7'),
        ("first * c->group / 8 * 4 * HWC_TILE", "0"),
        ("vsext.vf4 v4, v2", "vzext.vf4 v4, v2"),
        ('EACH(rows, ON, 32) "addi', 'EACH(rows, ON, 16) "addi'),
    ],
)
def test_the_check_finds_what_is_wrong(right: str, wrong: str, tmp_path: Path) -> None:
    text = (KERNELS / SOURCE).read_text()
    assert right in text
    code, told = run(program(tmp_path, text.replace(right, wrong)), 256)
    assert code == 1
    assert told.startswith("w4a16 ")
