"""Encode: codes and float weights to the parameter archives that a target's code reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwc import onnx_io
from hwc.errors import InternalError
from hwc.quantise import codes as canonical
from hwc.quantise.encodings import Packed, pack, unpack
from hwc.quantise.graph import apply
from hwc.quantise.quantise import METHOD, read_layers, read_overrides
from hwc.quantise.scheme import Scheme

if TYPE_CHECKING:
    import numpy as np

FLOAT_ARCHIVE = "float.irpa"
LINEAR_ARCHIVE = "linears.irpa"
GRAPH = "graph.onnx"


def encode(scheme: Scheme, encoding: str, captured: Path, quantised: Path, out: Path) -> None:
    """Write ``float.irpa``, ``linears.irpa``, ``graph.onnx`` and ``audit.json``.

    ``linears.irpa`` holds every weight of a linear in the scheme's form, and the biases that changed with it;
    ``float.irpa`` everything else, with those biases as captured: it is the same file for every scheme, so a store
    keeps it once. What was written is read back and compared.
    ``graph.onnx`` is the captured graph in the scheme, detached: the archives hold its weights (see restore.py).
    """
    from safetensors.numpy import load_file

    weights = load_file(captured / "weights.safetensors")
    layers = json.loads((quantised / "layers.json").read_text())
    linear_weights = {row["weight"] for row in layers if row["skip"] != "the weight is shared with another node"}
    chosen = read_layers(quantised)
    coded = canonical.load(quantised / "codes.safetensors") if chosen else {}
    replaced = {linear.weight for linear in chosen}
    floats = {name: value for name, value in weights.items() if name not in linear_weights}
    kept = {name: value for name, value in weights.items() if name in linear_weights and name not in replaced}
    packed = {key: value for layer, entry in coded.items() for key, value in pack(layer, entry, encoding).items()}
    write_archive({name: _plain(value) for name, value in floats.items()}, out / FLOAT_ARCHIVE)
    own = {**kept, **read_overrides(quantised)}
    write_archive({**{name: _plain(value) for name, value in own.items()}, **packed}, out / LINEAR_ARCHIVE)
    _read_back(coded, encoding, out / LINEAR_ARCHIVE)
    graph = apply(scheme, chosen, onnx_io.load_graph(captured / "graph.onnx"), where=GRAPH)
    onnx_io.drop_notes(graph)
    onnx_io.save(graph, out / GRAPH)
    facts = audit(scheme, layers, weights, [out / FLOAT_ARCHIVE, out / LINEAR_ARCHIVE])
    facts |= {key: value for key, value in method_of(quantised).items() if key in ("method", "calibration")}
    (out / "audit.json").write_text(json.dumps(facts, indent=1, sort_keys=True))


def method_of(quantised: Path) -> dict[str, Any]:
    """Return what quantising said about its method and its calibration data."""
    path = quantised / METHOD
    told: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return told


def _plain(value: np.ndarray) -> Packed:
    return Packed(payload=value, dtype=str(value.dtype), shape=tuple(value.shape))


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


def _read_back(coded: Mapping[str, canonical.Codes], encoding: str, path: Path) -> None:
    """Raise InternalError unless the archive's bytes decode to exactly the canonical codes."""
    import numpy as np

    stored = read_archive(path)
    for layer, entry in coded.items():
        back = unpack(layer, stored, entry, encoding)
        if not (np.array_equal(back.codes, entry.codes) and np.array_equal(back.scales, entry.scales)):
            raise InternalError(f"encoding {encoding} does not give back the codes of {layer}", where=str(path))


def audit(
    scheme: Scheme, layers: list[dict[str, Any]], weights: Mapping[str, np.ndarray], archives: list[Path]
) -> dict[str, Any]:
    """Measure what a scheme did: bits per parameter over *all* parameters, and which layers it covered."""
    total = sum(value.size for value in weights.values())
    covered = [row for row in layers if row["quantised"]]
    covered_parameters = sum(row["k"] * row["n"] for row in covered)
    size_bytes = sum(path.stat().st_size for path in archives)
    return {
        "scheme": scheme.name,
        "method": scheme.method,
        "group_size": scheme.group_size,
        "parameters": int(total),
        "weights_bytes": size_bytes,
        "bits_per_parameter": 8 * size_bytes / total if total else 0.0,
        "layers": len(layers),
        "layers_quantised": len(covered),
        "parameters_quantised_share": covered_parameters / total if total else 0.0,
        "kept_float": [{"layer": row["layer"], "reason": row["skip"]} for row in layers if not row["quantised"]],
    }
