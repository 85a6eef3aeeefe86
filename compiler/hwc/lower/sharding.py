"""Tensor parallelism: a static graph's linears over several devices, by columns, then by rows where nothing is between.

A linear whose input is whole is split by columns: each device computes a part of the outputs. One whose input is split
already is split by rows: each device multiplies its part, and the first one adds the products up. Between the two,
elementwise operators work on the parts where they lie. Everything else is the first device's. Megatron-LM
(arXiv:1909.08053), with the sum on one device instead of an all-reduce.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hwc import onnx_io
from hwc.lower.passes.devices import MOVE, PART
from hwc.quantise.linears import Linear, candidates

if TYPE_CHECKING:
    import onnx

DOMAIN = "hwc"
ELEMENTWISE = frozenset(
    {"Abs", "Add", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu",
     "Log", "Mul", "Neg", "Pow", "Relu", "Sigmoid", "Softplus", "Sqrt", "Sub", "Tanh"}
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharded:
    """How a graph was split."""

    columns: tuple[str, ...]
    """Layers split by columns."""
    rows: tuple[str, ...]
    """Layers split by rows."""
    whole: tuple[str, ...]
    """Layers that stay on the first device: their extents are no multiple of the devices, or their bias is computed."""


def shard(model: onnx.ModelProto, devices: int) -> Sharded:
    """Split every linear of a detached static graph over ``devices``, in place."""
    work = _Graph(model, devices)
    for node in list(model.graph.node):
        work.add(node)
    for output in model.graph.output:
        work.gathered(output.name)
    model.graph.ClearField("node")
    model.graph.node.extend(work.nodes)
    if all(entry.domain != DOMAIN for entry in model.opset_import):
        model.opset_import.add(domain=DOMAIN, version=1)
    return Sharded(columns=tuple(work.columns), rows=tuple(work.rows), whole=tuple(work.whole))


@dataclass(slots=True)
class _Tensor:
    shape: tuple[int, ...]
    elem_type: int


@dataclass(slots=True)
class _Graph:
    model: onnx.ModelProto
    devices: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)
    _types: dict[str, _Tensor] = field(default_factory=dict)
    _linears: dict[str, Linear] = field(default_factory=dict)
    _split: dict[str, list[str]] = field(default_factory=dict)
    """A value to its parts, one a device, along its last axis."""
    _lies: dict[str, int] = field(default_factory=dict)
    """Device of each value that this pass makes; everything else lies on the first."""
    _weights: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        graph = self.model.graph
        for value in (*graph.input, *graph.value_info, *graph.output):
            kind = value.type.tensor_type
            self._types[value.name] = _Tensor(tuple(dim.dim_value for dim in kind.shape.dim), kind.elem_type)
        for constant in graph.initializer:
            self._types[constant.name] = _Tensor(tuple(constant.dims), constant.data_type)
        self._linears = {node.output[0]: linear for node, linear in candidates(self.model) if _plain(node)}
        self._weights = frozenset(onnx_io.weight_names(self.model))

    def add(self, node: onnx.NodeProto) -> None:
        """Take over one node, split where it can be."""
        linear = self._linears.get(node.output[0])
        if linear is not None and node.input[0] in self._split and linear.k % self.devices == 0:
            self._by_rows(node, linear)
        elif linear is not None and self._divides(node, linear):
            self._by_columns(node, linear)
        elif linear is None and self._parallel(node):
            self._elementwise(node)
        else:
            if linear is not None:
                self.whole.append(linear.layer)
            for name in node.input:
                self.gathered(name)
            self.nodes.append(node)

    def _divides(self, node: onnx.NodeProto, linear: Linear) -> bool:
        """Tell whether a linear's outputs, and its bias with them, can be divided over the devices."""
        unbiased = len(node.input) < 3
        return linear.n % self.devices == 0 and (unbiased or self._constant(node.input[2], linear.n))

    def gathered(self, name: str) -> None:
        """Have a value whole on the first device."""
        if name in self._split and name not in self._lies:
            parts = [self._moved(part, 0) for part in self._split[name]]
            self._emit("Concat", parts, name, axis=len(self._types[name].shape) - 1)
            self._lies[name] = 0

    def _by_columns(self, node: onnx.NodeProto, linear: Linear) -> None:
        self.gathered(node.input[0])
        axis, output, parts = 0 if linear.transposed else 1, node.output[0], []
        for device in range(self.devices):
            inputs = [self._moved(node.input[0], device), self._part(linear.weight, axis, device)]
            inputs += [self._operand(node.input[2], device)] if len(node.input) > 2 else []
            parts.append(self._copy(node, inputs, self._like(output, device)))
        self._split[output] = parts
        self.columns.append(linear.layer)

    def _by_rows(self, node: onnx.NodeProto, linear: Linear) -> None:
        axis, output = 1 if linear.transposed else 0, node.output[0]
        total = ""
        for device, x in enumerate(self._split[node.input[0]]):
            name = self._declared(f"{output}.product{device}", self._types[output], device)
            made = self._copy(node, [x, self._part(linear.weight, axis, device)], name)
            made = self._moved(made, 0)
            last = device == self.devices - 1 and len(node.input) < 3
            total = made if not total else self._sum(total, made, output if last else f"{output}.sum{device}", output)
        if len(node.input) > 2:
            self._sum(total, node.input[2], output, output)
        self.rows.append(linear.layer)

    def _sum(self, one: str, other: str, name: str, like: str) -> str:
        self._emit("Add", [one, other], self._declared(name, self._types[like]))
        return name

    def _parallel(self, node: onnx.NodeProto) -> bool:
        """Tell whether a node works element by element on split values alone, and on what can be split like them."""
        split = [name for name in node.input if name in self._split]
        if node.op_type not in ELEMENTWISE or not split or len(node.output) != 1:
            return False
        width = self._types[split[0]].shape[-1]
        fit = [name in self._split or self._constant(name, width) for name in node.input if name]
        return all(fit) and self._types[node.output[0]].shape[-1:] == (width,)

    def _constant(self, name: str, width: int) -> bool:
        """Tell whether a value is one number for all, or a weight with a number a column."""
        shape = self._types[name].shape if name in self._types else (0,)
        return all(size == 1 for size in shape) or (name in self._weights and shape == (width,))

    def _elementwise(self, node: onnx.NodeProto) -> None:
        output = node.output[0]
        self._split[output] = [
            self._copy(
                node,
                [self._split[name][device] if name in self._split else self._operand(name, device)
                 for name in node.input],
                self._like(output, device),
            )
            for device in range(self.devices)
        ]  # fmt: skip

    def _operand(self, name: str, device: int) -> str:
        """Return what a device reads of a weight with a number a column, or of one number for all."""
        wide = name in self._weights and self._types[name].shape[-1] > 1
        return self._part(name, len(self._types[name].shape) - 1, device) if wide else name

    def _part(self, weight: str, axis: int, device: int) -> str:
        kind = self._types[weight]
        shape = list(kind.shape)
        shape[axis] //= self.devices
        name = f"{weight}.axis{axis}.part{device}"
        if name not in self._types:
            self._declared(name, _Tensor(tuple(shape), kind.elem_type), device)
            self._emit(PART, [weight], name, device=device, axis=axis, start=device * shape[axis])
        return name

    def _moved(self, name: str, device: int) -> str:
        """Return a value as it lies on a device, moved there if it has to be."""
        if self._lies.get(name, 0) == device:
            return name
        moved = f"{name}.on{device}"
        if moved not in self._types:
            self._emit(MOVE, [name], self._declared(moved, self._types[name], device), device=device)
        return moved

    def _like(self, output: str, device: int) -> str:
        kind = self._types[output]
        shape = (*kind.shape[:-1], kind.shape[-1] // self.devices)
        return self._declared(f"{output}.part{device}", _Tensor(shape, kind.elem_type), device)

    def _declared(self, name: str, kind: _Tensor, device: int = 0) -> str:
        if name not in self._types:
            from onnx import helper

            self._types[name] = kind
            self._lies[name] = device
            self.model.graph.value_info.append(helper.make_tensor_value_info(name, kind.elem_type, kind.shape))
        return name

    def _copy(self, node: onnx.NodeProto, inputs: list[str], output: str) -> str:
        from onnx import NodeProto

        made = NodeProto()
        made.CopyFrom(node)
        del made.input[:], made.output[:]
        made.input.extend(inputs)
        made.output.append(output)
        self.nodes.append(made)
        return output

    def _emit(self, op: str, inputs: list[str], output: str, **attributes: int) -> None:
        from onnx import helper

        domain = DOMAIN if op in (MOVE, PART) else ""
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, domain=domain, **attributes))


def _plain(node: onnx.NodeProto) -> bool:
    """Tell whether a Gemm is a product and a bias and no more."""
    told = {entry.name: entry.f if entry.type == entry.FLOAT else float(entry.i) for entry in node.attribute}
    return told.get("alpha", 1.0) == told.get("beta", 1.0) == 1.0 and not told.get("transA", 0)
