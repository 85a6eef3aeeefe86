"""What RISC-V code says of itself: the instruction set that an executable's attributes tell it was made for."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hwc import digest
from hwc.errors import IntegrityError

_MAGIC, _MACHINE = b"\x7fELF", 243
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_ATTRIBUTES_TYPE = 0x70000003
_FILE_TAG, _ARCH_TAG = 1, 5
MOST_SECTIONS = 4096
_IMPLIED = re.compile(r"zicsr|zmmul|zaamo|zalrsc|zca|zcd|zve\d+[xfd]|zvl\d+b")
"""Parts of ``m``, ``a``, ``c``, ``d`` and ``v``, or a vector length, which is compared on its own."""

BASE = frozenset({"i", "zifencei"})
"""Had by every core: ``i`` of the first ratified version had the counters and ``fence.i`` in it."""
_IMPLIES = {
    "zfh": ("zfhmin",), "zvfh": ("zvfhmin", "zfhmin"), "b": ("zba", "zbb", "zbs"), "zhinx": ("zhinxmin",),
    "zk": ("zkn", "zkr", "zkt", "zbkb", "zbkc", "zbkx", "zkne", "zknd", "zknh"),
}
"""Extension to those in it, beside what ``_IMPLIED`` matches; from the RISC-V unprivileged specification."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RiscvCode:
    """One executable of RISC-V code."""

    sha256: str
    arch: str
    """As its attributes tell it: ``rv64i2p1_m2p0_…``."""

    @property
    def extensions(self) -> tuple[str, ...]:
        """What the core has to have, without what follows from something else: ``i``, ``m``, ``v``, ``zba``."""
        first, *rest = self.arch.removeprefix("rv64").removeprefix("rv32").split("_")
        names = [re.sub(r"\d+p\d+$", "", name) for name in (first, *rest)]
        return tuple(name for name in names if name and not _IMPLIED.fullmatch(name))

    @property
    def vlen_bits(self) -> int:
        """Length of the vector registers it was made for; 0 if it uses none."""
        return max((int(found) for found in re.findall(r"zvl(\d+)b", self.arch)), default=0)


def beyond(code: RiscvCode, features: Iterable[str]) -> tuple[str, ...]:
    """Return the extensions that code was made for, and features as ``+m`` and ``+zvl256b`` neither name nor imply."""
    named = {name.removeprefix("+") for name in features if name.startswith("+")}
    has = named | BASE | {part for name in named for part in _IMPLIES.get(name, ())}
    lacking = [name for name in code.extensions if name not in has]
    lengths = [int(found) for name in named for found in re.findall(r"^zvl(\d+)b$", name)]
    if code.vlen_bits > max(lengths, default=128 if "v" in named else 0):
        lacking.append(f"zvl{code.vlen_bits}b")
    return tuple(lacking)


def is_riscv(data: bytes) -> bool:
    """Whether bytes begin as an ELF file of RISC-V code."""
    return data[:4] == _MAGIC and len(data) >= _HEADER.size and _HEADER.unpack_from(data)[2] == _MACHINE


def read(data: bytes, where: str = "") -> RiscvCode:
    """Read an executable's attributes; raise IntegrityError if it has none, or is damaged."""
    try:
        for section in _attribute_sections(data):
            if arch := _arch(section):
                return RiscvCode(sha256=digest.of_bytes(data), arch=arch)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise IntegrityError("an executable is damaged: it is cut short, or points outside", where=where) from error
    raise IntegrityError(
        "an executable does not tell the instruction set it was made for", where=where,
        hint="code for other vector registers computes wrongly, without a fault; it is not run on trust",
    )


def _attribute_sections(data: bytes) -> Iterator[bytes]:
    header = _HEADER.unpack_from(data)
    table, entry_bytes, count = header[6], header[11], header[12]
    if entry_bytes != _SECTION.size or count > MOST_SECTIONS:
        raise struct.error("section headers of another size")
    for number in range(count):
        _, kind, _, _, offset, length, *_ = _SECTION.unpack_from(data, table + number * entry_bytes)
        if kind == _ATTRIBUTES_TYPE:
            if offset + length > len(data):
                raise struct.error("a section lies outside")
            yield data[offset : offset + length]


def _arch(section: bytes) -> str:
    """Find the architecture in ``A length "riscv" 1 length (tag value)…``: even tags have numbers, odd ones texts."""
    if section[:1] != b"A" or section[5:11] != b"riscv\0" or section[11] != _FILE_TAG:
        return ""
    at = 16
    while at < len(section):
        tag, at = _number(section, at)
        if tag % 2 == 0:
            _, at = _number(section, at)
            continue
        end = section.find(b"\0", at)
        end = len(section) if end < 0 else end
        if tag == _ARCH_TAG:
            return section[at:end].decode("ascii")
        at = end + 1
    return ""


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Read a LEB128 number; return it and where the next thing begins."""
    value, shift = 0, 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
