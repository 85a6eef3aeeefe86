"""E4M3 activations in ONNX: clipped, cast and cast back, with the scale left for the product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwc.errors import InternalError
from hwc.formats import Format
from hwc.quantise.codes import FP8_MAX
from hwc.quantise.linears import Linear

if TYPE_CHECKING:
    import onnx

LEAST = 1e-30
"""Least scale of a token: one of zeros alone stays one of zeros."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounded:
    """The nodes that round an activation, and the names of what they make."""

    nodes: list[onnx.NodeProto]
    x: str
    """float32 values of E4M3: the activation divided by its scale."""
    scale: str
    """float32, [..., 1] for one scale a token, a scalar for one a tensor."""


def rounded(x: str, linear: Linear, form: Format, name: str) -> Rounded:
    """Return the nodes that round ``x`` [..., K] to E4M3 for one linear.

    Raises InternalError for static activations whose scale was never measured.
    """
    from onnx import TensorProto, helper

    at = f"{linear.layer}.activation"
    nodes = [_constant(f"{at}.most", FP8_MAX), _constant(f"{at}.least", -FP8_MAX)]
    if form.activations == "static":
        if not linear.activation_scale:
            raise InternalError("static activations without a scale", where=linear.layer)
        nodes.append(_constant(f"{at}.scale", linear.activation_scale))
    else:
        nodes += [
            _axis(f"{at}.axis"), _constant(f"{at}.step", 1 / FP8_MAX), _constant(f"{at}.tiny", LEAST),
            helper.make_node("Abs", [x], [f"{at}.size"]),
            helper.make_node("ReduceMax", [f"{at}.size", f"{at}.axis"], [f"{at}.largest"], keepdims=1),
            helper.make_node("Mul", [f"{at}.largest", f"{at}.step"], [f"{at}.plain"]),
            helper.make_node("Max", [f"{at}.plain", f"{at}.tiny"], [f"{at}.scale"]),
        ]
    nodes += [
        helper.make_node("Div", [x, f"{at}.scale"], [f"{at}.divided"]),
        helper.make_node("Clip", [f"{at}.divided", f"{at}.least", f"{at}.most"], [f"{at}.clipped"]),
        helper.make_node("Cast", [f"{at}.clipped"], [f"{at}.codes"], to=TensorProto.FLOAT8E4M3FN),
        helper.make_node("Cast", [f"{at}.codes"], [f"{at}.rounded"], to=TensorProto.FLOAT),
    ]
    for node in nodes:
        node.name = f"{name}.{node.op_type.lower()}.{node.output[0].rpartition('.')[2]}"
    return Rounded(nodes=nodes, x=f"{at}.rounded", scale=f"{at}.scale")


def _constant(name: str, value: float) -> onnx.NodeProto:
    import numpy as np
    from onnx import helper, numpy_helper

    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.float32(value), name))


def _axis(name: str) -> onnx.NodeProto:
    import numpy as np
    from onnx import helper, numpy_helper

    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array([-1], np.int64), name))
