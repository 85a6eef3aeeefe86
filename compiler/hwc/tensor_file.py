"""Writing safetensors one tensor at a time: memory holds a part of one, whatever the file's size.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from hwc.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint64": "U64",
    "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
"""NumPy's and ml_dtypes' names to the format's."""
PLAIN: Mapping[str, str] = MappingProxyType({"format": "pt"})
"""What transformers wants to read in a file of weights."""


class Entry(NamedTuple):
    """One tensor to write."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]


def write(
    path: Path, entries: Sequence[Entry], parts: Callable[[Entry], Iterable[np.ndarray]],
    metadata: Mapping[str, str] = PLAIN,
) -> None:
    """Write tensors, those of the widest type first, as the format's own writer does, else in the given order.

    ``parts`` yields the values of one tensor, contiguous, in any number of pieces that follow each other. Raises
    UsageError for a type that the format does not have.
    """
    ordered = sorted(entries, key=lambda entry: -entry.dtype.itemsize)  # so that each is aligned
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for entry in ordered:
        start, end = end, end + math.prod(entry.shape) * entry.dtype.itemsize
        if entry.dtype.name not in DTYPES:
            raise UsageError(f"weights of type {entry.dtype.name} are not supported", where=entry.name)
        kind = DTYPES[entry.dtype.name]
        header[entry.name] = {"dtype": kind, "shape": list(entry.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for entry in ordered:
            for piece in parts(entry):
                stream.write(piece.reshape(-1).view("uint8").data)
