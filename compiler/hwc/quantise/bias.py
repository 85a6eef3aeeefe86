"""Biases: the vector added right behind a linear, which can make up for a shift of the linear's mean output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hwc import onnx_io
from hwc.quantise.linears import Linear, candidates

if TYPE_CHECKING:
    import onnx


def find(model: onnx.ModelProto, linears: Sequence[Linear]) -> dict[str, str]:
    """Return the bias weight of each listed linear that has one of its own, by layer.

    A bias is a weight of shape [N] that a Gemm takes, or that the only reader of a MatMul's output adds to it. One
    that other nodes read too is not the linear's own.
    """
    chosen = {linear.weight: linear for linear in linears}
    weights = set(onnx_io.weight_names(model))
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in model.graph.input
        if value.name in weights
    }
    uses = Counter(name for node in model.graph.node for name in node.input)
    uses.update(value.name for value in model.graph.output)
    readers = {name: node for node in model.graph.node for name in node.input}
    found: dict[str, str] = {}
    for node, linear in candidates(model):
        if linear.weight not in chosen:
            continue
        adder = readers.get(node.output[0])
        added = list(node.input[2:])
        if not added and uses[node.output[0]] == 1 and adder is not None and adder.op_type == "Add":
            added = [name for name in adder.input if name != node.output[0]]
        if len(added) == 1 and shapes.get(added[0]) == (linear.n,) and uses[added[0]] == 1:
            found[linear.layer] = added[0]
    return found
