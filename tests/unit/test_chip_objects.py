"""Objects for a RISC-V chip are held to its features by what they say of themselves, before they are linked."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from emulated_parts import lowering

from hwc.errors import MachineError, StepError
from hwc.lower import isa, kernel_objects, riscv
from hwc.lower.riscv import RiscvCode
from hwc.lower.vendor import Door
from hwc.spec.legality import Placement, Vendor, VendorKernel

CROSS = "riscv64-linux-gnu-gcc"
FEATURES = ("+m", "+a", "+f", "+d", "+c", "+v", "+zvl256b", "+zfh")
needs_cross_compiler = pytest.mark.skipif(
    shutil.which(CROSS) is None, reason=f"{CROSS} is not installed (tools/install-debian.sh)"
)


@pytest.mark.parametrize(
    ("arch", "lacking"),
    [
        ("rv64i2p1_m2p0_a2p1_f2p2_d2p2_c2p0_zicsr2p0_zmmul1p0", ()),
        ("rv64i2p0_m2p0_zifencei2p0", ()),
        ("rv64i2p1_zfh1p0_zfhmin1p0", ()),
        ("rv64i2p1_v1p0_zve32f1p0_zve64d1p0_zvl128b1p0_zvl256b1p0", ()),
        ("rv64i2p1_m2p0_zba1p0_zbb1p0", ("zba", "zbb")),
        ("rv64i2p1_zvfh1p0", ("zvfh",)),
        ("rv64i2p1_v1p0_zvl512b1p0", ("zvl512b",)),
        ("rv64i2p1_xtheadvector1p0", ("xtheadvector",)),
    ],
)
def test_extensions_beyond_the_features_are_named(arch: str, lacking: tuple[str, ...]) -> None:
    assert riscv.beyond(RiscvCode(sha256="", arch=arch), FEATURES) == lacking


def test_without_vectors_every_vector_length_is_beyond() -> None:
    code = RiscvCode(sha256="", arch="rv64i2p1_v1p0_zvl128b1p0")
    assert riscv.beyond(code, ("+m",)) == ("v", "zvl128b")


def made(work: Path, march: str, *, stripped: bool = False) -> None:
    """Compile a kernel, and have it taken as an object of a chip with the features."""
    (work / "k.c").write_text("#include <stddef.h>\nvoid k(size_t *at) { *at += 3 * at[1]; }\n")
    argv = [CROSS, f"-march={march}", "-mabi=lp64d", "-O2", "-ffreestanding", "-fPIC", "-c", "k.c", "-o", "k.o"]
    subprocess.run(argv, cwd=work, check=True, timeout=60)
    if stripped:
        objcopy = CROSS.replace("gcc", "objcopy")
        subprocess.run([objcopy, "-R", ".riscv.attributes", "k.o"], cwd=work, check=True, timeout=60)
    kernel = VendorKernel(pattern="matmul_f32", symbol="k", object="k.o")
    door = Door(kernels={"k": kernel}, vendor=Vendor(), rules=(), placement=Placement(), folder=work)
    (work / "work").mkdir()
    kernel_objects.make(door, "riscv64", work / "work", isa.features(lowering("+zfh"), work / "work"))


@needs_cross_compiler
@pytest.mark.parametrize("march", ["rv64gc", "rv64gcv", "rv64imafd"])
def test_an_object_within_the_features_is_taken(march: str, tmp_path: Path) -> None:
    made(tmp_path, march)


@needs_cross_compiler
def test_an_object_for_more_than_the_chip_has_is_refused(tmp_path: Path) -> None:
    words = r"kernel `k`: k\.o is made for extensions that the target does not have: zba, zbb"
    with pytest.raises(StepError, match=words) as refusal:
        made(tmp_path, "rv64gc_zba_zbb")
    assert refusal.value.exit_code == 5
    assert "cpu_features" in refusal.value.where


def test_a_cross_compiler_that_is_not_installed_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "k.c").write_text("")
    kernel = VendorKernel(pattern="matmul_f32", symbol="k", source="k.c")
    vendor = Vendor(compiler=(CROSS,))
    door = Door(kernels={"k": kernel}, vendor=vendor, rules=(), placement=Placement(), folder=tmp_path)
    with pytest.raises(MachineError, match=f"the vendor's compiler is not installed: {CROSS}") as missing:
        kernel_objects.make(door, "riscv64", tmp_path)
    assert missing.value.exit_code == 4
    assert "apt-get install gcc-riscv64-linux-gnu" in missing.value.hint


@needs_cross_compiler
def test_an_object_that_does_not_tell_its_instruction_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"kernel `k`: k\.o does not tell the instruction set"):
        made(tmp_path, "rv64gc_zba_zbb", stripped=True)
