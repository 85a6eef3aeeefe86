"""The linears of a graph that can be split over devices, in float or quantised, and one device's share of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwc.lower.passes.fp8_matmul import SHARE
from hwc.lower.shard_graph import SplitGraph
from hwc.quantise.encodings import TILE
from hwc.quantise.linears import attribute, candidates

if TYPE_CHECKING:
    import onnx

FP8_WORD = 4
"""Codes that some encodings of E4M3 keep in one word: a share of K ends between words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitLinear:
    """``y[…, N] = x[…, K] · W``, plus a bias if it is a Gemm's."""

    layer: str
    n: int
    k: int
    unit: int
    """Of how many K a share is a multiple: codes of one group, or of one word, stay together."""
    weight: tuple[str, ...]
    """Names of what is stored of it."""
    axes: tuple[int, int] = (1, 0)
    """Axes of N and K of a float weight."""
    bias: str = ""
    kind: str = "float"
    """``float``, ``nbits`` or ``fp8``."""

    def by_columns(self, devices: int) -> bool:
        """Tell whether its outputs can be divided over devices; what an encoding may keep in tiles, between these."""
        unit = TILE if self.kind == "nbits" and self.n % TILE == 0 else 1
        return self.n % (devices * unit) == 0

    def by_rows(self, devices: int) -> bool:
        """Tell whether its inputs can."""
        return self.k % (devices * self.unit) == 0


def find(model: onnx.ModelProto) -> dict[str, SplitLinear]:
    """Return the linears of a detached graph by the value they yield."""
    found = {}
    for node, linear in candidates(model):
        if not _plain(node):
            continue
        found[node.output[0]] = SplitLinear(
            layer=linear.layer, n=linear.n, k=linear.k, unit=1, weight=(linear.weight,),
            axes=(0, 1) if linear.transposed else (1, 0), bias=node.input[2] if len(node.input) > 2 else "",
        )
    return {**found, **_quantised(model)}


def _quantised(model: onnx.ModelProto) -> dict[str, SplitLinear]:
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.input}
    dequantised = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    found = {}
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            n, k, unit = (int(attribute(node, name, 0)) for name in ("N", "K", "block_size"))
            layer, kind, weight = node.input[2].removesuffix(".scales"), "nbits", tuple(node.input[1:])
        elif node.op_type == "MatMul" and node.input[1] in dequantised:
            weight, kind, unit = tuple(dequantised[node.input[1]].input), "fp8", FP8_WORD
            (k, n), layer = shapes[weight[0]], weight[0].removesuffix(".codes")
        else:
            continue
        found[node.output[0]] = SplitLinear(layer=layer, n=n, k=k, unit=unit, weight=weight, kind=kind)
    return found


def by_columns(graph: SplitGraph, node: onnx.NodeProto, linear: SplitLinear) -> None:
    """Let each device compute a part of the outputs."""
    output = node.output[0]
    size = linear.n // graph.devices
    for device, part in enumerate(graph.split(output, len(graph.types[output].shape) - 1)):
        inputs = [graph.whole(node.input[0], device), *_share(graph, linear, linear.axes[0], device)]
        inputs += [graph.part(linear.bias, len(graph.types[linear.bias].shape) - 1, device)] if linear.bias else []
        _product(graph, node, linear, inputs, part, device=device, n_start=device * size, k_start=0)


def by_rows(graph: SplitGraph, node: onnx.NodeProto, linear: SplitLinear) -> None:
    """Let each device multiply its part of the inputs; the first one adds the products up, and the bias to the sum."""
    output, products = node.output[0], []
    size, total = linear.k // graph.devices, f"{output}.total"
    for device in range(graph.devices):
        products.append(graph.declared(f"{output}.product{device}", graph.types[output], device))
        inputs = [graph.part(node.input[0], len(graph.types[node.input[0]].shape) - 1, device)]
        inputs += _share(graph, linear, linear.axes[1], device)
        _product(graph, node, linear, inputs, products[-1], device=device, n_start=0, k_start=device * size)
    if not linear.bias:
        graph.combined("Add", products, output)
        return
    graph.combined("Add", products, graph.declared(total, graph.types[output]))
    graph.emit("Add", [total, linear.bias], output)


def _share(graph: SplitGraph, linear: SplitLinear, axis: int, device: int) -> list[str]:
    """Return the operands for a weight; what is quantised is named whole, and cut where it is rewritten."""
    return [graph.part(linear.weight[0], axis, device)] if linear.kind == "float" else list(linear.weight)


def _product(
    graph: SplitGraph, node: onnx.NodeProto, linear: SplitLinear, inputs: list[str], output: str, **share: int
) -> None:
    if linear.kind == "float":
        graph.copy(node, inputs, [output])
    elif linear.kind == "fp8":
        graph.emit(SHARE, inputs, output, **share)
    else:
        n, k = graph.types[output].shape[-1], graph.types[inputs[0]].shape[-1]
        graph.copy(node, inputs, [output], N=n, K=k, **share)


def _plain(node: onnx.NodeProto) -> bool:
    """Tell whether a Gemm is a product and a bias and no more."""
    factors = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    return factors == (1.0, 1.0) and not attribute(node, "transA", 0)
