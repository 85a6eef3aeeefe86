"""Encode: codes and float weights to the parameter archives that a target's code reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwc import onnx_io
from hwc.errors import InternalError
from hwc.formats import Kind
from hwc.quantise import codes as canonical
from hwc.quantise.codes import Codes
from hwc.quantise.encodings import Packed, geometry_of, pack, unpack
from hwc.quantise.graph import apply
from hwc.quantise.linears import SHARED, Linear
from hwc.quantise.quantise import METHOD, read_layers, read_overrides, read_rows
from hwc.quantise.scheme import Scheme
from hwc.quantise.tiles import SUFFIXES, tiled, to_tiles
from hwc.quantise.weights import Weights

if TYPE_CHECKING:
    import numpy as np

FLOAT_ARCHIVE = "float.irpa"
LINEAR_ARCHIVE = "linears.irpa"
EMBEDDING_ARCHIVE = "embeddings.irpa"
ARCHIVES = (FLOAT_ARCHIVE, EMBEDDING_ARCHIVE, LINEAR_ARCHIVE)
GRAPH = "graph.onnx"


def encode(
    scheme: Scheme, encodings: Mapping[Kind, str], captured: Path, quantised: Path, out: Path, *, tiles: bool = False
) -> None:
    """Write the archives, ``graph.onnx`` and ``audit.json``; with ``tiles``, float weights of linears lie in tiles.

    ``linears.irpa`` holds every weight of a linear in the scheme's form, and the biases that changed with it;
    ``embeddings.irpa``, where the model has any, its tables and head; ``float.irpa`` everything else, with those
    biases as captured. The last is the same file for every scheme, and the one before for all that store embeddings
    alike, so a store keeps them once. What was written is read back and compared.
    ``graph.onnx`` is the captured graph in the scheme, detached: the archives hold its weights (see restore.py).
    """
    weights, rows = Weights(captured / "weights.safetensors"), read_rows(quantised)
    own: dict[str, list[Linear]] = {
        archive: [row for row in rows if row.role == role and row.skip != SHARED]
        for role, archive in (("linear", LINEAR_ARCHIVE), ("embedding", EMBEDDING_ARCHIVE))
    }
    apart = {row.weight for held in own.values() for row in held}
    in_tiles = tiled(rows) if tiles else {}
    write_archive({name: _plain(weights[name]) for name in weights if name not in apart}, out / FLOAT_ARCHIVE)
    coded = canonical.load(quantised / "codes.safetensors")
    for archive, held in own.items():
        entries = dict(float_entry(row.weight, weights[row.weight], in_tiles) for row in held if row.format is None)
        if archive == LINEAR_ARCHIVE:
            entries |= {name: _plain(value) for name, value in read_overrides(quantised).items()}
        for row in held:
            if row.format is not None:
                entries |= pack(row.layer, coded[row.layer], encodings[row.format.kind])
        if held or archive == LINEAR_ARCHIVE:
            write_archive(entries, out / archive)
            _read_back([row for row in held if row.format], coded, encodings, out / archive)
    graph = apply(read_layers(quantised), onnx_io.load_graph(captured / "graph.onnx"), where=GRAPH)
    onnx_io.drop_notes(graph)
    onnx_io.save(graph, out / GRAPH)
    facts = audit(scheme, rows, sum(map(weights.size, weights)), archives_in(out))
    facts |= {key: value for key, value in method_of(quantised).items() if key in ("method", "calibration", "sources")}
    (out / "audit.json").write_text(json.dumps(facts, indent=1, sort_keys=True))


def archives_in(folder: Path) -> list[Path]:
    """Return the archives that a folder of encode's holds."""
    return [folder / name for name in ARCHIVES if (folder / name).is_file()]


def method_of(quantised: Path) -> dict[str, Any]:
    """Return what quantising said about its method and its calibration data."""
    path = quantised / METHOD
    told: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return told


def _plain(value: np.ndarray) -> Packed:
    return Packed(payload=value, dtype=str(value.dtype), shape=tuple(value.shape))


def float_entry(key: str, value: np.ndarray, in_tiles: Mapping[str, bool]) -> tuple[str, Packed]:
    """Return the entry of a float weight: in tiles, under another key, if it is one of those and of float32."""
    if key in in_tiles and value.dtype == "float32":
        return f"{key}{SUFFIXES[in_tiles[key]]}", _plain(to_tiles(value, transposed=in_tiles[key]))
    return key, _plain(value)


def write_archive(entries: Mapping[str, Packed], path: Path) -> None:
    """Write an ``.irpa`` with sorted keys; the same entries give the same bytes."""
    import iree.runtime as rt
    import numpy as np

    index = rt.ParameterIndex()
    for key in sorted(entries):
        index.add_buffer(key, np.ascontiguousarray(entries[key].payload).view(np.uint8).reshape(-1))
    index.create_archive_file(str(path))


def read_archive(path: Path) -> dict[str, bytes]:
    """Return the bytes of every entry of an archive."""
    import iree.runtime as rt

    index = rt.ParameterIndex()
    index.load(str(path))
    return read_entries(index)


def read_entries(index: Any) -> dict[str, bytes]:
    """Return the bytes of every entry of a loaded ``iree.runtime.ParameterIndex``."""
    found: dict[str, bytes] = {}
    for key, entry in index.items():
        if entry.is_file:
            handle, offset = entry.file_storage
            found[key] = bytes(handle.host_allocation[offset : offset + entry.length])
    return found


def _read_back(
    held: Sequence[Linear], coded: Mapping[str, Codes], encodings: Mapping[Kind, str], path: Path
) -> None:
    """Raise InternalError unless the archive's bytes decode to exactly the canonical codes."""
    import numpy as np

    stored = read_archive(path)
    for row in held:
        entry = coded[row.layer]
        back = unpack(row.layer, stored, entry.kind, geometry_of(entry), encodings[entry.kind])
        for part in canonical.PARTS:
            mine, found = getattr(entry, part), getattr(back, part)
            if (mine is None) != (found is None) or (mine is not None and not np.array_equal(mine, found)):
                raise InternalError(
                    f"encoding {encodings[entry.kind]} does not give back the {part} of {row.layer}", where=str(path)
                )


def audit(scheme: Scheme, rows: Sequence[Linear], parameters: int, archives: Sequence[Path]) -> dict[str, Any]:
    """Measure what a scheme did: bits per parameter over *all* parameters, and which layers it covered."""
    covered = [row for row in rows if row.format]
    size_bytes = sum(path.stat().st_size for path in archives)
    formats: Counter[str] = Counter()
    for row in covered:
        formats[row.format.told() if row.format else ""] += row.parameters
    return {
        "scheme": scheme.name,
        "method": scheme.method,
        "embeddings": scheme.embeddings,
        "parameters": parameters,
        "parameters_by_format": dict(sorted(formats.items())),
        "weights_bytes": size_bytes,
        "bits_per_parameter": 8 * size_bytes / parameters if parameters else 0.0,
        "layers": len(rows),
        "layers_quantised": len(covered),
        "parameters_quantised_share": sum(row.parameters for row in covered) / parameters if parameters else 0.0,
        "kept_float": [{"layer": row.layer, "reason": row.skip} for row in rows if not row.format],
    }
