"""A variant as one ONNX file: its graph with its weights back in, shown to answer its golden cases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwc import onnx_io
from hwc.bundle.open import Blob, Variant
from hwc.errors import IntegrityError, InternalError, UsageError
from hwc.formats import Kind
from hwc.quantise.restore import restore
from hwc.runtime.parameters import load_index
from hwc.serve.first_cases import FirstCase

if TYPE_CHECKING:
    import onnx

GRAPH_ROLE = "graph/model.onnx"
ERRORS_ALONE = 3
"""Severity from which on ONNX Runtime speaks."""


def graph_of(variant: Variant) -> Blob:
    """Return where a variant's detached graph lies; raise UsageError for a bundle that was built without one."""
    if GRAPH_ROLE not in variant.files:
        raise UsageError(
            "the bundle holds no ONNX graph: an older hwc built it", where=variant.name,
            hint="build it again, or export it with `--backend iree` alone",
        )
    return variant.files[GRAPH_ROLE]


def whole_model(variant: Variant) -> onnx.ModelProto:
    """Return the ONNX model of a variant, weights inside and to the bit those of its archives.

    Raises UsageError for a bundle without a graph, IntegrityError for altered bytes or a graph and archives that do
    not fit, StepError past 2 GiB.
    """
    model = detached_graph(variant)
    whole = onnx_io.attach(model, restore(model, StoredWeights(variant), encodings_of(variant)))
    del whole.metadata_props[:]
    return whole


def detached_graph(variant: Variant) -> onnx.ModelProto:
    """Return a variant's graph without its weights; raise as ``whole_model`` does."""
    import onnx
    from google.protobuf.message import DecodeError

    blob = graph_of(variant)
    try:
        return onnx.load_model_from_string(blob.read_bytes())
    except DecodeError as error:
        raise IntegrityError("the bundle's graph is no ONNX model", where=variant.name) from error


def encodings_of(variant: Variant) -> Mapping[Kind, str]:
    """Return how each kind of codes is stored; raise UsageError for a bundle from before kinds had their own."""
    found: Mapping[Kind, str] | None = variant.facts["lower"].get("encodings")
    if found is None:
        raise UsageError(
            "the bundle does not tell how its weights are stored: an older hwc built it", where=variant.name,
            hint="build it again",
        )
    return found


class StoredWeights(Mapping[str, bytes]):
    """The entries of a variant's archives by key: mapped where they lie, and copied one at a time when asked for."""

    def __init__(self, variant: Variant) -> None:
        blobs = [blob for role, blob in variant.files.items() if role.startswith("weights/")]
        self._indices = [load_index(blob.path, blob.offset, blob.length) for blob in blobs]  # which keep them mapped
        self._entries = {key: entry for index in self._indices for key, entry in index.items() if entry.is_file}

    def __getitem__(self, key: str) -> bytes:
        entry = self._entries[key]
        handle, offset = entry.file_storage
        return bytes(handle.host_allocation[offset : offset + entry.length])

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def prove(
    path: Path, cases: Sequence[FirstCase], tolerance: float, options: Mapping[str, str] | None = None
) -> float:
    """Raise InternalError unless the file, in ONNX Runtime, gives the expected outputs of every case.

    ``tolerance`` bounds the difference, as a share of the largest output where that is past 1; ``options`` are session
    options. Returns the largest difference.
    """
    import numpy as np

    session, largest = opened(path, options or {}), 0.0
    for case in cases:
        names = list(case.expected)
        for name, found in zip(names, session.run(names, case.feeds), strict=True):
            expected = case.expected[name]
            allowed = tolerance * max(1.0, float(np.max(np.abs(expected), initial=0.0)))
            worst = float(np.max(np.abs(found - expected), initial=0.0)) if found.shape == expected.shape else np.inf
            if not worst <= allowed:
                raise InternalError(
                    f"the exported model differs by {worst:.2e} from the golden output `{name}`; {allowed:.1e} is "
                    "allowed", where=f"{path.name}, shape {case.bucket}",
                )
            largest = max(largest, worst)
    return largest


def opened(path: Path, options: Mapping[str, str]) -> Any:
    """Open a model file in ONNX Runtime on the CPU, with session options by name."""
    import onnxruntime as ort

    told = ort.SessionOptions()
    told.log_severity_level = ERRORS_ALONE
    for name, value in options.items():
        told.add_session_config_entry(name, value)
    try:
        return ort.InferenceSession(str(path), told, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InternalError(
            f"ONNX Runtime cannot load the exported model: {str(error).strip().splitlines()[0]}", where=path.name
        ) from error
