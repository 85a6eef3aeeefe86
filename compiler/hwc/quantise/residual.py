"""Residuals: the value that a linear's output is added to, whose error the linear can make up for in part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hwc.quantise.linears import Linear, candidates

if TYPE_CHECKING:
    import onnx


def find(model: onnx.ModelProto, linears: Sequence[Linear], biases: Mapping[str, str]) -> dict[str, str]:
    """Return the other side of the sum that a linear's output goes into and nowhere else, by layer.

    Its own bias may be added first. Weights are no such value: what a constant is, has no error.
    """
    chosen = {linear.weight: linear for linear in linears}
    uses = Counter(name for node in model.graph.node for name in node.input)
    uses.update(value.name for value in model.graph.output)
    readers = {name: node for node in model.graph.node for name in node.input}
    made = {name for node in model.graph.node for name in node.output} | {value.name for value in model.graph.input}
    found: dict[str, str] = {}
    for node, linear in candidates(model):
        if linear.weight not in chosen:
            continue
        other, output = "", node.output[0]
        for _ in range(2):
            adder = readers.get(output)
            if uses[output] != 1 or adder is None or adder.op_type != "Add":
                break
            other = next((name for name in adder.input if name != output), "")
            if other != biases.get(linear.layer):
                break
            other, output = "", adder.output[0]
        if other in made and other not in chosen:
            found[linear.layer] = other
    return found
