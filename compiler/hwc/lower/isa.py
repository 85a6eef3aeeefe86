"""The foreign executables in a code module, and the instruction set each was made for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hwc.errors import IntegrityError, StepError, UsageError
from hwc.lower import iree, riscv, vmfb
from hwc.lower.flags import compiler_flags
from hwc.lower.riscv import RiscvCode
from hwc.spec.target import Lowering


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


def features(lowering: Lowering, work: Path) -> tuple[str, ...]:
    """Return what RISC-V code for the target may use, its CPU's own features with the named ones; others have none."""
    if not lowering.triple.startswith("riscv"):
        return ()
    return iree.probe_cpu(compiler_flags(lowering), work).features


def require_within(data: bytes, allowed: Sequence[str], what: str) -> None:
    """Raise StepError for a RISC-V object whose attributes tell of extensions that the target does not have.

    The attributes are its compiler's word: the instructions themselves are not read. Other objects pass.
    """
    if not allowed or not riscv.is_riscv(data):
        return
    try:
        code = riscv.read(data)
    except IntegrityError as error:
        raise StepError(
            f"{what} does not tell the instruction set that it was made for", where="its section .riscv.attributes",
            hint="compile it with a tool that writes RISC-V attributes, and do not strip them",
        ) from error
    if lacking := riscv.beyond(code, allowed):
        raise StepError(
            f"{what} is made for extensions that the target does not have: {', '.join(lacking)} ({code.arch})",
            where="[lowering] cpu_features",
            hint="compile it for these features, or name them there if the chip has them",
        )
