"""Vendor kernels to objects: compile or take them, check them before they are linked, and see that they were linked."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hwc import child, digest
from hwc.errors import InternalError, MachineError, StepError, UsageError
from hwc.lower import elf, emulator_tools, isa, vendor, vmfb
from hwc.lower.passes.kernel_linears import Seen
from hwc.lower.vendor import HEADER, Door
from hwc.spec.legality import PatternName, VendorKernel

BASE_FLAGS = (
    "-std=c11", "-O3", "-ffreestanding", "-fPIC", "-fvisibility=hidden", "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables", "-fno-math-errno", "-fno-tree-loop-distribute-patterns",
    "-Werror=implicit-function-declaration",
)
"""What IREE's embedded linker asks for: no libc, no imports, no absolute addresses. No loop becomes a call of memset.
Hidden: an address of the kernel's own is relative to its code, and needs no table that nothing would fill in."""
COMPILER_MEMORY_BYTES = 4 << 30
FOLDER = "objects"
_TOLD_LINES = 6


def make(
    door: Door, architecture: str, work: Path, features: Sequence[str] = (), names: Iterable[str] | None = None
) -> dict[str, str]:
    """Put the objects of the named kernels, or all, into ``work/objects``; return name to digest.

    ``features``: see isa.features.

    Raises StepError with the compiler's words, and for an object that lacks its symbol, is for another instruction set
    or for more extensions, or wants what nothing will give it; MachineError if the compiler is not installed.
    """
    folder = work / FOLDER
    folder.mkdir(exist_ok=True)
    made = {}
    for name in door.kernels if names is None else names:
        kernel = door.kernels[name]
        target = folder / f"{name}.o"
        if kernel.object:
            shutil.copyfile(door.folder / kernel.object, target)
        else:
            _compile(door, name, kernel, target)
        data = target.read_bytes()
        what = f"kernel `{name}`: {kernel.object or kernel.source}"
        check(data, architecture, what=what, symbol=kernel.symbol)
        isa.require_within(data, features, what)
        made[name] = digest.of_bytes(data)
    return made


def check(data: bytes, architecture: str, *, what: str, symbol: str = "") -> elf.Elf:
    """Raise StepError unless ``data`` is an object for the architecture that stands alone and defines the symbol."""
    try:
        found = elf.read(data)
    except ValueError as error:
        raise StepError(f"{what} cannot be linked: {error}", hint="it has to be a relocatable ELF object") from error
    if found.architecture != architecture:
        raise StepError(
            f"{what} is an object for another instruction set: {found.architecture}, the target's is {architecture}",
            hint="compile it for the triple of the target's [lowering]",
        )
    if not found.relocatable:
        raise StepError(f"{what} is linked already; a relocatable object is needed", hint="compile with -c")
    if symbol and symbol not in found.defined:
        near = ", ".join(sorted(found.defined)[:6]) or "none"
        raise StepError(
            f"{what} does not define the symbol `{symbol}`; it defines: {near}",
            hint="hwc_kernels.h has a macro for each pattern, which takes the symbol",
        )
    if found.undefined:
        raise StepError(
            f"{what} wants symbols that nothing defines: {', '.join(sorted(found.undefined)[:6])}",
            hint="a kernel is freestanding: it has no libc and calls nothing outside itself",
        )
    return found


def _compile(door: Door, name: str, kernel: VendorKernel, target: Path) -> None:
    if not door.vendor.compiler:
        raise UsageError(
            f"kernel `{name}` is C source, and no compiler is named", where="[vendor] compiler",
            hint='as compiler = ["riscv64-linux-gnu-gcc", "-march=rv64gcv", "-mabi=lp64d"]',
        )
    program, *arguments = vendor.command(door.vendor.compiler, door.folder)
    if shutil.which(program) is None:
        raise MachineError(
            f"the vendor's compiler is not installed: {program}", where="[vendor] compiler",
            hint=emulator_tools.how_to_get(program) or "install it, or put it beside the descriptor",
        )
    source = door.folder / kernel.source
    argv = (
        program, *arguments, *BASE_FLAGS, f"-I{HEADER.parent}", f"-I{source.parent}", *kernel.compiler_flags, "-c",
        source.name, "-o", str(target),
    )
    call = child.Call(
        argv=argv, cwd=source.parent, timeout_s=door.vendor.timeout_s, memory_bytes=COMPILER_MEMORY_BYTES
    )
    outcome = child.run(call)
    if outcome.returncode != 0 or not target.is_file():
        told = "\n".join((outcome.stderr or outcome.stdout).strip().splitlines()[:_TOLD_LINES]) or "it said nothing"
        raise StepError(
            f"kernel `{name}`: {kernel.source} does not compile: {Path(program).name} {outcome.describe()}\n{told}",
            where=f"[kernels.{name}] source",
        )


def matches(door: Door, seen: Mapping[str, Sequence[Seen]]) -> tuple[dict[str, dict[str, int]], str]:
    """Return how many linears of each function each kernel computes, and a note if none had any to compute.

    ``seen``: function to its linears. Raises StepError for a kernel that fits none of the linears of its pattern.
    """
    found, idle = {}, []
    for name, kernel in door.kernels.items():
        own = {function: [one for one in rows if _has(one, kernel.pattern)] for function, rows in seen.items()}
        counts = {function: sum(_calls(one, kernel.symbol) for one in rows) for function, rows in own.items()}
        candidates = [one for rows in own.values() for one in rows if door.might(name, one.product)]
        if not candidates:
            idle.append(f"`{name}` ({kernel.pattern})")
        elif not any(counts.values()) and door.whole:
            raise _unmatched(door, name, kernel.pattern, candidates)
        found[name] = counts
    # Kernels that the target does without, too, are there for whatever model comes.
    unused = bool(idle) and len(idle) == len(door.kernels) and not door.vendor.optional
    note = f"the model has no linears in this scheme for the kernels {', '.join(idle)}" if unused else ""
    return found, note


def _has(seen: Seen, pattern: PatternName) -> bool:
    return seen.product.pattern == pattern


def _calls(seen: Seen, symbol: str) -> bool:
    return seen.call is not None and seen.call.kernel.symbol == symbol


def _unmatched(door: Door, name: str, pattern: PatternName, candidates: Sequence[Seen]) -> StepError:
    first = candidates[0]
    other = f"kernel `{first.call.kernel.name}` took it" if first.call is not None else ""
    ruled = any(rule.kernel == name for rule in door.rules)
    why = first.product.unfit or other or ("no rule of [[legality]] sends it there" if ruled else "it does not fit")
    shape = f"{first.product.m}×{first.product.k}×{first.product.n}"
    return StepError(
        f"kernel `{name}` declared, but {pattern} matched 0 of {len(candidates)} linears; "
        f"the first, {first.product.layer} ({shape}): {why}",
        where=f"[kernels.{name}] pattern",
        hint="change its pattern or the rules that name it, or leave it out of the descriptor",
    )


def require_linked(code: bytes, symbols: Iterable[str]) -> None:
    """Raise InternalError unless every symbol is defined in an ELF of the artefact: what was matched is in there."""
    if missing := sorted(set(symbols) - defined(code)):
        raise InternalError(f"the artefact calls vendor kernels that are not in it: {', '.join(missing)}")


def defined(code: bytes) -> frozenset[str]:
    """Return the global symbols that an artefact's ELF files define."""
    segments = (segment.data for segment in vmfb.Module(code).segments)
    return frozenset(symbol for data in segments if data.startswith(elf.MAGIC) for symbol in elf.read(data).defined)
