"""Keep: weights that arrived quantised are stored with the codes they came with; capture laid those beside them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwc.errors import IntegrityError, StepError, UsageError
from hwc.formats import Format
from hwc.quantise import codes as canonical
from hwc.quantise.codes import CHUNK_WEIGHTS, Codes, dequantise
from hwc.quantise.finished import Finished, Solved
from hwc.quantise.linears import Linear, assign
from hwc.quantise.scheme import Scheme
from hwc.quantise.weights import Weights

if TYPE_CHECKING:
    import numpy as np

CODES = "kept.safetensors"
TYPES = "arrived.json"
"""What capture wrote: codes by layer, and for every layer that arrived quantised its type and why codes lack a form."""
FLOAT = "it arrived in float"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What arrived with a captured model."""

    types: Mapping[str, Mapping[str, str]]
    """Layer to ``type`` and ``reason``."""
    codes: Mapping[str, Codes]
    """By layer; mapped, not read."""
    weights: Weights

    def reason(self, linear: Linear) -> str:
        """Return why a layer that arrived quantised cannot keep its codes; empty if it can."""
        if linear.layer not in self.codes:
            return self.types[linear.layer]["reason"] or "its codes have no form here"
        entry = self.codes[linear.layer]
        if linear.gathered and (entry.kind == "fp8" or entry.offsets is not None):
            return "rows of a table are read by number from integers without offsets"
        return ""

    def form(self, linear: Linear) -> Format:
        """Return the format of a layer's codes."""
        entry = self.codes[linear.layer]
        groups = 0 if entry.kind == "fp8" else linear.k // entry.scales.shape[1]
        return Format(kind=entry.kind, group_size=groups, zeros=entry.zero_kind)


def read(captured: Path) -> Source:
    """Read what arrived. Raises UsageError if nothing did, StepError if the captured graph names weights otherwise."""
    if not (captured / TYPES).is_file():
        raise UsageError(
            "no weight of this model arrived quantised: there are no codes to keep",
            hint="`keep` is for GGUF files and compressed-tensors folders; w4a16, w8a16 and fp8 quantise float weights",
        )
    source = Source(
        types=json.loads((captured / TYPES).read_text()), codes=canonical.load(captured / CODES),
        weights=Weights(captured / "weights.safetensors"),
    )
    unknown = [layer for layer in source.types if f"{layer}.weight" not in source.weights]
    if unknown:
        raise StepError(f"{len(unknown)} layers that arrived quantised are not in the graph, {min(unknown)} first")
    return source


def assigned(scheme: Scheme, linears: Sequence[Linear], source: Source) -> list[Linear]:
    """Give each layer the format it arrived in; where that has no form here the scheme's, and float where it was float.

    Raises UsageError if no layer's codes can be kept.
    """
    formats: dict[str, Format | None] = {}
    marked: list[Linear] = []
    for linear in linears:
        came = linear.layer in source.types
        marked.append(replace(linear, skip=linear.skip or ("" if came else FLOAT)))
        if came:
            formats[linear.layer] = scheme.linears if source.reason(linear) else source.form(linear)
    chosen = assign(marked, {**formats, **scheme.formats})
    if not any(linear.format and not source.reason(linear) for linear in chosen):
        types = sorted({told["type"] for told in source.types.values()})
        raise UsageError(
            f"no layer can keep its codes: they arrived as {', '.join(types)}",
            hint="w8a16 rounds all of them to int8; w4a16 to int4, looking at calibration data",
        )
    return chosen


def take(chosen: Sequence[Linear], source: Source, finished: Finished) -> None:
    """Take over the codes that can be kept; the other layers are left.

    Raises IntegrityError for codes that do not decode to exactly the float weight that was captured.
    """
    for linear in chosen:
        if source.reason(linear) or finished.has(linear.layer):
            continue
        entry, stored = source.codes[linear.layer], source.weights[linear.weight]
        _require_equal(linear, entry, stored if linear.transposed else stored.T)
        finished.keep(linear.layer, Solved(codes=entry))


def _require_equal(linear: Linear, entry: Codes, weight: np.ndarray) -> None:
    import numpy as np

    step = max(1, CHUNK_WEIGHTS // linear.k)
    for start in range(0, linear.n, step):
        rows = slice(start, start + step)
        some = Codes(
            kind=entry.kind, codes=entry.codes[rows], scales=entry.scales[rows],
            zeros=None if entry.zeros is None else entry.zeros[rows],
            offsets=None if entry.offsets is None else entry.offsets[rows],
        )
        if entry.codes.shape != weight.shape or not np.array_equal(dequantise(some), weight[rows]):
            raise IntegrityError(
                "the codes that arrived are not those of the captured weight", where=linear.layer,
                hint="`hwc cache gc` and build again; if it stays so, it is a defect of hwc",
            )


def told(linears: Sequence[Linear], source: Source) -> list[dict[str, Any]]:
    """Return how many layers and parameters became what: kept, rounded, or float; the largest share first.

    Float are also weights that are no linears, which have no layers.
    """
    layers: Counter[tuple[str, str, str, str]] = Counter()
    parameters: Counter[tuple[str, str, str, str]] = Counter()
    for linear in linears:
        if linear.format is not None:
            reason = source.reason(linear)
            came = source.types[linear.layer]["type"]
            row = ("rounded" if reason else "kept", came, linear.format.told(), reason)
            layers[row] += 1
            parameters[row] += linear.parameters
    rows = [
        {"codes": row[0], "arrived": row[1], "stored": row[2], "reason": row[3], "layers": layers[row], "parameters": n}
        for row, n in parameters.most_common()
    ]
    rest = sum(map(source.weights.size, source.weights)) - parameters.total()
    return [*rows, {"codes": "float", "stored": "float32", "parameters": rest}]
