"""What arrives quantised: the codes of a source's weights as they are, beside the float weights they stand for.

A source lists its quantised weights with :class:`Arrived`; :func:`write` puts them beside a captured graph. The scheme
``keep`` stores them again (quantise/keep.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hwc import tensor_file
from hwc.formats import Kind, Zeros

if TYPE_CHECKING:
    import numpy as np

CODES = "kept.safetensors"
"""The codes, in the form of hwc.quantise.codes."""
TYPES = "arrived.json"
"""Layer to ``type``, the source's own name of how it is stored, and ``reason``, why its codes cannot be kept."""
WEIGHT = ".weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Some rows of a quantised weight: what hwc.quantise.codes says of one, without its kind."""

    codes: np.ndarray
    """uint8 [rows, K]."""
    scales: np.ndarray
    """float16 [rows, G]; float32 [rows, 1] for fp8."""
    zeros: np.ndarray | None = None
    """uint8 [rows, G]."""
    offsets: np.ndarray | None = None
    """float16 [rows, G]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Codes that can be stored as they are, a few rows at a time."""

    kind: Kind
    n: int
    k: int
    groups: int
    """Groups along K, each with its own scale."""
    zeros: Zeros
    rows: Callable[[], Iterator[Rows]]
    """Yields all rows, in order; each call reads them anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A weight that its source has quantised."""

    name: str
    """As transformers has it, with ``.weight``; when it is written, as the captured graph has it."""
    type: str
    """As the source calls it: ``Q4_K``, ``pack-quantized int4 g128``."""
    kept: Kept | None = None
    """None where the codes have no form here; ``reason`` says why."""
    reason: str = ""


def write(arrived: Sequence[Arrived], out: Path) -> None:
    """Write ``kept.safetensors`` and ``arrived.json``, if anything arrived quantised; some rows are held at a time."""
    import numpy as np

    if not arrived:
        return
    layers = {one.name.removesuffix(WEIGHT): one for one in arrived}
    told = {layer: {"type": one.type, "reason": one.reason} for layer, one in layers.items()}
    (out / TYPES).write_text(json.dumps(told, indent=1, sort_keys=True))
    kept = {layer: one.kept for layer, one in sorted(layers.items()) if one.kept is not None}
    entries: list[tensor_file.Entry] = []
    for layer, codes in kept.items():
        scale = np.dtype("f4" if codes.kind == "fp8" else "f2")
        groups = (codes.n, codes.groups)
        entries.append(tensor_file.Entry(f"{layer}.codes", np.dtype("u1"), (codes.n, codes.k)))
        entries.append(tensor_file.Entry(f"{layer}.scales", scale, groups))
        if codes.zeros == "point":
            entries.append(tensor_file.Entry(f"{layer}.zeros", np.dtype("u1"), groups))
        elif codes.zeros == "offset":
            entries.append(tensor_file.Entry(f"{layer}.offsets", np.dtype("f2"), groups))

    def parts(entry: tensor_file.Entry) -> Iterator[np.ndarray]:
        layer, _, part = entry.name.rpartition(".")
        for rows in kept[layer].rows():
            yield np.ascontiguousarray(getattr(rows, part), entry.dtype)

    kinds = {layer: codes.kind for layer, codes in kept.items()}
    tensor_file.write(out / CODES, entries, parts, {"kinds": json.dumps(kinds)})
