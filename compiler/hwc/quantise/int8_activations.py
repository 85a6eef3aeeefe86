"""int8 activations in ONNX: blocks of 32 values of a token, each divided by its own step and multiplied by it again.

What is rounded is float32 once more, so that MatMulNBits takes it; a kernel may multiply by the levels instead. The
operations and their order are those of targets/kernels/levels.h, which gives the same levels to the bit: no value of a
block is more than 127 steps, a block of zeros stays one, and where a value is NaN or infinite, its block is not finite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hwc.errors import InternalError
from hwc.quantise.linears import Linear

if TYPE_CHECKING:
    import numpy as np
    import onnx

BLOCK = 32
"""Consecutive values along K that share a step."""
MOST = 127
"""Largest level."""
LEAST = 2.0**-100
"""A block whose largest value is smaller counts as one of that size: its step stays a normal float32."""


def rounded(x: str, linear: Linear, name: str, shape: tuple[int, ...] | None) -> tuple[str, list[onnx.NodeProto]]:
    """Return what ``x`` [..., K] is rounded to for one linear, and the nodes; ``shape``: its own, if it is static.

    Raises InternalError if K is no multiple of the block: no group of int4 weights ends within one.
    """
    import numpy as np
    from onnx import helper

    if linear.k % BLOCK:
        raise InternalError(f"K = {linear.k} is no multiple of the {BLOCK} activations of a block", where=linear.layer)
    at = f"{linear.layer}.activation"
    blocks = np.array([-1, linear.k // BLOCK, BLOCK], np.int64)
    nodes = [
        _constant(f"{at}.by_block", blocks), _constant(f"{at}.axis", np.array([-1], np.int64)),
        *(_constant(f"{at}.{part}", value) for part, value in constants().items()),
        _constant(f"{at}.shape", np.array(shape, np.int64)) if shape else _shape_of(x, f"{at}.shape"),
        helper.make_node("Reshape", [x, f"{at}.by_block"], [f"{at}.blocks"]),
        helper.make_node("Abs", [f"{at}.blocks"], [f"{at}.size"]),
        helper.make_node("ReduceMax", [f"{at}.size", f"{at}.axis"], [f"{at}.largest"], keepdims=1),
        helper.make_node("Max", [f"{at}.largest", f"{at}.least"], [f"{at}.range"]),
        helper.make_node("Div", [f"{at}.most", f"{at}.range"], [f"{at}.inverse"]),
        helper.make_node("Mul", [f"{at}.blocks", f"{at}.inverse"], [f"{at}.scaled"]),
        helper.make_node("Round", [f"{at}.scaled"], [f"{at}.levels"]),
        helper.make_node("Mul", [f"{at}.range", f"{at}.share"], [f"{at}.step"]),
        helper.make_node("Mul", [f"{at}.levels", f"{at}.step"], [f"{at}.values"]),
        helper.make_node("Reshape", [f"{at}.values", f"{at}.shape"], [f"{at}.rounded"]),
    ]
    for node in nodes:
        node.name = f"{name}.{node.op_type.lower()}.{node.output[0].rpartition('.')[2]}"
    return f"{at}.rounded", nodes


def constants() -> dict[str, np.ndarray]:
    """Return the numbers that activations are rounded with, float32."""
    import numpy as np

    one, most = np.float32(1), np.float32(MOST)
    values = {"least": np.float32(LEAST), "most": most, "share": one / most}
    return {name: np.asarray(value, np.float32) for name, value in values.items()}


def _shape_of(x: str, name: str) -> onnx.NodeProto:
    from onnx import helper

    return helper.make_node("Shape", [x], [name])


def _constant(name: str, value: np.ndarray) -> onnx.NodeProto:
    from onnx import helper, numpy_helper

    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name))
