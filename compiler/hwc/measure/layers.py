"""Layers: what each layer of a language model hands on, on its device and in ONNX Runtime, and where two runs part.

The code that is compiled for this tells more than the artefact's, so it is fused in other ways: a fault of one fusion
may not show in it, which then shows as two runs that do not part.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwc import onnx_io
from hwc.capture import residual, state
from hwc.capture.golden import Case, load_numbered, save_cases, save_numbered
from hwc.capture.simplify import call, session
from hwc.formats import Kind
from hwc.lower import iree, lower
from hwc.lower.vendor import Door
from hwc.program import Program
from hwc.runtime import clean, prefill
from hwc.spec.model import Bucket, ModelSpec, bucket_id
from hwc.spec.target import Lowering

if TYPE_CHECKING:
    import numpy as np
    import onnx

PARTS_AT = 1e-4
"""Relative distance from which two runs are taken to part. Of a tiny Llama, clean runs on three kinds of devices stay
below 1e-5; one inverted byte of a packed int4 weight reaches 5e-2."""
ROUNDED_PARTS_AT = 0.1
"""The same where activations are rounded: one that falls to the other side moves its token by 2e-2 in a tiny Llama."""
DEVICE, REFERENCE, LAYERS = "device.npz", "reference.npz", "layers.json"
Stream = dict[str, "np.ndarray"]
"""Layer to what it hands on, float32 [tokens, hidden], in the order of the layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parting:
    """The first layer at which two runs are apart."""

    layer: str
    distance: float
    """Relative; see ``distance``."""


def first_parting(one: Stream, other: Stream, *, parts_at: float = PARTS_AT) -> Parting | None:
    """Return the first layer after which two streams are further apart than ``parts_at``, or None."""
    found = (Parting(layer=layer, distance=distance(one[layer], other[layer])) for layer in one)
    return next((parting for parting in found if not parting.distance <= parts_at), None)


def furthest(one: Stream, other: Stream) -> float:
    """Return the largest distance over all layers."""
    return max(distance(one[layer], other[layer]) for layer in one)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest relative distance ‖a − b‖ / ‖b‖ over positions, float32 [tokens, hidden] each.

    By position, since a few positions of a language model have values thousands of times those of all others. NaN
    counts as infinite.
    """
    import numpy as np

    wide = one.astype(np.float64), other.astype(np.float64)
    size = np.maximum(np.linalg.norm(wide[1], axis=1), 1e-30)
    worst = float(np.max(np.linalg.norm(wide[0] - wide[1], axis=1) / size))
    return math.inf if math.isnan(worst) else worst


def read(folder: Path, name: str) -> Stream:
    """Return one of the streams that ``trace`` and ``run`` wrote."""
    layers = json.loads((folder / LAYERS).read_text())
    (stored,) = load_numbered(folder / name)
    return {layer: stored[layer] for layer in layers}


def lower_exposed(
    spec: ModelSpec, lowering: Lowering, encodings: Mapping[Kind, str], *, bucket: Bucket, graphs: Path,
    quantised: Path, limits: iree.Limits, out: Path, door: Door | None = None,
    tiles: bool = False,
) -> onnx.ModelProto:
    """Write ``module.vmfb`` and ``lower.json`` of one shape that also tells the stream; return its graph."""
    exposed = out / "graphs"
    exposed.mkdir()
    model = onnx_io.load_graph(graphs / f"{bucket_id(bucket)}.onnx")
    handed = residual.find(model)
    residual.expose(model, handed)
    onnx_io.save(model, exposed / f"{bucket_id(bucket)}.onnx")
    (out / LAYERS).write_text(json.dumps([one.layer for one in handed]))
    lower.lower(
        spec, lowering, encodings, buckets=(bucket,), graphs=exposed, quantised=quantised, limits=limits, out=out,
        door=door, tiles=tiles,
    )
    return lower.reference_graph(exposed, quantised, bucket)


def cases(ids: Sequence[int], bucket: Bucket, context_tokens: int) -> list[Case]:
    """Return the calls that take a text through one shape, alike in every row, the last filled up on the right."""
    import numpy as np

    made = []
    for chunk in prefill.plan(len(ids), [bucket["sequence"]], context_tokens):
        rows = np.zeros((bucket["batch"], chunk.length), np.int64)
        part = ids[chunk.start : chunk.start + chunk.length]
        rows[:, : len(part)] = part
        index = np.full((bucket["batch"], bucket["logits"]), len(part) - 1, np.int64)
        feeds = {"input_ids": rows, "start": np.full(bucket["batch"], chunk.start, np.int64), "logit_index": index}
        made.append(Case(bucket=bucket, items=(), feeds=feeds))
    return made


def run(
    program: Program, texts: Sequence[Case], tokens: int, *, out: Path, timeout_s: float, memory_bytes: int
) -> None:
    """Write the stream of a program that tells it, run in a clean process, as ``device.npz``."""
    work = out / "run"
    work.mkdir()
    save_cases(texts, work)
    clean.serve(work, program, "run", timeout_s=timeout_s, memory_bytes=memory_bytes, cases=str(work))
    _save(out, DEVICE, texts, load_numbered(work / "outputs.npz"), tokens, _values(program))


def reference(
    graph: onnx.ModelProto, weights: dict[str, np.ndarray], spec: ModelSpec, texts: Sequence[Case], tokens: int,
    *, out: Path,
) -> None:
    """Write the stream of strict ONNX Runtime on the same graph as ``reference.npz``."""
    states = state.find(graph)
    names = [value.name for value in graph.graph.output]
    opened = session(onnx_io.attach(graph, weights))
    kept: dict[str, Any] = state.zeros(states, spec, texts[0].bucket)
    found = []
    for one in texts:
        found.append(dict(zip(names, call(opened, names, {**one.feeds, **kept}), strict=True)))
        kept = state.carried(states, found[-1])
    held = {name for entry in states for name in (entry.name, entry.next)}
    _save(out, REFERENCE, texts, found, tokens, [name for name in names if name not in held])


def _values(program: Program) -> list[str]:
    (function,) = program.functions
    return [port.name for port in function.outputs]


def _save(
    out: Path, name: str, texts: Sequence[Case], found: Sequence[Mapping[str, np.ndarray]], tokens: int,
    values: Sequence[str],
) -> None:
    """Join the calls' values into one stream; a later call of the same position computes the same."""
    import numpy as np

    layers = json.loads((out / LAYERS).read_text())
    streams: Stream = {}
    for layer, value in zip(layers, values[-len(layers) :], strict=True):
        ends = [int(one.feeds["start"][0]) + one.bucket["sequence"] for one in texts]
        stream = np.zeros((max(ends), found[0][value].shape[-1]), np.float32)
        for end, one, outputs in zip(ends, texts, found, strict=True):
            stream[end - one.bucket["sequence"] : end] = outputs[value][0]
        streams[layer] = stream[:tokens]
    save_numbered(out / name, [streams])
