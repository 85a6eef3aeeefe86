"""A variant as one ONNX file: its graph with its weights back in, shown to answer its golden cases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hwc import onnx_io
from hwc.bundle.open import Blob, Variant
from hwc.errors import IntegrityError, InternalError, UsageError
from hwc.quantise.encode import read_entries
from hwc.quantise.restore import restore
from hwc.runtime.parameters import load_index
from hwc.serve.first_cases import FirstCase

if TYPE_CHECKING:
    import onnx

GRAPH_ROLE = "graph/model.onnx"


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
    import onnx
    from google.protobuf.message import DecodeError

    blob = graph_of(variant)
    try:
        model = onnx.load_model_from_string(blob.read_bytes())
    except DecodeError as error:
        raise IntegrityError("the bundle's graph is no ONNX model", where=variant.name) from error
    whole = onnx_io.attach(model, restore(model, _stored(variant), variant.facts["lower"]["encodings"]))
    del whole.metadata_props[:]
    return whole


def _stored(variant: Variant) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for role, blob in variant.files.items():
        if role.startswith("weights/"):
            found.update(read_entries(load_index(blob.path, blob.offset, blob.length)))
    return found


def prove(path: Path, cases: Sequence[FirstCase], tolerance: float) -> None:
    """Raise InternalError unless the file, in ONNX Runtime as it stands, gives the expected outputs of every case.

    ``tolerance`` bounds the difference, as a share of the largest output where that is past 1.
    """
    import numpy as np
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
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
