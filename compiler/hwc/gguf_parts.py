"""The bytes of one GGUF file, which may lie in several parts, and a cursor that reads its header within bounds."""

from __future__ import annotations

import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from hwc.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    import numpy as np

HEADER_MAX_BYTES = 64 << 20
"""A vocabulary of 262,144 tokens with scores takes 6 MB. What a header makes us hold grows with its bytes."""
ARRAY_MAX_ITEMS = 1 << 22
TEXT_MAX_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Files that make one when they are joined in this order; they are read where they lie and never joined."""

    files: tuple[Path, ...]
    starts: tuple[int, ...]
    """Offset of each file's first byte in the whole."""
    total_bytes: int

    @property
    def where(self) -> str:
        """The name errors give: the first part."""
        return str(self.files[0])

    def read(self, offset: int, count: int) -> bytes:
        """Return ``count`` bytes from ``offset``; raise IntegrityError if the parts end before."""
        pieces: list[bytes] = []
        for file, start in zip(self.files, self.starts, strict=True):
            if count and start <= offset:
                with file.open("rb") as stream:
                    stream.seek(offset - start)
                    piece = stream.read(count)
                pieces.append(piece)
                offset, count = offset + len(piece), count - len(piece)
        if count:
            raise IntegrityError("the GGUF file is truncated", where=self.where)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def join(files: Sequence[Path]) -> Parts:
    """Take files, in order, as the parts of one; raise UsageError for none, IntegrityError for what is no plain file.

    A pipe would be waited for and a device could be endless.
    """
    if not files:
        raise UsageError("no GGUF file was given")
    sizes = []
    for file in files:
        if not file.exists():
            raise UsageError(f"no such GGUF file: {file.name}", where=str(file))
        state = file.stat()
        if not stat.S_ISREG(state.st_mode):
            raise IntegrityError("a GGUF file must be a regular file", where=str(file))
        sizes.append(state.st_size)
    *starts, total = accumulate(sizes, initial=0)
    return Parts(files=tuple(files), starts=tuple(starts), total_bytes=total)


class Cursor:
    """Reads little-endian values one after the other, never past the end and never more than a header may be."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.limit = min(parts.total_bytes, HEADER_MAX_BYTES)
        self._buffer = b""
        self._buffer_start = 0
        self._at = 0

    @property
    def position(self) -> int:
        """Offset in the file of the next byte."""
        return self._buffer_start + self._at

    def damaged(self, what: str) -> IntegrityError:
        """Return the error for damage found here."""
        return IntegrityError(f"damaged GGUF header: {what}", where=f"{self.parts.where}, byte {self.position}")

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes."""
        end = self._at + count
        if end > len(self._buffer):
            self._refill(count)
            end = count
        piece = self._buffer[self._at : end]
        self._at = end
        return piece

    def _refill(self, count: int) -> None:
        position = self.position
        if count > self.limit - position:
            whole = self.limit == self.parts.total_bytes
            raise self.damaged("the file ends inside it" if whole else f"it is longer than {HEADER_MAX_BYTES} bytes")
        self._buffer = self.parts.read(position, min(max(count, _CHUNK_BYTES), self.limit - position))
        self._buffer_start, self._at = position, 0

    def number(self, form: str) -> int | float | bool:
        """Return the next number, in a form of the struct module such as ``<I``."""
        value: int | float | bool = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def u32(self) -> int:
        """Return the next 32-bit count."""
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        """Return the next 64-bit count."""
        return int.from_bytes(self.take(8), "little")

    def count(self, what: str, *, item_bytes: int, most: int) -> int:
        """Return the next 64-bit count if that many items of at least ``item_bytes`` can follow."""
        value = self.u64()
        if value > most or value * item_bytes > self.limit - self.position:
            raise self.damaged(f"it claims {value} {what}, more than the file can hold")
        return value

    def text(self, *, most_bytes: int = TEXT_MAX_BYTES) -> str:
        """Return the next string: a 64-bit length and that many bytes of UTF-8."""
        length = self.u64()
        if length > most_bytes:
            raise self.damaged(f"a string of {length} bytes, where at most {most_bytes} are allowed")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise self.damaged(f"a string that is not UTF-8: {error.reason}") from error

    def texts(self) -> list[str]:
        """Return the next array of strings, after its item type."""
        return [self.text() for _ in range(self.count("strings", item_bytes=8, most=ARRAY_MAX_ITEMS))]

    def numbers(self, dtype: str) -> np.ndarray:
        """Return the next array of numbers of a numpy dtype, after its item type."""
        import numpy as np

        item = np.dtype(dtype)
        count = self.count("numbers", item_bytes=item.itemsize, most=ARRAY_MAX_ITEMS)
        return np.frombuffer(self.take(count * item.itemsize), item)
