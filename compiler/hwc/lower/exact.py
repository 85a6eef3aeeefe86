"""Operators that IREE computes inexactly, spelled out in ones that it computes to float32's last bits.

Its Gelu by tanh takes 0.79772 for √(2/π), which is 5e-5 off in the result; its Sin and Cos reduce their argument in one
float32 step, which is 3e-5 off at 1,000 radians and 9e-4 at 32,000, as rotary embeddings reach. Spelled out, both stay
within 7e-7 (IREE 3.13, llvm-cpu).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

TURN_PARTS = (6.28125, 2029 / 2**20, 2 * math.pi - 6.28125 - 2029 / 2**20)
"""2π as a sum of three (Cody and Waite): the first two have so few bits that up to 2^13 turns of them are exact."""
_CONSTANTS = {
    "cubic": 0.044715, "one": 1.0, "half": 0.5, "slope": math.sqrt(2 / math.pi), "turns": 1 / (2 * math.pi),
    **{f"part{number}": part for number, part in enumerate(TURN_PARTS)},
}  # fmt: skip


def spell_out(model: onnx.ModelProto) -> None:
    """Replace every float32 Gelu by tanh, Sin and Cos of a static graph, in place."""
    from onnx import NodeProto, TensorProto, helper

    types = {value.name: value.type for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
    nodes, used = [], set[str]()
    for node in model.graph.node:
        kept = NodeProto()
        kept.CopyFrom(node)
        known = types.get(node.output[0]) or (types.get(node.input[0]) if node.input else None)
        steps = list(_steps(node)) if known and known.tensor_type.elem_type == TensorProto.FLOAT else []
        nodes += [_node(node, *step) for step in steps] or [kept]
        used |= {name for _, _, names in steps for name in names if name in _CONSTANTS}
        for _, result, _ in steps[:-1]:  # values between have the shape of the result
            model.graph.value_info.add(name=_inner(node, result)).type.CopyFrom(known)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(
        helper.make_tensor(_PREFIX + name, TensorProto.FLOAT, [], [_CONSTANTS[name]]) for name in sorted(used)
    )


_PREFIX = "exact."
_Step = tuple[str, str, tuple[str, ...]]
"""Operator, result and inputs; ``x`` is the node's input, ``y`` its output."""


def _steps(node: onnx.NodeProto) -> Iterator[_Step]:
    if node.op_type == "Gelu" and any(entry.s == b"tanh" for entry in node.attribute):
        yield from _gelu()
    elif node.op_type in ("Sin", "Cos"):
        yield from _reduced(node.op_type)


def _gelu() -> Iterator[_Step]:
    """Yield x/2 · (1 + tanh(√(2/π) · x · (1 + 0.044715 x²)))."""
    yield "Mul", "square", ("x", "x")
    yield "Mul", "scaled", ("square", "cubic")
    yield "Add", "factor", ("scaled", "one")
    yield "Mul", "inner", ("x", "factor")
    yield "Mul", "angle", ("inner", "slope")
    yield "Tanh", "tanh", ("angle",)
    yield "Add", "gate", ("tanh", "one")
    yield "Mul", "halved", ("x", "half")
    yield "Mul", "y", ("halved", "gate")


def _reduced(operator: str) -> Iterator[_Step]:
    """Yield the operator on x less the nearest whole number of turns."""
    yield "Mul", "ratio", ("x", "turns")
    yield "Round", "whole", ("ratio",)
    before = "x"
    for number in range(len(TURN_PARTS)):
        yield "Mul", f"away{number}", ("whole", f"part{number}")
        yield "Sub", f"left{number}", (before, f"away{number}")
        before = f"left{number}"
    yield operator, "y", (before,)


def _node(node: onnx.NodeProto, operator: str, result: str, inputs: tuple[str, ...]) -> onnx.NodeProto:
    from onnx import helper

    places = {"x": node.input[0], "y": node.output[0], **{name: _PREFIX + name for name in _CONSTANTS}}
    named = [places.get(name) or _inner(node, name) for name in inputs]
    return helper.make_node(operator, named, [places.get(result) or _inner(node, result)], name=node.name)


def _inner(node: onnx.NodeProto, name: str) -> str:
    return f"{node.output[0]}.{name}"
