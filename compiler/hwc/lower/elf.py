"""ELF files as bytes: which instruction set they are for, and which global symbols they define."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

MAGIC = b"\x7fELF"
MACHINES = {
    3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv",
}
"""``e_machine`` to what LLVM calls the instruction set; RISC-V's width is the file's class."""
_HEADERS = {2: struct.Struct("<16sHHIQQQIHHHHHH"), 1: struct.Struct("<16sHHIIIIIHHHHHH")}
_SECTIONS = {2: struct.Struct("<IIQQQQIIQQ"), 1: struct.Struct("<IIIIIIIIII")}
_SYMBOLS = {2: struct.Struct("<IBBHQQ"), 1: struct.Struct("<IIIBBH")}
_SYMBOL_TABLES = (2, 11)
"""``SHT_SYMTAB`` and ``SHT_DYNSYM``."""
_GLOBAL_BINDS = (1, 2)
_RELOCATABLE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Elf:
    """What an ELF file says of itself."""

    architecture: str
    """As the first part of a target triple: ``x86_64``, ``riscv64``."""
    relocatable: bool
    """Whether it is an object file, to be linked."""
    defined: frozenset[str]
    """Global symbols it defines."""
    undefined: frozenset[str]
    """Global symbols it wants from elsewhere."""


def read(data: bytes) -> Elf:
    """Parse an ELF file; raise ValueError if it is none, or is cut short."""
    if data[:4] != MAGIC:
        raise ValueError(f"it is no ELF file: it begins with {data[:4]!r}")
    try:
        return _read(data)
    except (struct.error, IndexError, KeyError) as error:
        raise ValueError("it is a damaged ELF file") from error


def _read(data: bytes) -> Elf:
    kind = data[4]
    if data[5] != 1:
        raise ValueError("it is a big-endian ELF file")
    header = _HEADERS[kind].unpack_from(data)
    machine, sections_at, section_size, section_count = header[2], header[6], header[11], header[12]
    sections = [
        _SECTIONS[kind].unpack_from(data, sections_at + section_size * number) for number in range(section_count)
    ]
    known: dict[bool, set[str]] = {True: set(), False: set()}
    for section in sections:
        if section[1] in _SYMBOL_TABLES:
            for name, defined in _symbols(data, kind, section, sections[section[6]]):
                known[defined].add(name)
    architecture = MACHINES.get(machine, f"machine {machine}")
    if architecture == "riscv":
        architecture = "riscv64" if kind == 2 else "riscv32"
    return Elf(
        architecture=architecture, relocatable=header[1] == _RELOCATABLE, defined=frozenset(known[True]),
        undefined=frozenset(known[False] - known[True]),
    )


def _symbols(
    data: bytes, kind: int, table: tuple[int, ...], names: tuple[int, ...]
) -> Iterator[tuple[str, bool]]:
    layout = _SYMBOLS[kind]
    for at in range(table[4], table[4] + table[5] - layout.size + 1, layout.size):
        entry = layout.unpack_from(data, at)
        name_at, (info, section) = entry[0], (entry[1], entry[3]) if kind == 2 else (entry[3], entry[5])
        if info >> 4 in _GLOBAL_BINDS and name_at:
            start = names[4] + name_at
            yield data[start : data.index(b"\0", start)].decode(errors="replace"), section != 0
