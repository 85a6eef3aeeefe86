"""A matmul compiled for an emulated RISC-V chip, and ways to spoil it; shared by tests."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from hwc.lower import emulator_tools, iree, riscv, vmfb
from hwc.lower.flags import compiler_flags
from hwc.lower.passes.executable_target import name_executables
from hwc.lower.placing import APART
from hwc.program import Device, EmulatedChip, Function, Port, Program, Slice
from hwc.spec.target import Lowering

FORMAT = "text-book-chip-v1"
CPU = "rv64,v=true,vlen={vlen},elen=64,vext_spec=v1.0"
LIMITS = iree.Limits(timeout_s=120, memory_bytes=8 << 30)
MATMUL = """module {
  func.func @mm(%a: tensor<4x64xf32>, %b: tensor<64x32xf32>) -> tensor<4x32xf32> {
    %zero = arith.constant 0.0 : f32
    %empty = tensor.empty() : tensor<4x32xf32>
    %sums = linalg.fill ins(%zero : f32) outs(%empty : tensor<4x32xf32>) -> tensor<4x32xf32>
    %r = linalg.matmul ins(%a, %b : tensor<4x64xf32>, tensor<64x32xf32>)
                       outs(%sums : tensor<4x32xf32>) -> tensor<4x32xf32>
    return %r : tensor<4x32xf32>
  }
}
"""
MISSING = [
    name for name in ("qemu-riscv64", "riscv64-linux-gnu-gcc", "gcc") if shutil.which(name) is None
]
needs_emulator = pytest.mark.skipif(
    bool(MISSING), reason=f"no emulator: {', '.join(MISSING)} not installed (tools/install-debian.sh)"
)


def chip(vlen: int = 256, **changed: str) -> EmulatedChip:
    return EmulatedChip(**{"program": "qemu-riscv64", "cpu": CPU.format(vlen=vlen), "format": FORMAT, **changed})


def lowering(*extra: str, **changed: object) -> Lowering:
    told = {
        "backend": "llvm-cpu", "cpu": "generic-rv64", "triple": "riscv64-unknown-elf", "abi": "lp64d",
        "cpu_features": ("+m", "+a", "+f", "+d", "+c", "+v", "+zvl256b", *extra), "vlen_bits": 256, "format": FORMAT,
        "attributes": {"sram_bytes": 65536}, "opt_level": "O1",
    }
    return Lowering.model_validate({**told, **changed})


def compiled(work: Path, *extra: str, text: str = MATMUL, apart: bool = False) -> bytes:
    """Return the matmul's module, for the chip with further features; each dispatch in an ELF of its own if asked."""
    told = lowering(*extra)
    flags = (*compiler_flags(told), *((APART,) if apart else ()))
    text = name_executables(text, iree.probe_target(flags, work), told.format, told.attributes)
    return iree.compile_module(text, flags, work=work, limits=LIMITS)[0].read_bytes()


def program(
    code: bytes, work: Path, emulator: EmulatedChip, *, result: tuple[int, ...] = (4, 32)
) -> Program:
    (work / "shipped.vmfb").write_bytes(code)
    entry = Function(
        name="mm", bucket={},
        inputs=(Port(name="a", dtype="float32", shape=(4, 64)), Port(name="b", dtype="float32", shape=(64, 32))),
        outputs=(Port(name="r", dtype="float32", shape=result),),
    )
    return Program(
        code=Slice(path=work / "shipped.vmfb"), parameters=(), functions=(entry,),
        device=Device(driver="emulated", architecture="riscv64", emulator=emulator),
    )


def feeds() -> dict[str, np.ndarray]:
    random = np.random.default_rng(7)
    return {
        "a": random.standard_normal((4, 64)).astype(np.float32),
        "b": random.standard_normal((64, 32)).astype(np.float32),
    }


def executable(code: bytes) -> tuple[int, bytes]:
    """Return the number of the segment that holds the executable, and the executable."""
    (found,) = (
        (number, segment.data)
        for number, segment in enumerate(vmfb.Module(code).segments) if riscv.is_riscv(segment.data)
    )
    return found


def with_executable(code: bytes, changed: bytes) -> bytes:
    return vmfb.Module(code).replaced({executable(code)[0]: changed})


def with_flipped_instruction(code: bytes, symbol: str = "") -> bytes:
    """Return the module with multiply-adds made to subtract the sum instead of adding it: one bit of each.

    Of a kernel's ``symbol``, all that are in it: which of its loops a shape runs through is its compiler's business.
    Without one, the first ``vfmacc.vf``.
    """
    elf = bytearray(executable(code)[1])
    if symbol:
        begin, end = _body(bytes(elf), symbol)
        found = [at for at in range(begin, end - 3, 2) if _word(elf, at) & 0x0600007F == 0x43]  # fmadd.s
        flipped = 1 << 2  # fmsub.s
    else:
        found = [at for at in range(0, len(elf) - 3, 2) if _word(elf, at) & 0xFC00707F == 0xB0005057][:1]  # vfmacc.vf
        flipped = 1 << 27  # vfmsac.vf
    assert found, "no multiply-add"
    for at in found:
        struct.pack_into("<I", elf, at, _word(elf, at) ^ flipped)
    return with_executable(code, bytes(elf))


def _word(elf: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", elf, at)[0])


def _body(elf: bytes, symbol: str) -> tuple[int, int]:
    """Return where a function begins and ends in the file."""
    (table,), (count,) = struct.unpack_from("<Q", elf, 40), struct.unpack_from("<H", elf, 60)
    sections = [struct.unpack_from("<IIQQQQIIQQ", elf, table + 64 * number) for number in range(count)]
    for _, kind, _, _, offset, length, link, *_ in sections:
        for at in range(offset, offset + length, 24) if kind == 2 else ():
            name, _, _, section, address, size = struct.unpack_from("<IBBHQQ", elf, at)
            start = sections[link][4] + name
            if elf[start : elf.index(b"\0", start)].decode() == symbol and section:
                begin = sections[section][4] + address - sections[section][3]
                return begin, begin + size
    raise AssertionError(f"the executable has no {symbol}")


def described(elf: bytes, work: Path, home: Path) -> tuple[int, str]:
    """Load an executable in the agent on the emulated core; return its exit status and its last word."""
    tools = emulator_tools.ready(chip(), home)
    (work / "described.elf").write_bytes(elf)
    outcome = emulator_tools.call(tools.command(chip(), "describe", str(work / "described.elf")), work)
    return outcome.returncode, (outcome.stderr.strip().splitlines() or [""])[-1]
