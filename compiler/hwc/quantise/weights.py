"""Weights of a captured model, mapped from their file: a weight takes memory only while its pages are read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwc.errors import IntegrityError

if TYPE_CHECKING:
    import numpy as np

_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


class Weights(Mapping[str, "np.ndarray"]):
    """The tensors of one safetensors file, by name; each is a read-only map of its part of the file.

    Raises IntegrityError for a tensor that the file does not hold or whose type is unknown. The file is one that
    hwc wrote: whatever came from outside was checked when it was captured.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        self._entries: dict[str, Any] = header
        self._start = 8 + length

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        """Tell whether the file holds a tensor."""
        return name in self._entries

    def __len__(self) -> int:
        """Count the tensors."""
        return len(self._entries)

    def size(self, name: str) -> int:
        """Return how many numbers a tensor holds."""
        return math.prod(self._entries[name]["shape"])

    def __getitem__(self, name: str) -> np.ndarray:
        """Map one tensor."""
        import ml_dtypes
        import numpy as np

        entry = self._entries.get(name)
        if entry is None or entry["dtype"] not in _DTYPES:
            raise IntegrityError(f"no readable weight {name!r}", where=str(self._path))
        kind = _DTYPES[entry["dtype"]]
        dtype = np.dtype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)
        first, last = entry["data_offsets"]
        if first == last:
            return np.empty(tuple(entry["shape"]), dtype)
        mapped = np.memmap(self._path, np.uint8, "r", offset=self._start + first, shape=(last - first,))
        return mapped.view(dtype).reshape(tuple(entry["shape"]))
