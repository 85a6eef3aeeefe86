"""Kernels that do not fit, and tools that hang, crash or write nonsense, are told as what they are."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from compiled_parts import LIMITS
from test_kernel_calls import plain_graph
from test_passes import imported
from vendor_parts import ACME, RISCV, door, target, with_kernels

from hwc.errors import HwcError, MachineError, StepError, UsageError
from hwc.lower import elf, iree, kernel_objects, vendor
from hwc.lower.flags import compiler_flags
from hwc.lower.opened import Opened
from hwc.lower.passes.kernel_linears import Product, Seen
from hwc.spec.legality import LegalityRule, Vendor, VendorKernel

RISCV_GCC = shutil.which("riscv64-linux-gnu-gcc")


def one(source: str, folder: Path, **told) -> dict[str, VendorKernel]:
    """Write a kernel's C source and return the kernel."""
    (folder / "own.c").write_text(source)
    return {"own": VendorKernel(pattern="matmul_f32", symbol="own", source="own.c", **told)}


GOOD = '#include "hwc_kernels.h"\nHWC_MATMUL_F32(own) { c->y[c->n_begin] = 0; }\n'
BAD_KERNELS = {
    "no C": ("int own(", {}, r"kernel `own`: own\.c does not compile: \S*gcc exited with status 1\nown\.c:1"),
    "another symbol": (
        GOOD.replace("(own)", "(other)"), {}, "does not define the symbol `own`; it defines: other",
    ),
    "a call outside": (
        '#include "hwc_kernels.h"\nfloat expf(float);\nHWC_MATMUL_F32(own) { c->y[0] = expf(c->x[0]); }\n', {},
        "wants symbols that nothing defines: expf",
    ),
    "an unknown flag": (GOOD, {"compiler_flags": ("-march=z80",)}, "z80"),
}


@pytest.mark.parametrize("name", BAD_KERNELS)
def test_a_kernel_that_cannot_be_linked_is_refused_with_the_reason(name, tmp_path: Path):
    source, told, words = BAD_KERNELS[name]
    own = with_kernels(tmp_path, one(source, tmp_path, **told))
    with pytest.raises(StepError, match=words) as caught:
        kernel_objects.make(own, "x86_64", tmp_path)
    assert caught.value.exit_code == 5


BAD_OBJECTS = {
    "for another instruction set": (
        lambda data: data[:18] + b"\xf3\x00" + data[20:], "riscv64, the target's is x86_64",
    ),
    "text": (lambda _: b"int main;\n", "it is no ELF file"),
    "cut short": (lambda data: data[:200], "it is a damaged ELF file"),
    "empty": (lambda _: b"", "it is no ELF file"),
}


@pytest.mark.parametrize("name", BAD_OBJECTS)
def test_an_object_that_cannot_be_linked_is_refused_with_the_reason(name, tmp_path: Path):
    change, words = BAD_OBJECTS[name]
    good = with_kernels(tmp_path, one(GOOD, tmp_path))
    kernel_objects.make(good, "x86_64", tmp_path)
    (tmp_path / "own.o").write_bytes(change((tmp_path / "objects" / "own.o").read_bytes()))
    given = {"own": VendorKernel(pattern="matmul_f32", symbol="own", object="own.o")}
    with pytest.raises(StepError, match=words):
        kernel_objects.make(with_kernels(tmp_path, given), "x86_64", tmp_path)


def test_the_same_kernel_is_the_same_object_in_any_folder(tmp_path: Path):
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        own = with_kernels(tmp_path / name, one(GOOD, tmp_path / name))
        made.append(kernel_objects.make(own, "x86_64", tmp_path / name))
    assert made[0] == made[1]


def test_a_compiler_that_is_not_there_is_the_machines_lack(tmp_path: Path):
    own = with_kernels(tmp_path, one(GOOD, tmp_path), vendor=Vendor(compiler=("no-such-cc",)))
    with pytest.raises(MachineError, match="vendor's compiler is not installed: no-such-cc"):
        kernel_objects.make(own, "x86_64", tmp_path)
    with pytest.raises(UsageError, match="no compiler is named"):
        kernel_objects.make(with_kernels(tmp_path, one(GOOD, tmp_path), vendor=Vendor()), "x86_64", tmp_path)


def test_a_compiler_that_hangs_is_ended(tmp_path: Path):
    own = with_kernels(tmp_path, one(GOOD, tmp_path), vendor=Vendor(compiler=("sh", "-c", "sleep 60"), timeout_s=0.3))
    with pytest.raises(StepError, match="stopped at its time limit"):
        kernel_objects.make(own, "x86_64", tmp_path)


PRODUCT = Product(pattern="matmul_f32", layer="encoder.0", m=8, n=16, k=32)
FEW = LegalityRule(ops=("matmul",), at_most={"m": 1}, action="kernel", kernel="matmul-f32")


def matched(rules: tuple[LegalityRule, ...], product: Product = PRODUCT):
    own = door(ACME, rules=rules)
    kernel = own.chosen(product) if not product.unfit else None
    assert kernel is None
    return kernel_objects.matches(own, {"b1": [Seen(product=product, call=None)]})


def test_a_kernel_that_matches_none_of_the_linears_of_its_pattern_is_an_error():
    words = r"matmul_f32 matched 0 of 1 linears; the first, encoder\.0 \(8×32×16\): no rule"
    with pytest.raises(StepError, match=words):
        matched((FEW,))


def test_the_reason_why_a_linear_fits_no_kernel_is_told():
    unfit = Product(pattern="matmul_f32", layer="l", m=1, n=2, k=3, unfit="its activations are transposed")
    with pytest.raises(StepError, match=r"matched 0 of 1 linears; the first, l .*: its activations are transposed"):
        matched((), unfit)


def test_kernels_for_linears_that_the_model_does_not_have_are_a_note():
    counts, note = kernel_objects.matches(door(ACME), {"b1": []})
    assert note.startswith("the model has no linears in this scheme for the kernels `matmul-f32` (matmul_f32), ")
    assert all(not any(found.values()) for found in counts.values())


def test_params_tell_the_digests_of_sources_headers_and_tools_and_change_with_each(tmp_path: Path):
    folder = tmp_path / "acme"
    shutil.copytree(ACME, folder)
    before = vendor.params(target(folder), folder)
    assert {"kernels/matmul_f32.c", "kernels/acme.h", "hwc_kernels.h", "gcc"} <= set(before["files"])
    for name in ("kernels/matmul_f32.c", "kernels/acme.h"):
        (folder / name).write_text((folder / name).read_text() + "\n")
        after = vendor.params(target(folder), folder)
        assert {key for key in after["files"] if after["files"][key] != before["files"][key]} == {name}
        before = after
    two = vendor.params(target(folder, "acme-two"), folder)
    assert set(two["files"]) == {"python3", "acme_cc.py"}
    (folder / "kernels" / "matmul_f32.c").unlink()
    with pytest.raises(UsageError, match=r"kernel `matmul-f32`: there is no file kernels/matmul_f32\.c"):
        vendor.params(target(folder), folder)


CONTRADICTIONS = {
    "a hand-over that links kernels": (
        {"vendor": {"compiler": ["gcc"], "hand_over": True}, "not_built": "elsewhere"}, "exclude each other",
    ),
    "two kernels of one symbol": (
        {"kernels": {name: {"pattern": "matmul_f32", "symbol": "s", "object": "s.o"} for name in ("a", "b")}},
        "two kernels have the symbol `s`",
    ),
    "a backend that links nothing": (
        {"lowering": {"backend": "vmvx"}}, 'needs `lowering.backend` = "llvm-cpu"',
    ),
    "a kernel whose name is a path": (
        {"kernels": {"../a": {"pattern": "matmul_f32", "symbol": "s", "object": "s.o"}}}, "should match pattern",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_descriptor_whose_door_contradicts_itself_is_refused(name: str):
    change, words = CONTRADICTIONS[name]
    table = target(ACME).model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    with pytest.raises(ValueError, match=words):
        type(target(ACME)).model_validate({**table, **change})


def test_a_source_outside_the_descriptors_folder_is_refused(tmp_path: Path):
    shutil.copytree(ACME, tmp_path / "acme")
    own = target(tmp_path / "acme")
    stray = own.kernels["matmul-f32"].model_copy(update={"source": "../own.c"})
    with pytest.raises(HwcError, match="leaves its folder"):
        vendor.params(own.model_copy(update={"kernels": {"matmul-f32": stray}}), tmp_path / "acme")


@pytest.mark.skipif(RISCV_GCC is None, reason="riscv64-linux-gnu-gcc is not installed")
def test_kernels_compile_for_riscv_and_are_linked_into_its_code(tmp_path: Path):
    own = Opened(with_kernels(ACME, dict(door(ACME).kernels), vendor=RISCV_VENDOR), RISCV, tmp_path)
    model, _ = plain_graph("MatMul", [3, 96], {}, None, np.float32)
    text = own.declared(own.plain("main_graph", imported(model, tmp_path)))
    code, _ = iree.compile_module(text, (*compiler_flags(RISCV), *own.flags), work=tmp_path, limits=LIMITS)
    kernel_objects.require_linked(code.read_bytes(), ["acme_matmul_f32"])
    objects = [elf.read(path.read_bytes()) for path in sorted((tmp_path / "objects").glob("*.o"))]
    assert {found.architecture for found in objects} == {"riscv64"}
    assert not any(found.undefined for found in objects)


RISCV_VENDOR = Vendor(compiler=("riscv64-linux-gnu-gcc", "-march=rv64gc", "-mabi=lp64d"), timeout_s=60)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_conversions_of_the_header_are_exact_for_every_code_with_subnormals_flushed(tmp_path: Path):
    compiler = ("gcc", "-O2", f"-I{vendor.HEADER.parent}")
    subprocess.run([*compiler, str(ACME / "check_header.c"), "-o", "check"], cwd=tmp_path, check=True)
    found = subprocess.run([str(tmp_path / "check")], capture_output=True, text=True, check=True).stdout.split("\n")
    halves, bytes_, back = (np.array(line.split(), np.uint32) for line in found[:3])
    finite = np.isfinite(np.arange(65536, dtype=np.uint16).view(np.float16))
    expected = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32).view(np.uint32)
    np.testing.assert_array_equal(halves[finite], expected[finite])
    codes = np.arange(256, dtype=np.uint8)
    number = (codes & 0x7F) != 0x7F
    e4m3 = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32).view(np.uint32)
    np.testing.assert_array_equal(bytes_[number], e4m3[number])
    values = (np.arange(0, 1 << 32, 65537, dtype=np.uint64).astype(np.uint32)).view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        half = values.astype(np.float16)
    told = back.astype(np.uint16)
    kept = np.isfinite(values) & (np.abs(values) >= np.float32(2.0**-126))
    np.testing.assert_array_equal(told[kept], half.view(np.uint16)[kept])
