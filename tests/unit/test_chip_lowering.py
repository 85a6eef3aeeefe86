"""From a chip's descriptor to what the compiler is told: flags, tiles, the chip's own format, its vector length."""

from __future__ import annotations

from pathlib import Path

import pytest
from emulated_parts import compiled, lowering

from hwc.errors import UsageError
from hwc.lower import iree, isa, tiles
from hwc.lower.flags import compiler_flags
from hwc.lower.passes.executable_target import name_executables
from hwc.lower.vmfb import Module
from hwc.spec.hardware import Hardware

TARGET = '#hal.executable.target<"llvm-cpu", "embedded-elf-riscv_64", {cpu = "generic-rv64"}>'


def hardware(sram_bytes: int, columns: int, *, overlap: bool = True) -> Hardware:
    rate = {"activations": "float32", "weights": "float32", "accumulator": "float32", "flop_per_s": 1e9}
    return Hardware.model_validate(
        {
            "units": {"array": {"kind": "matrix", "rows": columns, "columns": columns, "rates": [rate]}},
            "memories": {"sram": {"level": 1, "size_bytes": sram_bytes}, "dram": {"level": 2, "size_bytes": 1 << 30}},
            "overheads": {"transfers_overlap": overlap},
        }
    )


def test_flags_tell_the_convention_and_the_tiles() -> None:
    flags = compiler_flags(lowering(distribution_tile=32, matmul_tile_bytes=4096))
    assert "--iree-llvmcpu-target-abi=lp64d" in flags
    assert "--iree-llvmcpu-distribution-size=32" in flags
    assert "--iree-llvmcpu-matmul-tile-bytes=4096" in flags


@pytest.mark.parametrize(
    ("sram_bytes", "columns", "overlap", "expected"),
    [
        (6 * 65536, 128, True, (65536, 128)),  # two sets of three operands
        (3 * 65536, 128, False, (65536, 128)),  # one set
        (6 * 16384, 128, True, (16384, 64)),  # 128×128 sums of 4 bytes would take 64 KiB
        (16 << 20, 128, True, (2 << 20, 128)),
        (6 * 65536 + 1000, 16, True, (65536, 16)),  # a power of two, and never wider than the array
    ],
)
def test_tiles_follow_from_the_array_and_its_memory(
    sram_bytes: int, columns: int, overlap: bool, expected: tuple[int, int]
) -> None:
    found = tiles.derived(lowering(), hardware(sram_bytes, columns, overlap=overlap))
    assert (found.matmul_tile_bytes, found.distribution_tile) == expected


def test_tiles_that_the_descriptor_names_are_kept() -> None:
    told = lowering(distribution_tile=8, matmul_tile_bytes=1024)
    assert tiles.derived(told, hardware(1 << 20, 128)) == told


def test_a_chip_without_an_array_keeps_the_compilers_tiles() -> None:
    assert tiles.derived(lowering(), Hardware()) == lowering()


def test_executables_get_the_chips_format_and_facts() -> None:
    text = name_executables("module {\n}\n", TARGET, "chip-v1", {"sram_bytes": 5, "isa": "rv64"})
    told = '"chip-v1", {hwc.isa = "rv64", hwc.sram_bytes = 5 : i64, cpu = "generic-rv64"}'
    assert text.startswith('module attributes {hal.device.targets = [#hal.device.target<"local", [')
    assert told in text


@pytest.mark.parametrize(("text", "target"), [("func.func @f() {}", TARGET), ("module {\n}", "#hal.other")])
def test_a_form_that_is_not_known_is_refused(text: str, target: str) -> None:
    with pytest.raises(ValueError, match=r"not an executable target|no module"):
        name_executables(text, target, "chip-v1", {})


def test_the_module_carries_the_format_and_the_instruction_set(tmp_path: Path) -> None:
    code = compiled(tmp_path, "+zfh")
    (made,) = isa.executables(code)
    assert b"text-book-chip-v1" in [segment.data for segment in Module(code).segments]
    assert made.vlen_bits == 256
    assert {"i", "m", "a", "f", "d", "c", "v", "zfh"} <= set(made.extensions)


def test_code_for_another_vector_length_than_the_descriptors_is_refused(tmp_path: Path) -> None:
    made = isa.executables(compiled(tmp_path))
    isa.require_vlen(made, 256)
    with pytest.raises(UsageError, match=r"`lowering.vlen_bits` is 512, but the code is made for 256"):
        isa.require_vlen(made, 512)


def test_a_feature_that_the_compiler_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not know the feature '.zmagic'"):
        iree.probe_target(compiler_flags(lowering("+zmagic")), tmp_path)
