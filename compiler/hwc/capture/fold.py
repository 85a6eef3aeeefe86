"""Fold what exporters leave between a weight and its use: Identity and Transpose of an initializer."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from hwc import onnx_external, onnx_io

if TYPE_CHECKING:
    import numpy as np
    import onnx

ROUNDS = 8
"""A weight behind more layers than this is left as it is."""


def fold_weights(model: onnx.ModelProto, outside: dict[str, np.ndarray] | None = None) -> int:
    """Replace Identity and Transpose of an initializer by the initializer it yields, in place; return how many.

    ``outside`` holds initializers that lie outside the graph: what they yield is another view of the same memory.
    An exact rewrite: elements move, none is computed. A result that is a graph output keeps its node, and so does the
    Transpose of a weight that is read as it is, too: an embedding that is also the output head is kept once.
    """
    folded, far = 0, {} if outside is None else outside
    for _ in range(ROUNDS):
        found = _round(model, far)
        if not found:
            break
        folded += found
    _drop_unused(model, far)
    return folded


def _round(model: onnx.ModelProto, far: dict[str, np.ndarray]) -> int:
    from onnx import numpy_helper

    values = {tensor.name: tensor for tensor in model.graph.initializer}
    uses = Counter(name for node in model.graph.node for name in node.input)
    outputs = {value.name for value in model.graph.output}
    nodes = list(model.graph.node)
    kept: list[onnx.NodeProto] = []
    for node in nodes:
        source = values.get(node.input[0]) if node.op_type in ("Identity", "Transpose") and node.input else None
        shared = node.op_type == "Transpose" and uses[node.input[0]] > 1
        if source is None or shared or node.output[0] in outputs:
            kept.append(node)
            continue
        array = far[source.name] if source.name in far else numpy_helper.to_array(source)
        if node.op_type == "Transpose":
            axes = next((list(entry.ints) for entry in node.attribute if entry.name == "perm"), None)
            array = array.transpose(axes)
        if source.name in far:
            onnx_external.put(model, node.output[0], array, far)
        else:
            model.graph.initializer.append(numpy_helper.from_array(array.copy(), node.output[0]))
    if len(kept) == len(nodes):
        return 0
    copies = [type(node).FromString(node.SerializeToString()) for node in kept]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return len(nodes) - len(copies)


def _drop_unused(model: onnx.ModelProto, far: dict[str, np.ndarray]) -> None:
    used = onnx_io.used_names(model.graph)
    for name in [name for name in far if name not in used]:
        del far[name]
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    if len(kept) != len(model.graph.initializer):
        copies = [type(tensor).FromString(tensor.SerializeToString()) for tensor in kept]
        del model.graph.initializer[:]
        model.graph.initializer.extend(copies)
