"""The foreign executables in a code module, and the instruction set each was made for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hwc.errors import UsageError
from hwc.lower import riscv, vmfb
from hwc.lower.riscv import RiscvCode


def executables(code: bytes, where: str = "") -> tuple[RiscvCode, ...]:
    """Return the RISC-V executables of a code module, in order; other targets' modules have none."""
    found = vmfb.Module(code, where)
    return tuple(riscv.read(segment.data, where) for segment in found.segments if riscv.is_riscv(segment.data))


def facts(code: RiscvCode) -> dict[str, Any]:
    """Return what a bundle tells of an executable."""
    return {"sha256": code.sha256, "arch": code.arch, "vlen_bits": code.vlen_bits}


def require_vlen(code: Sequence[RiscvCode], vlen_bits: int | None) -> None:
    """Raise UsageError if code came out for other vector registers than the descriptor names."""
    for one in code:
        if vlen_bits is not None and one.vlen_bits != vlen_bits:
            raise UsageError(
                f"`lowering.vlen_bits` is {vlen_bits}, but the code is made for {one.vlen_bits}",
                where="[lowering] cpu_features", hint=f"`+zvl{vlen_bits}b` tells the compiler the length",
            )
