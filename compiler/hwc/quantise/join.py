"""Join: safetensors files to one, with one tensor in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hwc.quantise.weights import Weights

_NAMES = {"uint8": "U8", "float16": "F16", "float32": "F32", "bfloat16": "BF16", "float64": "F64"}
ALIGNMENT = 8


def join(parts: Sequence[Path], path: Path) -> None:
    """Write the tensors of all parts to one file, wide types first and then by name, as the format's own library does.

    Metadata of the parts are tables in JSON; their entries come together under each key.
    """
    opened = {part: Weights(part) for part in parts}
    found = [(-weights[name].itemsize, name, part) for part, weights in opened.items() for name in weights]
    header: dict[str, Any] = {"__metadata__": _metadata(list(opened.values()))}
    offset = 0
    for _, name, part in sorted(found):
        value = opened[part][name]
        span = [offset, offset + value.nbytes]
        header[name] = {"dtype": _NAMES[value.dtype.name], "shape": list(value.shape), "data_offsets": span}
        offset += value.nbytes
    packed = json.dumps(header, separators=(",", ":")).encode()
    packed += b" " * (-len(packed) % ALIGNMENT)
    with path.open("wb") as stream:
        stream.write(len(packed).to_bytes(8, "little") + packed)
        for _, name, part in sorted(found):
            stream.write(opened[part][name].tobytes())


def _metadata(parts: Sequence[Weights]) -> dict[str, str]:
    tables: dict[str, dict[str, Any]] = {}
    for part in parts:
        for key, value in part.metadata.items():
            if isinstance(table := json.loads(value), dict):
                tables.setdefault(key, {}).update(table)
    return {key: json.dumps(table) for key, table in tables.items()}
