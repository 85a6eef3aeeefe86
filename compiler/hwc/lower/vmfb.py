"""IREE's code modules as bytes: find the segments of read-only data, and put other ones in their place.

A module is a zip archive that begins with a FlatBuffer; large segments follow it, each at an offset that the FlatBuffer
tells. A segment is replaced by appending the new one and telling its place: no bytecode changes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from hwc.errors import IntegrityError

_ZIP_HEADER = struct.Struct("<4s5H3I2H")
_SEGMENT_ALIGNMENT = 64
_RODATA_FIELD, _EMBEDDED_FIELD, _OFFSET_FIELD, _LENGTH_FIELD = 9, 2, 3, 4
"""Numbers of fields in the schema: ``rodata_segments`` of a module; a segment's data, or its offset and length. A
union, of which a segment has one first, counts as two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One segment of read-only data."""

    data: bytes
    external: bool
    """Whether it lies behind the FlatBuffer."""
    table: int
    """Where its table lies in the FlatBuffer."""


class Module:
    """A code module taken apart; raises IntegrityError where it is not one."""

    def __init__(self, code: bytes, where: str = "") -> None:
        self._where = where
        self._start = _zip_header_bytes(code)
        try:
            (size,) = struct.unpack_from("<I", code, self._start)
            self._flat = code[self._start + 4 : self._start + 4 + size]
            if size > len(code) - self._start - 4 or self._flat[4:8] != b"IREE":
                raise self._damaged("it has no module")
            self._head, self._size = code[: self._start], size
            self._rest = code[_aligned(self._start + 4 + size) :]
            self.segments = tuple(self._segment(table) for table in self._tables())
        except (struct.error, IndexError) as error:
            raise self._damaged("it is cut short, or points outside") from error

    def replaced(self, segments: Mapping[int, bytes]) -> bytes:
        """Return the module with other data in some of its segments, by number."""
        flat, rest = bytearray(self._flat), bytearray(self._rest)
        for number, data in segments.items():
            segment = self.segments[number]
            if segment.external:
                rest += bytes(-len(rest) % _SEGMENT_ALIGNMENT)
                struct.pack_into("<Q", flat, self._field(segment.table, _OFFSET_FIELD), len(rest))
                struct.pack_into("<Q", flat, self._field(segment.table, _LENGTH_FIELD), len(data))
                rest += data
            else:
                flat += bytes(12 + -len(flat) % 16)  # data after the length of 4 bytes is aligned to 16
                field = self._field(segment.table, _EMBEDDED_FIELD)
                struct.pack_into("<I", flat, field, len(flat) - field)
                flat += struct.pack("<I", len(data)) + data
        flat += bytes(-len(flat) % 16)
        whole = self._head + struct.pack("<I", len(flat)) + bytes(flat)
        return whole + bytes(_aligned(len(whole)) - len(whole)) + bytes(rest)

    def _tables(self) -> list[int]:
        root = self._target(0)
        field = self._field(root, _RODATA_FIELD)
        if not field:
            return []
        vector = self._target(field)
        (count,) = struct.unpack_from("<I", self._flat, vector)
        if count > len(self._flat) // 4:
            raise self._damaged("it claims more segments than it has bytes")
        return [self._target(vector + 4 + 4 * number) for number in range(count)]

    def _segment(self, table: int) -> Segment:
        if embedded := self._field(table, _EMBEDDED_FIELD):
            vector = self._target(embedded)
            (length,) = struct.unpack_from("<I", self._flat, vector)
            return Segment(data=self._cut(self._flat, vector + 4, length), external=False, table=table)
        offset, length = (self._number(table, field) for field in (_OFFSET_FIELD, _LENGTH_FIELD))
        return Segment(data=self._cut(self._rest, offset, length), external=True, table=table)

    def _cut(self, whole: bytes, offset: int, length: int) -> bytes:
        if offset + length > len(whole):
            raise self._damaged("a segment lies outside")
        return whole[offset : offset + length]

    def _number(self, table: int, field: int) -> int:
        at = self._field(table, field)
        return int(struct.unpack_from("<Q", self._flat, at)[0]) if at else 0

    def _target(self, at: int) -> int:
        found: int = at + struct.unpack_from("<I", self._flat, at)[0]
        return found

    def _field(self, table: int, number: int) -> int:
        """Return where a table's field lies, or 0 where it is left out."""
        (back,) = struct.unpack_from("<i", self._flat, table)
        shape = table - back
        if shape < 0:
            raise self._damaged("a table points outside")
        (bytes_of_shape,) = struct.unpack_from("<H", self._flat, shape)
        if 4 + 2 * number >= bytes_of_shape:
            return 0
        (offset,) = struct.unpack_from("<H", self._flat, shape + 4 + 2 * number)
        return table + offset if offset else 0

    def _damaged(self, how: str) -> IntegrityError:
        return IntegrityError(f"the code module is damaged: {how}", where=self._where)


def _zip_header_bytes(code: bytes) -> int:
    if code[:4] != b"PK\x03\x04" or len(code) < _ZIP_HEADER.size:
        return 0
    *_, name_bytes, extra_bytes = _ZIP_HEADER.unpack_from(code)
    return _ZIP_HEADER.size + int(name_bytes) + int(extra_bytes)


def _aligned(position: int) -> int:
    return position + -position % _SEGMENT_ALIGNMENT
