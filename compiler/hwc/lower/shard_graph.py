"""A static graph while it is split over devices: where each value lies, its parts, and the nodes that make them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hwc import onnx_io
from hwc.lower.passes.devices import MOVE, PART

if TYPE_CHECKING:
    import numpy as np
    import onnx

DOMAIN = "hwc"
INT64 = 7
LIGHT_WEIGHT_BYTES = 4096
"""Up to which a weight may take part in what is computed on every device, such as the frequencies of positions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """Type of a value."""

    shape: tuple[int, ...]
    elem_type: int

    def cut(self, axis: int, devices: int) -> Tensor:
        """Return the type of one of as many parts as devices."""
        return replace(self, shape=(*self.shape[:axis], self.shape[axis] // devices, *self.shape[axis + 1 :]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A value that lies in parts, one a device."""

    axis: int
    parts: tuple[str, ...]


@dataclass(slots=True)
class SplitGraph:
    """The nodes written so far. What this pass does not place lies on the first device; constants lie on every one."""

    model: onnx.ModelProto
    devices: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    types: dict[str, Tensor] = field(default_factory=dict)
    splits: dict[str, Split] = field(default_factory=dict)
    weights: frozenset[str] = frozenset()
    _constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    _lies: dict[str, int] = field(default_factory=dict)
    _makers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    _light: dict[str, frozenset[str]] = field(default_factory=dict)
    """A value to the inputs of the graph that it is computed from, where no large weight takes part."""

    def __post_init__(self) -> None:
        graph = self.model.graph
        for value in (*graph.input, *graph.value_info, *graph.output):
            kind = value.type.tensor_type
            self.types[value.name] = Tensor(
                shape=tuple(dim.dim_value for dim in kind.shape.dim), elem_type=kind.elem_type
            )
        told = {node.output[0]: entry.t for node in graph.node if node.op_type == "Constant"
                for entry in node.attribute if entry.name == "value"}  # fmt: skip
        self._constants = {**told, **{constant.name: constant for constant in graph.initializer}}
        for name, constant in self._constants.items():
            self.types[name] = Tensor(shape=tuple(constant.dims), elem_type=constant.data_type)
        self.weights = frozenset(onnx_io.weight_names(self.model))
        self._light = {value.name: frozenset([value.name]) for value in graph.input if value.name not in self.weights}

    def value(self, name: str) -> np.ndarray | None:
        """Return the value of a constant in the graph; None for anything else."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self._constants[name]) if name in self._constants else None

    def integers(self, name: str) -> tuple[int, ...] | None:
        """Return the elements of a constant of int64; None for anything else."""
        value = self.value(name) if name in self.types and self.types[name].elem_type == INT64 else None
        return None if value is None else tuple(map(int, value.reshape(-1)))

    def stored(self, name: str) -> bool:
        """Tell whether a value is a weight or a constant, of which every device can have its part at no cost."""
        return name in self.weights or name in self._constants

    def whole(self, name: str, device: int = 0) -> str:
        """Return a value as it lies whole on a device, brought there if it has to be."""
        if not name or name in self._constants:
            return name
        if name in self.weights:
            return name if device == 0 else self._weight(name, f"{name}.on{device}", self.types[name], device, 0)
        if name in self.splits and name not in self._lies:
            axis, parts = self.splits[name].axis, self.splits[name].parts
            self.emit("Concat", [self.moved(part, 0) for part in parts], name, axis=axis)
            self._lies[name] = 0
        return self.moved(name, device)

    def part(self, name: str, axis: int, device: int) -> str:
        """Return a device's part of a value that is split along ``axis``, or of a weight or constant."""
        if name in self.splits:
            return self.splits[name].parts[device]
        kind, made = self.types[name].cut(axis, self.devices), f"{name}.axis{axis}.part{device}"
        if name in self.weights:
            return self._weight(name, made, kind, device, axis)
        value = self.value(name)
        assert value is not None
        size = kind.shape[axis]
        return self.constant(made, value.take(range(device * size, (device + 1) * size), axis))

    def _weight(self, weight: str, made: str, kind: Tensor, device: int, axis: int) -> str:
        if made not in self.types:
            self.declared(made, kind, device)
            start = device * kind.shape[axis] if kind != self.types[weight] else 0
            self.emit(PART, [weight], made, device=device, axis=axis, start=start)
        return made

    def constant(self, name: str, value: np.ndarray) -> str:
        """Add a constant."""
        from onnx import numpy_helper

        if name not in self._constants:
            tensor = numpy_helper.from_array(value, name)
            self._constants[name] = tensor
            self.types[name] = Tensor(shape=value.shape, elem_type=tensor.data_type)
            self.model.graph.initializer.append(tensor)
        return name

    def moved(self, name: str, device: int) -> str:
        """Return a value as it lies on a device, moved there if it has to be, or computed anew if that passes less."""
        if self._lies.get(name, 0) == device:
            return name
        made = f"{name}.on{device}"
        if made in self.types:
            return made
        if name in self._makers and sum(map(self.byte_count, self._light[name])) <= self.byte_count(name):
            return self._computed(name, device)
        self.emit(MOVE, [name], self.declared(made, self.types[name], device), device=device)
        return made

    def _computed(self, name: str, device: int) -> str:
        made = f"{name}.on{device}"
        if name in self._makers and made not in self.types:
            node = self._makers[name]
            inputs = [self._computed(one, device) for one in node.input]
            self.copy(node, inputs, [self.declared(made, self.types[name], device)])
        return made if made in self.types else self.whole(name, device)

    def stay(self, node: onnx.NodeProto) -> None:
        """Add a node as it is, on the first device."""
        for name in node.input:
            self.whole(name)
        self.nodes.append(node)
        known = [self._leaves(name) for name in filter(None, node.input)]
        if len(node.output) == 1 and node.output[0] in self.types and all(leaves is not None for leaves in known):
            self._makers[node.output[0]] = node
            self._light[node.output[0]] = frozenset().union(*(leaves for leaves in known if leaves is not None))

    def _leaves(self, name: str) -> frozenset[str] | None:
        """Return which inputs of the graph a light value is computed from; None for any other value."""
        if name in self._constants or (name in self.weights and self.byte_count(name) <= LIGHT_WEIGHT_BYTES):
            return frozenset()
        return self._light.get(name)

    def passing(self, name: str) -> int:
        """Return the bytes that pass to every other device if each is to have a value whole."""
        if not name or self.stored(name) or f"{name}.on1" in self.types:
            return 0
        leaves = self._light.get(name, frozenset([name]))
        return min(self.byte_count(name), sum(map(self.byte_count, leaves)))

    def split_state(self, name: str, result: str, axis: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Let each device keep its part of a state; return what it reads and what replaces that."""
        from onnx import ValueInfoProto, helper

        kept, graph = (self.split(name, axis), self.split(result, axis)), self.model.graph
        for values, whole, parts in zip((graph.input, graph.output), (name, result), kept, strict=True):
            made = [helper.make_tensor_value_info(one, kind.elem_type, kind.shape)
                    for one in parts if (kind := self.types[one])]  # fmt: skip
            told = [ValueInfoProto.FromString(value.SerializeToString()) for value in values]
            at = next(place for place, value in enumerate(told) if value.name == whole)
            del values[:]
            values.extend([*told[:at], *made, *told[at + 1 :]])
        return kept

    def split(self, name: str, axis: int) -> tuple[str, ...]:
        """Declare a value to lie in parts along an axis; return their names."""
        kind = self.types[name].cut(axis, self.devices)
        parts = tuple(self.declared(f"{name}.part{device}", kind, device) for device in range(self.devices))
        self.splits[name] = Split(axis=axis, parts=parts)
        return parts

    def combined(self, op: str, parts: Sequence[str], output: str) -> None:
        """Combine values of the devices, each of the result's shape, on the first one."""
        total = self.moved(parts[0], 0)
        for device in range(1, len(parts)):
            last = device == len(parts) - 1
            name = output if last else self.declared(f"{output}.upto{device}", self.types[output])
            self.emit(op, [total, self.moved(parts[device], 0)], name)
            total = name

    def declared(self, name: str, kind: Tensor, device: int = 0) -> str:
        """Declare a value that lies on a device."""
        if name not in self.types:
            from onnx import helper

            self.types[name] = kind
            self._lies[name] = device
            self.model.graph.value_info.append(helper.make_tensor_value_info(name, kind.elem_type, kind.shape))
        return name

    def copy(self, node: onnx.NodeProto, inputs: Sequence[str], outputs: Sequence[str], **changed: int) -> None:
        """Add a node like another, with other inputs, outputs and integer attributes."""
        from onnx import NodeProto, helper

        made = NodeProto()
        made.CopyFrom(node)
        del made.input[:], made.output[:], made.attribute[:]
        made.input.extend(inputs)
        made.output.extend(outputs)
        made.attribute.extend(entry for entry in node.attribute if entry.name not in changed)
        made.attribute.extend(helper.make_attribute(name, value) for name, value in changed.items())
        self.nodes.append(made)

    def emit(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        """Add a node; an operator of this project's own is told by its name."""
        from onnx import helper

        domain = DOMAIN if op.startswith("Hwc") else ""
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, domain=domain, **attributes))

    def byte_count(self, name: str) -> int:
        """Return the bytes of a value."""
        from onnx import helper

        kind = self.types[name]
        return math.prod(kind.shape) * int(helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize)
