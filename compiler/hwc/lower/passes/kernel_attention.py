"""Attention operators to calls of the kernel that was chosen for them."""

from __future__ import annotations

import math

from hwc.lower.passes.graph import Operator, operators
from hwc.lower.passes.kernel_call import Call, Import
from hwc.lower.passes.kernel_linears import Choose, Product, Seen
from hwc.lower.passes.linalg import Value

ATTENTION = "HwcAttention"
"""ONNX operator of a graph in which attention is one (see lower/attention.py)."""
ROWS_PER_UNIT = 32
"""``HWC_ATTENTION_ROWS``: what a call is counted in."""


def rewrite_attention(mlir: str, choose: Choose) -> tuple[str, tuple[Seen, ...]]:
    """Rewrite every attention operator to a call; return the module and the operators that were found.

    Raises ValueError for one that ``choose`` has no kernel for: nothing else computes it.
    """
    lines, seen = mlir.splitlines(), []
    for operator in list(operators(lines, frozenset({ATTENTION}))):
        product = _product(operator)
        kernel = choose(product)
        if kernel is None:
            raise ValueError(f"no kernel computes the attention {operator.result}")
        call, made = _call(operator, product, kernel)
        lines[operator.line] = "\n".join([f"    // {lines[operator.line].strip()}", *made])
        seen.append(Seen(product=product, call=call))
    return "\n".join(lines) + "\n", tuple(seen)


def _product(operator: Operator) -> Product:
    query, key, *_ = operator.types
    assert query is not None
    assert key is not None
    return Product(
        pattern="attention_f32", layer=operator.result, m=query.shape[2], n=key.shape[2], k=query.shape[3]
    )


def _call(operator: Operator, product: Product, kernel: Import) -> tuple[Call, list[str]]:
    prefix, types = f"%attention.{operator.line}", [kind for kind in operator.types if kind is not None]
    assert operator.type is not None
    batch, heads, rows, width = types[0].shape
    operands = [Value(name=f"{prefix}.{at}", type=kind) for at, kind in enumerate(types)]
    result = Value(name=f"{prefix}.result", type=operator.type)
    units = batch * heads * math.ceil(rows / ROWS_PER_UNIT)
    call = Call(
        kernel=kernel, pattern=product.pattern, operands=tuple(types), elements=("f32",) * 5, result=operator.type,
        sizes=(rows, units, product.n, width, heads, *types[3].shape[:2]),
        extents=(batch * heads, rows, product.n, width), streamed=4,
    )
    lines = [
        f"{value.name} = torch_c.to_builtin_tensor {source} : {value.type.torch()} -> {value.type.builtin()}"
        for value, source in zip(operands, operator.operands, strict=True)
    ]
    lines.append(call.dispatch(operands, result))
    lines.append(
        f"{operator.result} = torch_c.from_builtin_tensor {result.name} : "
        f"{result.type.builtin()} -> {result.type.torch()}"
    )
    return call, [f"    {line}" for line in lines]
