"""The residual stream of a language model's graph: what each layer hands to the next."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwc import onnx_io
from hwc.capture import state

if TYPE_CHECKING:
    import onnx

EMBEDDING = "the embedding"
_IDS, _HEAD = "input_ids", "logit_index"
_LAYER = re.compile(r"^(?P<path>.*?\.(?P<index>\d+))\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Handed:
    """One value of the stream."""

    layer: str
    """The layer that makes it, as ``model.layers.3``."""
    value: str
    """Its name in the graph."""


def find(model: onnx.ModelProto) -> tuple[Handed, ...]:
    """Return the stream from the embedding to the last layer, in order; what the last one hands on is normalised.

    A value's depth is the highest layer whose weights it depends on. A layer hands on the first value of its own depth
    that something deeper reads; what is read out for the logits is deeper than every layer.
    """
    paths = _paths(model)
    deepest = max(paths, default=-1)
    depth = dict.fromkeys((kept.name for kept in state.find(model)), -1) | {_HEAD: deepest + 1}
    depth |= {name: index for name in onnx_io.weight_names(model) if (index := _index(name)) is not None}
    order: dict[str, int] = {}
    handed: dict[int, str] = {}
    for node in model.graph.node:
        own = max((depth.get(name, -1) for name in node.input), default=-1)
        if node.op_type == "Gather" and _IDS in node.input:
            handed[-1] = node.output[0]
        for name in node.input:
            level = depth.get(name, -1)
            first = order.get(handed.get(level, ""), len(order))
            if name in order and 0 <= level < own and order[name] < first:
                handed[level] = name
        for name in node.output:
            depth[name] = own
            order[name] = len(order)
    return tuple(Handed(layer=paths.get(level, EMBEDDING), value=handed[level]) for level in sorted(handed))


def _index(weight: str) -> int | None:
    found = _LAYER.match(weight)
    return int(found["index"]) if found else None


def _paths(model: onnx.ModelProto) -> dict[int, str]:
    """Return index to path of every layer that has weights of its own."""
    found = (_LAYER.match(name) for name in onnx_io.weight_names(model))
    return {int(match["index"]): match["path"] for match in found if match is not None}


def expose(model: onnx.ModelProto, handed: tuple[Handed, ...]) -> None:
    """Make every value of the stream an output, in place, behind those there are."""
    import onnx

    known = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    model.graph.output.extend(known[one.value] for one in handed)
