"""A GGUF file's header, read strictly: what it says of the model, and where its tensors lie.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A file comes from a stranger, so each count,
length and offset is held against the file's size before it is used, and no tensor may share bytes with another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hwc.errors import IntegrityError, UsageError
from hwc.gguf_parts import Cursor, Parts, join
from hwc.gguf_types import TYPES, TensorType

if TYPE_CHECKING:
    import numpy as np

MAGIC = b"GGUF"
VERSIONS = (2, 3)
NAME_MAX_BYTES = 1024
ALIGNMENT_BYTES = 32
"""Where ``general.alignment`` says nothing else."""
ALIGNMENT_MAX_BYTES = 1 << 20
AXES_MAX = 4
_STRING, _ARRAY, _BOOL = 8, 9, 7
_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 10: "<Q", 11: "<q", 12: "<d"}
_DTYPES = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "u1", 10: "<u8", 11: "<i8", 12: "<f8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufTensor:
    """Where one tensor lies and how it is stored."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    """As torch has it: the file's axes in reverse, so that the last one runs fastest."""
    offset_bytes: int
    """From the file's first byte."""

    @property
    def values(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, which runs along the last axis."""
        return self.shape[-1] // self.type.block_values * self.type.block_bytes

    @property
    def stored_bytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.values // self.type.block_values * self.type.block_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFile:
    """A checked header. Getters raise IntegrityError for a value that is missing or of another type."""

    parts: Parts
    metadata: Mapping[str, object]
    """Numbers, booleans and strings; numpy arrays of numbers; lists of strings."""
    tensors: Mapping[str, GgufTensor]

    def damaged(self, what: str) -> IntegrityError:
        """Return the error for damage in this file."""
        return IntegrityError(what, where=self.parts.where)

    def integer(self, key: str, default: int | None = None) -> int:
        """Return a whole number, zero or more."""
        value = self.metadata.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self._wrong(key, "a count", value)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a finite number above zero."""
        value = self.metadata.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise self._wrong(key, "a number above zero", value)
        return float(value)

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string."""
        value = self.metadata.get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, "a string", value)
        return value

    def flag(self, key: str, default: bool | None = None) -> bool:
        """Return a boolean."""
        value = self.metadata.get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false", value)
        return value

    def texts(self, key: str) -> list[str]:
        """Return an array of strings."""
        value = self.metadata.get(key)
        if not isinstance(value, list):
            raise self._wrong(key, "an array of strings", value)
        return value

    def numbers(self, key: str, *, count: int) -> np.ndarray:
        """Return an array of ``count`` numbers."""
        import numpy as np

        value = self.metadata.get(key)
        if not isinstance(value, np.ndarray) or len(value) != count:
            raise self._wrong(key, f"an array of {count} numbers", value)
        return value

    def _wrong(self, key: str, expected: str, value: object) -> IntegrityError:
        found = "missing" if value is None else str(value)[:60] if isinstance(value, int | float | str) else "an array"
        return self.damaged(f"GGUF metadata `{key}` must be {expected}, and is {found}")


def read(files: Sequence[Path]) -> GgufFile:
    """Read and check the header of one GGUF file, given as its parts in order (usually one); no weight is read.

    Raises IntegrityError for damage of any kind, UsageError for a missing file, a big-endian file or one shard of
    several.
    """
    cursor = Cursor(join(files))
    _check_magic(cursor)
    tensor_count = cursor.count("tensors", item_bytes=32, most=1 << 20)
    entry_count = cursor.count("metadata entries", item_bytes=13, most=1 << 16)
    metadata: dict[str, object] = {}
    for _ in range(entry_count):
        key = cursor.text(most_bytes=NAME_MAX_BYTES)
        if key in metadata:
            raise cursor.damaged(f"metadata `{key}` appears twice")
        metadata[key] = _value(cursor, key)
    if metadata.get("split.count", 0) not in (0, 1):
        raise UsageError("one shard of a split GGUF file", where=cursor.parts.where, hint="llama-gguf-split --merge")
    found = [_tensor(cursor) for _ in range(tensor_count)]
    alignment = _alignment(cursor, metadata.get("general.alignment", ALIGNMENT_BYTES))
    data_start = -(-cursor.position // alignment) * alignment
    tensors = _placed(cursor, found, data_start, alignment)
    return GgufFile(parts=cursor.parts, metadata=metadata, tensors=tensors)


def _check_magic(cursor: Cursor) -> None:
    if cursor.limit < 24 or cursor.take(4) != MAGIC:
        raise IntegrityError("not a GGUF file: it does not begin with GGUF", where=cursor.parts.where)
    version = cursor.u32()
    if version in VERSIONS:
        return
    if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
        raise UsageError("a big-endian GGUF file is not supported", where=cursor.parts.where)
    raise IntegrityError(
        f"GGUF version {version} is unknown", where=cursor.parts.where,
        hint=f"supported: {', '.join(map(str, VERSIONS))}",
    )


def _value(cursor: Cursor, key: str) -> object:
    kind = cursor.u32()
    if kind in _NUMBERS:
        return cursor.number(_NUMBERS[kind])
    if kind == _BOOL:
        byte = cursor.take(1)
        if byte not in (b"\0", b"\1"):
            raise cursor.damaged(f"metadata `{key}` is a boolean of value {byte[0]}")
        return byte == b"\1"
    if kind == _STRING:
        return cursor.text()
    if kind == _ARRAY:
        item = cursor.u32()
        if item == _STRING:
            return cursor.texts()
        if item in _DTYPES:
            return cursor.numbers(_DTYPES[item])
        raise cursor.damaged(f"metadata `{key}` is an array of unknown type {item}")
    raise cursor.damaged(f"metadata `{key}` is of unknown type {kind}")


def _tensor(cursor: Cursor) -> GgufTensor:
    """Read one tensor's entry; its offset is still relative to the data."""
    name = cursor.text(most_bytes=NAME_MAX_BYTES)
    axes = cursor.u32()
    if not 1 <= axes <= AXES_MAX:
        raise cursor.damaged(f"tensor `{name}` has {axes} axes")
    shape = tuple(reversed([cursor.u64() for _ in range(axes)]))
    number = cursor.u32()
    if number not in TYPES:
        raise cursor.damaged(f"tensor `{name}` is of unknown type {number}")
    kind = TYPES[number]
    if min(shape) < 1 or shape[-1] % kind.block_values:
        raise cursor.damaged(f"tensor `{name}` of type {kind.name} has shape {list(shape)}")
    return GgufTensor(name=name, type=kind, shape=shape, offset_bytes=cursor.u64())


def _alignment(cursor: Cursor, value: object) -> int:
    if not isinstance(value, int) or not 8 <= value <= ALIGNMENT_MAX_BYTES or value & (value - 1):
        raise cursor.damaged(f"`general.alignment` is {str(value)[:60]}, no power of two from 8")
    return value


def _placed(cursor: Cursor, found: list[GgufTensor], data_start: int, alignment: int) -> dict[str, GgufTensor]:
    """Return tensors by name with absolute offsets, each aligned, inside the file and apart from the others."""
    placed: dict[str, GgufTensor] = {}
    end = data_start
    for tensor in sorted(found, key=lambda tensor: tensor.offset_bytes):
        start = data_start + tensor.offset_bytes
        if tensor.name in placed:
            raise cursor.damaged(f"tensor `{tensor.name}` appears twice")
        if tensor.offset_bytes % alignment:
            raise cursor.damaged(f"tensor `{tensor.name}` is not aligned to {alignment} bytes")
        if start < end:
            raise cursor.damaged(f"tensor `{tensor.name}` overlaps the one before it")
        end = start + tensor.stored_bytes
        if end > cursor.parts.total_bytes:
            raise cursor.damaged(f"tensor `{tensor.name}` reaches past the end of the file")
        placed[tensor.name] = GgufTensor(name=tensor.name, type=tensor.type, shape=tensor.shape, offset_bytes=start)
    return placed
