"""The emulated twin of a code module: the same bytecode and the same executables, on a chip that an emulator plays.

IREE's runtime loads shared libraries of the host. In the twin, one of our own stands in each foreign executable's place
and holds it, byte for byte; it starts the emulator and has it run every dispatch, as a vendor's driver would.
"""

from __future__ import annotations

import json
import platform
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hwc import digest
from hwc.errors import IntegrityError, MachineError
from hwc.files import locked, write_atomic
from hwc.lower import emulator_tools, riscv, vmfb
from hwc.lower.emulator_tools import Tools
from hwc.program import EmulatedChip

COMPILERS_FORMAT = "embedded-elf-riscv_64"
MOST_DISPATCHES = 4096
_EMBEDDED = """
__asm__(".pushsection .rodata\\n.balign 16\\n"
        ".globl hwc_elf\\n.hidden hwc_elf\\nhwc_elf:\\n.incbin \\"executable.elf\\"\\n"
        ".globl hwc_elf_end\\n.hidden hwc_elf_end\\nhwc_elf_end:\\n.byte 0\\n.popsection");
"""
_NAME = re.compile(r"[^A-Za-z0-9_$.]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """A module that runs here, and what it executes."""

    code: bytes
    executables: tuple[riscv.RiscvCode, ...]
    """As they lie in the shipped module."""
    dispatches: tuple[tuple[str, ...], ...]
    """Names of each executable's dispatches."""
    counted: bool
    """Whether the emulator counts instructions."""


def twin(code: bytes, chip: EmulatedChip, home: Path, where: str = "") -> Twin:
    """Make the twin of a shipped module.

    Raises MachineError where the emulator is missing, or plays a core on which the code would fault or compute wrongly;
    IntegrityError if the module is damaged or holds no code for the chip.
    """
    tools = emulator_tools.ready(chip, home)
    module = vmfb.Module(code, where)
    wanted = (chip.format or COMPILERS_FORMAT).encode()
    formats = [number for number, segment in enumerate(module.segments) if segment.data == wanted]
    foreign = {number: segment.data for number, segment in enumerate(module.segments) if riscv.is_riscv(segment.data)}
    if not formats or not foreign:
        raise IntegrityError(f"the module holds no executable in the format {wanted.decode()}", where=where)
    told = {number: riscv.read(data, where) for number, data in foreign.items()}
    _require_core(tools, chip, tuple(told.values()))
    host_format = emulator_tools.LIBRARY_FORMATS[platform.machine()].encode()
    replaced = dict.fromkeys(formats, host_format)
    names = []
    for number, data in foreign.items():
        library, dispatches = _stand_in(tools, chip, data, told[number], home)
        replaced[number] = library
        names.append(dispatches)
    made = module.replaced(replaced)
    return Twin(code=made, executables=tuple(told.values()), dispatches=tuple(names), counted=tools.counts)


def identity(code: riscv.RiscvCode) -> int:
    """Return the number by which a stand-in tells which executable it counts for."""
    return int(code.sha256.removeprefix("sha256:")[:16], 16)


def _require_core(tools: Tools, chip: EmulatedChip, code: tuple[riscv.RiscvCode, ...]) -> None:
    vlen_bits, has = emulator_tools.probe(tools, chip)
    where = f"{chip.program} -cpu {chip.cpu}"
    for one in code:
        if one.vlen_bits and one.vlen_bits != vlen_bits:
            raise MachineError(
                f"the code is made for vector registers of {one.vlen_bits} bits, the core's have {vlen_bits}",
                where=where, hint="it would compute wrongly, without a fault: choose the variant for this chip",
            )
        if lacking := [name for name in one.extensions if name not in {*has, *riscv.BASE}]:
            raise MachineError(
                f"the core lacks extensions that the code was made for: {', '.join(lacking)}", where=where,
                hint="choose the variant for this chip, or an emulator that has them",
            )


def _stand_in(
    tools: Tools, chip: EmulatedChip, data: bytes, code: riscv.RiscvCode, home: Path
) -> tuple[bytes, tuple[str, ...]]:
    """Return the library that stands in an executable's place, and the names of its dispatches."""
    command = _command(tools, chip, code)
    key = digest.of_json({"executable": code.sha256, "command": command})
    folder = home / "emulator" / "stand-ins"
    library, names = folder / f"{key}.so", folder / f"{key}.json"
    with locked(home / "locks" / f"emulator-{digest.short(key)}"):
        if not (library.is_file() and names.is_file()):
            dispatches = _link(tools, chip, data, code, library)
            write_atomic(names, json.dumps(dispatches).encode())
        built = library.read_bytes()
        if data not in built:
            library.unlink()
            raise IntegrityError("a cached stand-in does not hold the executable it is for", where=str(library))
        return built, tuple(json.loads(names.read_text()))


def _command(tools: Tools, chip: EmulatedChip, code: riscv.RiscvCode) -> tuple[str, ...]:
    return tools.command(chip, "serve", str(code.vlen_bits), counted=True)


def _link(tools: Tools, chip: EmulatedChip, data: bytes, code: riscv.RiscvCode, library: Path) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="hwc-stand-in-") as text:
        work = Path(text)
        (work / "executable.elf").write_bytes(data)
        outcome = emulator_tools.call(tools.command(chip, "describe", str(work / "executable.elf")), work)
        dispatches = [_NAME.sub("?", line) for line in outcome.stdout.splitlines()]
        if outcome.returncode != 0 or not 0 < len(dispatches) <= MOST_DISPATCHES:
            last = (outcome.stderr.strip().splitlines() or [outcome.describe()])[-1]
            raise IntegrityError(f"an executable cannot be loaded on the emulated core: {last}")
        (work / "stand_in.c").write_text(_source(dispatches, _command(tools, chip, code), identity(code)))
        argv = (
            str(tools.host_compiler), *emulator_tools.C_FLAGS, "-fPIC", "-fvisibility=hidden", "-shared", "-pthread",
            "-o", "stand_in.so", "stand_in.c", *map(str, tools.objects),
        )
        emulator_tools.compile_c(argv, work)
        write_atomic(library, (work / "stand_in.so").read_bytes())
    return dispatches


def _source(dispatches: list[str], command: tuple[str, ...], number: int) -> str:
    """Write the part of a stand-in that is of one executable; IREE does not tell a dispatch its number, so each has
    its own function.
    """  # noqa: D205
    entries = "\n".join(
        f"static int d{at}(const library_environment *e, const dispatch_state *s, const workgroup_state *g) "
        f"{{ return hwc_dispatch({at}, e, s, g); }}"
        for at in range(len(dispatches))
    )
    listed = ", ".join(f"d{at}" for at in range(len(dispatches)))
    return f"""#include "library_abi.h"
int hwc_dispatch(uint32_t, const library_environment *, const dispatch_state *, const workgroup_state *);
{entries}
const dispatch_function hwc_dispatches[] = {{ {listed} }};
const char *const hwc_names[] = {{ {", ".join(f'"{name}"' for name in dispatches)} }};
const uint32_t hwc_dispatch_count = {len(dispatches)};
const uint64_t hwc_identity = {number}u;
const char *const hwc_command[] = {{ {", ".join(json.dumps(part) for part in command)}, NULL }};
{_EMBEDDED}"""
