"""Join: safetensors files to one, with one tensor in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hwc import tensor_file
from hwc.quantise.weights import Weights


def join(parts: Sequence[Path], path: Path) -> None:
    """Write the tensors of all parts to one file, by name.

    Metadata of the parts are tables in JSON; their entries come together under each key.
    """
    opened = [Weights(part) for part in parts]
    holders = {name: weights for weights in opened for name in weights}
    entries = []
    for name in sorted(holders):
        value = holders[name][name]
        entries.append(tensor_file.Entry(name, value.dtype, value.shape))
    tensor_file.write(path, entries, lambda entry: [holders[entry.name][entry.name]], _metadata(opened))


def _metadata(parts: Sequence[Weights]) -> dict[str, str]:
    tables: dict[str, dict[str, Any]] = {}
    for part in parts:
        for key, value in part.metadata.items():
            if isinstance(table := json.loads(value), dict):
                tables.setdefault(key, {}).update(table)
    return {key: json.dumps(table) for key, table in tables.items()}
