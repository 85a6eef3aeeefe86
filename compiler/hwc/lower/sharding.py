"""Tensor parallelism: a static graph over several devices.

A linear whose input is whole is split by columns: each device computes a part of the outputs. One whose input is split
along K already is split by rows: each device multiplies its part, and the first one adds the products up. Between the
two, operators work on the parts where they lie, as far as `shard_rules` says how: attention by heads comes of that, and
each device keeps the state of its own heads. Everything else is the first device's. Megatron-LM (arXiv:1909.08053),
with the sum on one device instead of an all-reduce.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hwc import onnx_io
from hwc.capture import state
from hwc.lower import shard_linears
from hwc.lower.shard_graph import DOMAIN, SplitGraph
from hwc.lower.shard_linears import SplitLinear
from hwc.lower.shard_rules import COMBINED, RULES, Follow, Seen

if TYPE_CHECKING:
    import onnx

SHARDING = 5
"""Version of what is written here: part of the key of a module that is split, and of no other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharded:
    """How a graph was split."""

    columns: tuple[str, ...]
    """Layers split by columns."""
    rows: tuple[str, ...]
    """Layers split by rows."""
    whole: tuple[str, ...]
    """Layers that stay on the first device: their extents are no multiple of the devices, or of the devices times a
    group, or their bias is computed."""
    states: Mapping[str, int] = field(default_factory=dict)
    """Each part of a state that is split, to the device that keeps it."""


def shard(model: onnx.ModelProto, devices: int) -> Sharded:
    """Split every linear of a detached static graph over ``devices``, in place."""
    import onnx

    model.CopyFrom(onnx.shape_inference.infer_shapes(model))
    work = _Work(SplitGraph(model, devices), shard_linears.find(model), _written(model))
    for node in list(model.graph.node):
        work.add(node)
    for output in model.graph.output:
        if output.name not in work.states:
            work.graph.whole(output.name)
    model.graph.ClearField("node")
    model.graph.node.extend(work.graph.nodes)
    _drop_unread(model.graph)
    if all(entry.domain != DOMAIN for entry in model.opset_import):
        model.opset_import.add(domain=DOMAIN, version=1)
    return Sharded(
        columns=tuple(work.columns), rows=tuple(work.rows), whole=tuple(work.whole), states=dict(work.states)
    )


@dataclass(slots=True)
class _Work:
    graph: SplitGraph
    linears: dict[str, SplitLinear]
    _written: frozenset[str]
    """States that one ScatterND reads, which yields what replaces them."""
    columns: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)
    states: dict[str, int] = field(default_factory=dict)

    def add(self, node: onnx.NodeProto) -> None:
        """Take over one node, split where it can be."""
        linear = self.linears.get(node.output[0])
        if linear is not None:
            self._linear(node, linear)
        elif not any(name in self.graph.splits for name in node.input) or not (
            self._keeps(node) or self._follows(node) or self._reduced(node)
        ):
            self.graph.stay(node)

    def _linear(self, node: onnx.NodeProto, linear: SplitLinear) -> None:
        devices, split = self.graph.devices, self.graph.splits.get(node.input[0])
        last = len(self.graph.types[node.input[0]].shape) - 1
        if split is not None and split.axis == last and linear.by_rows(devices):
            shard_linears.by_rows(self.graph, node, linear)
            self.rows.append(linear.layer)
        elif linear.by_columns(devices) and (not linear.bias or self.graph.stored(linear.bias)):
            shard_linears.by_columns(self.graph, node, linear)
            self.columns.append(linear.layer)
        else:
            self.whole.append(linear.layer)
            self.graph.stay(node)

    def _follows(self, node: onnx.NodeProto) -> bool:
        """Split a node like its inputs; tell whether that was possible."""
        known = (*filter(None, node.input), *node.output)
        if any(name not in self.graph.types for name in known):
            return False
        follow = RULES[node.op_type](self._seen(node)) if node.op_type in RULES else None
        if follow is None or not self._even(node, follow) or not self._worth(node, follow):
            return False
        parts = [self.graph.split(name, axis) for name, axis in zip(node.output, follow.outputs, strict=True)]
        for device in range(self.graph.devices):
            inputs = [
                self.graph.whole(name, device) if axis is None else self.graph.part(name, axis, device)
                for name, axis in zip(node.input, follow.inputs, strict=True)
            ]
            if follow.shape is not None:
                inputs[follow.shape] = self._shape(parts[0][device])
            self.graph.copy(node, inputs, [names[device] for names in parts])
        return True

    def _shape(self, name: str) -> str:
        """Return the shape of a value as a constant."""
        import numpy as np

        return self.graph.constant(f"{name}.shape", np.array(self.graph.types[name].shape, np.int64))

    def _seen(self, node: onnx.NodeProto) -> Seen:
        splits, types = self.graph.splits, self.graph.types
        return Seen(
            shapes=tuple(types[name].shape if name else () for name in node.input),
            results=tuple(types[name].shape for name in node.output),
            axes=tuple(splits[name].axis if name in splits else None for name in node.input),
            stored=tuple(self.graph.stored(name) for name in node.input),
            numbers=tuple(self.graph.integers(name) for name in node.input),
            told={
                entry.name: entry.i if entry.type == entry.INT else tuple(entry.ints) for entry in node.attribute
                if entry.type in (entry.INT, entry.INTS)
            },
        )

    def _keeps(self, node: onnx.NodeProto) -> bool:
        """Let each device write its own heads into a state of its own; tell whether that was possible.

        Where they are written is told by `start`, whatever the indices say (see `passes.kept_state`).
        """
        graph = self.graph
        if node.op_type != "ScatterND" or node.input[2] not in graph.splits or node.input[0] not in self._written:
            return False
        name, _, new = node.input
        split = graph.splits[new]
        if split.axis != state.HEADS_AXIS or graph.types[name].shape[split.axis] != graph.types[new].shape[split.axis]:
            return False
        read, made = graph.split_state(name, node.output[0], split.axis)
        for device in range(graph.devices):
            graph.copy(node, [read[device], node.input[1], split.parts[device]], [made[device]])
            self.states |= {read[device]: device, made[device]: device}
        return True

    def _even(self, node: onnx.NodeProto, follow: Follow) -> bool:
        """Tell whether what is to be split can be divided over the devices."""
        told = zip((*node.input, *node.output), (*follow.inputs, *follow.outputs), strict=True)
        return all(axis is None or self.graph.types[name].shape[axis] % self.graph.devices == 0 for name, axis in told)

    def _worth(self, node: onnx.NodeProto, follow: Follow) -> bool:
        """Tell whether no more passes than if the parts were gathered; a whole cache must not follow a few heads."""
        told = list(zip(node.input, follow.inputs, strict=True))
        brought = sum(self.graph.passing(name) for name, axis in told if axis is None)
        gathered = sum(self.graph.byte_count(name) for name in node.input if name in self.graph.splits)
        return brought <= gathered // self.graph.devices

    def _reduced(self, node: onnx.NodeProto) -> bool:
        """Reduce each part of a value over the axis it is split along, and combine what the devices find."""
        graph, output = self.graph, node.output[0]
        if node.op_type not in COMBINED or node.input[0] not in graph.splits:
            return False
        axes = graph.value(node.input[1]) if len(node.input) > 1 else None
        rank = len(graph.types[node.input[0]].shape)
        split = graph.splits[node.input[0]]
        if axes is None or split.axis not in [int(axis) % rank for axis in axes]:
            return False
        found = [
            graph.declared(f"{output}.found{device}", graph.types[output], device) for device in range(graph.devices)
        ]
        for part, name in zip(split.parts, found, strict=True):
            graph.copy(node, [part, *node.input[1:]], [name])
        graph.combined(COMBINED[node.op_type], found, output)
        return True


def _written(model: onnx.ModelProto) -> frozenset[str]:
    replaced = {one.name: one.next for one in state.find(model)}
    uses = Counter(name for node in model.graph.node for name in node.input)
    return frozenset(
        node.input[0] for node in model.graph.node
        if node.op_type == "ScatterND" and replaced.get(node.input[0]) == node.output[0] and uses[node.input[0]] == 1
    )


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Drop the dequantisations whose product was split: each share decodes its own part."""
    used = onnx_io.used_names(graph)
    for node in list(graph.node):
        if node.op_type == "DequantizeLinear" and node.output[0] not in used:
            graph.node.remove(node)
