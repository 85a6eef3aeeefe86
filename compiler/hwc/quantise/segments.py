"""Segments: a detached graph cut before its linears, so that each part runs alone and every node runs once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwc import onnx_io
from hwc.quantise.linears import Linear, candidates

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Linears that multiply the same value, and so share its statistics."""

    source: str
    linears: tuple[Linear, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A run of nodes that begins with linears whose inputs the segments before it have made."""

    groups: tuple[Group, ...]
    """The linears that the segment begins with; none in the first one."""
    nodes: tuple[int, ...]
    """Positions in the graph, in order; values made of weights alone are made again wherever they are read."""
    inputs: tuple[str, ...]
    """Graph inputs and values of earlier segments that the nodes read."""
    outputs: tuple[str, ...]
    """Values that later segments read."""
    weights: tuple[str, ...]


def cut(model: onnx.ModelProto, linears: Sequence[Linear]) -> list[Segment]:
    """Cut a detached graph at the given linears, in the order of their depth.

    Segment 0 holds what depends on none of them, segment s what depends on a chain of s. A cut lies where the next
    linears' inputs are ready, so those are live values anyway: in a transformer block the residual stream and one
    activation cross. Nodes that no listed linear needs are in no segment; the last segment has linears and no nodes.
    """
    shape = _Shape(model, linears)
    depth = 1 + max((shape.level[source] + 1 for source in shape.sources), default=0)
    return [_segment(shape, index) for index in range(depth)]


class _Shape:
    """What reads what, and at which depth."""

    def __init__(self, model: onnx.ModelProto, linears: Sequence[Linear]) -> None:
        self.nodes = list(model.graph.node)
        self.reads = [_reads(node) for node in self.nodes]
        self.weights = set(onnx_io.weight_names(model))
        self.free = self.weights | {tensor.name for tensor in model.graph.initializer}
        chosen = {linear.weight: linear for linear in linears}
        by_output = {
            node.output[0]: chosen[found.weight] for node, found in candidates(model) if found.weight in chosen
        }
        self.maker: dict[str, int] = {}
        self.level: dict[str, int] = {v.name: 0 for v in model.graph.input if v.name not in self.weights}
        self.node_level: list[int] = []
        self.sources: dict[str, list[Linear]] = {}
        for position, node in enumerate(self.nodes):
            linear = by_output.get(node.output[0])
            self._place(position, node, linear)
        self.needed = self._needed()
        self.last_read = self._last_reads()

    def _place(self, position: int, node: onnx.NodeProto, linear: Linear | None) -> None:
        moving = [name for name in self.reads[position] if name in self.level]
        level = max((self.level[name] for name in moving), default=-1)
        if linear is not None and moving:
            level = self.level[node.input[0]] + 1
            self.sources.setdefault(node.input[0], []).append(linear)
        self.node_level.append(level)
        for name in filter(None, node.output):
            self.maker[name] = position
            if level < 0:
                self.free.add(name)
            else:
                self.level[name] = level

    def _needed(self) -> set[int]:
        """Return the nodes that some listed linear's input depends on."""
        pending, found = list(self.sources), set[int]()
        while pending:
            position = self.maker.get(pending.pop())
            if position is not None and position not in found:
                found.add(position)
                pending += self.reads[position]
        return found

    def _last_reads(self) -> dict[str, int]:
        """Return the last segment that reads each moving value."""
        last = {source: self.level[source] + 1 for source in self.sources}
        for position in self.needed:
            for name in self.reads[position]:
                last[name] = max(last.get(name, -1), self.node_level[position])
        return last


def _reads(node: onnx.NodeProto) -> list[str]:
    """Return the values a node reads, those of its inner graphs included."""
    names = {name for name in node.input if name}
    for entry in node.attribute:
        for inner in (entry.g, *entry.graphs):
            names |= onnx_io.used_names(inner) if inner.node else set()
    return sorted(names)


def _segment(shape: _Shape, index: int) -> Segment:
    own = [i for i in sorted(shape.needed) if shape.node_level[i] == index]
    nodes, weights = _closure(shape, own)
    read = sorted({name for i in own for name in shape.reads[i] if name in shape.level})
    made = {name for i in own for name in shape.nodes[i].output if name}
    groups = [
        Group(source=source, linears=tuple(linears))
        for source, linears in shape.sources.items()
        if shape.level[source] + 1 == index
    ]
    return Segment(
        groups=tuple(groups),
        nodes=tuple(nodes),
        inputs=tuple(name for name in read if name not in made),
        outputs=tuple(sorted(name for name in made if shape.last_read.get(name, -1) > index)),
        weights=tuple(weights),
    )


def _closure(shape: _Shape, own: Sequence[int]) -> tuple[list[int], list[str]]:
    """Add the nodes that make values of weights and constants alone; list the weights that are read."""
    nodes, weights = set(own), set[str]()
    pending = [name for i in own for name in shape.reads[i] if name in shape.free]
    while pending:
        name = pending.pop()
        if name in shape.weights:
            weights.add(name)
        position = shape.maker.get(name)
        if position is not None and position not in nodes:
            nodes.add(position)
            pending += shape.reads[position]
    return sorted(nodes), sorted(weights)


def subgraph(model: onnx.ModelProto, segment: Segment, types: Mapping[str, int]) -> onnx.ModelProto:
    """Return a segment as a model: its inputs, then its weights, are graph inputs.

    ``types`` tells the ONNX element type of every input and weight; shapes stay open.
    """
    import onnx
    from onnx import helper

    part = onnx.ModelProto(ir_version=model.ir_version)
    part.opset_import.extend(model.opset_import)
    part.functions.extend(model.functions)
    part.graph.name = "segment"
    part.graph.node.extend(model.graph.node[i] for i in segment.nodes)
    used = onnx_io.used_names(part.graph)
    part.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in used)
    for name in (*segment.inputs, *segment.weights):
        part.graph.input.append(helper.make_tensor_value_info(name, types[name], None))
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in segment.outputs)
    return part
