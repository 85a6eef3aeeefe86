"""Executables and code modules from elsewhere: damaged and hostile ones are refused, by Python and by the agent."""

from __future__ import annotations

import platform
import random
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hwc.errors import IntegrityError
from hwc.lower import emulator_tools, isa, riscv, vmfb

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))  # emulated_parts.py

from emulated_parts import compiled, described, executable, needs_emulator


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return compiled(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def test_a_module_cut_anywhere_is_refused_or_whole(code: bytes) -> None:
    whole = isa.executables(code)
    for length in random.Random(1).sample(range(len(code)), 200):
        try:
            found = isa.executables(code[:length])
        except IntegrityError:
            continue
        assert found == whole  # only the zip's directory, which nothing reads, was cut off


def test_a_module_with_damaged_bytes_is_read_or_refused(code: bytes) -> None:
    chance = random.Random(2)
    for _ in range(300):
        spoilt = bytearray(code)
        for _ in range(4):
            spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
        try:
            isa.executables(bytes(spoilt))
        except IntegrityError:
            continue


def test_a_replaced_segment_is_read_back(code: bytes) -> None:
    module = vmfb.Module(code)
    changed = {number: segment.data + b"longer" for number, segment in enumerate(module.segments)}
    again = vmfb.Module(module.replaced(changed))
    assert {number: segment.data for number, segment in enumerate(again.segments)} == changed


def test_an_executable_without_attributes_is_refused(code: bytes) -> None:
    elf = bytearray(executable(code)[1])
    elf[40:48] = struct.pack("<Q", 0)  # e_shoff
    elf[60:62] = struct.pack("<H", 0)  # e_shnum
    with pytest.raises(IntegrityError, match="does not tell the instruction set"):
        riscv.read(bytes(elf))


def _segment(elf: bytes, kind: int, flags: int | None = None) -> int:
    """Return where the first program header of a kind lies."""
    (table,), (count,) = struct.unpack_from("<Q", elf, 32), struct.unpack_from("<H", elf, 56)
    for number in range(count):
        at = table + 56 * number
        found, its_flags = struct.unpack_from("<II", elf, at)
        if found == kind and flags in (None, its_flags):
            return int(at)
    raise AssertionError(f"no segment of kind {kind}")


def _dynamic(elf: bytes, tag: int) -> int:
    """Return where the value of an entry of the dynamic table lies."""
    (at,) = struct.unpack_from("<Q", elf, _segment(elf, 2) + 8)
    while struct.unpack_from("<Q", elf, at)[0] != tag:
        at += 16
    return int(at) + 8


def _longer_than_the_file(elf: bytearray) -> None:
    at = _segment(elf, 1, 5)
    struct.pack_into("<QQ", elf, at + 32, 1 << 20, 1 << 20)


def _beyond_its_memory(elf: bytearray) -> None:
    struct.pack_into("<Q", elf, _segment(elf, 1, 5) + 16, 1 << 62)


def _writable_code(elf: bytearray) -> None:
    struct.pack_into("<I", elf, _segment(elf, 1, 5) + 4, 7)


def _relocation_outside(elf: bytearray) -> None:
    (table,) = struct.unpack_from("<Q", elf, _dynamic(elf, 7))
    struct.pack_into("<Q", elf, table, 1 << 40)


def _address_outside(elf: bytearray) -> None:
    (table,) = struct.unpack_from("<Q", elf, _dynamic(elf, 7))
    struct.pack_into("<q", elf, table + 16, -8)


def _other_relocation(elf: bytearray) -> None:
    (table,) = struct.unpack_from("<Q", elf, _dynamic(elf, 7))
    struct.pack_into("<Q", elf, table + 8, 2)  # R_RISCV_64, by a symbol


def _needed_library(elf: bytearray) -> None:
    struct.pack_into("<Q", elf, _dynamic(elf, 4) - 8, 1)  # DT_HASH becomes DT_NEEDED


def _many_symbols(elf: bytearray) -> None:
    (table,) = struct.unpack_from("<Q", elf, _dynamic(elf, 4))
    struct.pack_into("<I", elf, table + 4, 0xFFFFFFFF)


def _other_machine(elf: bytearray) -> None:
    struct.pack_into("<H", elf, 18, 62)


def _headers_outside(elf: bytearray) -> None:
    struct.pack_into("<Q", elf, 32, 1 << 50)


HOSTILE: dict[Callable[[bytearray], None], str] = {
    _longer_than_the_file: "a segment lies outside", _beyond_its_memory: "larger than 256 MiB",
    _writable_code: "writable and executable", _relocation_outside: "a relocation points outside",
    _address_outside: "a relocation points outside", _other_relocation: "other than relative relocations",
    _needed_library: "it needs other libraries", _many_symbols: "does not export",
    _other_machine: "not a RISC-V shared object", _headers_outside: "its program headers lie outside",
}


@needs_emulator
@pytest.mark.parametrize("spoil", HOSTILE, ids=lambda spoil: spoil.__name__.strip("_"))
def test_the_agent_refuses_to_load(
    spoil: Callable[[bytearray], None], code: bytes, home: Path, tmp_path: Path
) -> None:
    elf = bytearray(executable(code)[1])
    spoil(elf)
    status, said = described(bytes(elf), tmp_path, home)
    assert (status, HOSTILE[spoil] in said) == (1, True), said


@needs_emulator
def test_the_agent_refuses_every_cut_executable(code: bytes, home: Path, tmp_path: Path) -> None:
    elf = executable(code)[1]
    for length in (0, 1, 63, 64, 300, 1000):
        assert described(elf[:length], tmp_path, home)[0] == 1


ATTEMPTS = """
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>
#include "confine.h"
int main(void) {
  if (!confine()) return 1;
  printf("write %d\\n", open("made", O_WRONLY | O_CREAT, 0600));
  printf("remove %d\\n", unlink("kept"));
  printf("network %d\\n", socket(AF_INET, SOCK_STREAM, 0));
  printf("signal %d\\n", kill(getppid(), 0));
  printf("fork %d\\n", (int)syscall(57));
  printf("read %d\\n", open("kept", O_RDONLY) > 0);
  printf("itself %d\\n", kill(getpid(), 0));
  return 0;
}
"""


@needs_emulator
@pytest.mark.skipif(platform.machine() != "x86_64", reason="one attempt is by an x86-64 call number")
def test_a_confined_process_changes_nothing_and_reaches_nobody(tmp_path: Path) -> None:
    (tmp_path / "attempts.c").write_text(ATTEMPTS)
    (tmp_path / "kept").write_text("kept")
    sources = emulator_tools.SOURCES
    argv = ("gcc", "-D_GNU_SOURCE", "-I", str(sources), "-o", "attempts", "attempts.c", str(sources / "confine.c"))
    emulator_tools.compile_c(argv, tmp_path)
    told = emulator_tools.call(("./attempts",), tmp_path).stdout.split()
    assert dict(zip(told[::2], told[1::2], strict=True)) == {
        "write": "-1", "remove": "-1", "network": "-1", "signal": "-1", "fork": "-1", "read": "1", "itself": "0",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attempts", "attempts.c", "kept"]
