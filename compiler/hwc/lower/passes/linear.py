"""A quantised linear: what was matched, how its encoding is decoded, and the MLIR that computes it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hwc.formats import Kind
from hwc.lower.passes import linalg
from hwc.lower.passes.graph import TensorType
from hwc.lower.passes.linalg import Input, Output, Value
from hwc.quantise.encodings import Geometry, Layout, Part


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantisedLinear:
    """A linear that was matched: ``result[…, N] = x[…, K] · W[N, K]ᵀ``."""

    lines: tuple[int, ...]
    """Indices of the lines that make way; the linear is written in place of the last."""
    layer: str
    kind: Kind
    result: str
    x: str
    x_type: TensorType
    result_type: TensorType
    geometry: Geometry


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """How one encoding turns stored elements into float32 weights, one element at a time."""

    loops: tuple[tuple[str, int], ...]
    """The weight's loops with their sizes: ``n``, then loops whose sizes multiply to K, in K's order."""
    indexing: dict[Part, tuple[str, ...]]
    """The parts that the body reads, each with the loops that index it."""
    body: tuple[str, ...]
    """Scalar ops on ``%codes``, ``%scales``, ``%zeros`` and ``%shift``; the last defines the f32 weight."""
    shifts: tuple[int, ...] = ()
    """Values of ``%shift`` along the last loop, for several weights in one i32 word."""
    scale_product: bool = False
    """Whether scales [N] multiply the product rather than the weight."""


def emit(linear: QuantisedLinear, kernel: Kernel, layout: Layout, prefix: str) -> list[str]:
    """Return the lines that compute ``linear``; every value they define begins with ``%{prefix}.``.

    x float32 […, K] is flattened to [M, K]. The contraction keeps the weight's own loops instead of collapsing
    them to K: a reshape between dequantisation and contraction keeps IREE from fusing the two.
    """
    rows = math.prod(linear.x_type.shape[:-1])
    parts, lines = load(linear.layer, layout, prefix)
    weight = f32(f"%{prefix}.weight", tuple(size for _, size in kernel.loops))
    lines += dequantise(kernel, parts, weight, prefix)
    x, made = _activations(linear, rows, weight.type.shape[1:], prefix)
    product, computed = _contract(kernel, x, weight, rows, prefix)
    lines += made + computed
    if kernel.scale_product:
        product, scaled = _scale(product, parts["scales"], prefix)
        lines += scaled
    lines += _result(linear, product, prefix)
    return [f"    {line}" for line in lines]


def load(layer: str, layout: Layout, prefix: str) -> tuple[dict[Part, Value], list[str]]:
    """Load the parts of a packed weight; return their values and the lines."""
    parts = {
        part: Value(name=f"%{prefix}.{part}", type=TensorType(shape=kind.shape, dtype=kind.dtype))
        for part, kind in layout.items()
    }
    lines = [
        f"{value.name} = util.global.load {_symbol(layer, part)} : {value.type.builtin()}"
        for part, value in parts.items()
    ]
    return parts, lines


def declare(layer: str, layout: Layout, scope: str) -> list[str]:
    """Declare the parameters of a packed weight, in the order of its layout."""
    return [
        f"  util.global private {_symbol(layer, part)} = "
        f'#stream.parameter.named<"{scope}"::"{layer}.{part}"> : '
        f"{TensorType(shape=kind.shape, dtype=kind.dtype).builtin()}"
        for part, kind in layout.items()
    ]


def _symbol(layer: str, part: Part) -> str:
    """Name a global apart from the importer's own, which may stay if something else reads it."""
    return f'@"packed.{layer}.{part}"'


def f32(name: str, shape: tuple[int, ...]) -> Value:
    """Name a float32 tensor."""
    return Value(name=name, type=TensorType(shape=shape, dtype="f32"))


def dequantise(kernel: Kernel, parts: Mapping[Part, Value], weight: Value, prefix: str) -> list[str]:
    """Return the lines that compute a float32 weight, or rows of one, from its parts; they end with the weight."""
    loops = [name for name, _ in kernel.loops]
    lines: list[str] = []
    inputs = [Input(value=parts[part], loops=used, element=part) for part, used in kernel.indexing.items()]
    if kernel.shifts:
        # A table, not linalg.index: an index computed in the body does not compile for llvmpipe.
        table = Value(name=f"%{prefix}.shifts", type=TensorType(shape=(len(kernel.shifts),), dtype="i32"))
        lines.append(f"{table.name} = arith.constant dense<{list(kernel.shifts)}> : {table.type.builtin()}")
        inputs.insert(0, Input(value=table, loops=loops[-1:], element="shift"))
    start = f32(f"{weight.name}.empty", weight.type.shape)
    output = Output(value=weight, loops=loops, start=start)
    return [*lines, linalg.empty(start), *linalg.generic(loops, inputs, output, kernel.body)]


def _activations(
    linear: QuantisedLinear, rows: int, inner: tuple[int, ...], prefix: str
) -> tuple[Value, list[str]]:
    x = Value(name=f"%{prefix}.x", type=linear.x_type)
    lines = [f"{x.name} = torch_c.to_builtin_tensor {linear.x} : {x.type.torch()} -> {x.type.builtin()}"]
    flat = f32(f"%{prefix}.rows", (rows, linear.geometry.k))
    if x.type.shape != flat.type.shape:
        lines += linalg.reshape(x, flat)
        x = flat
    split = f32(f"%{prefix}.split", (rows, *inner))
    if len(inner) > 1:
        lines += linalg.reshape(x, split)
        x = split
    return x, lines


def _contract(kernel: Kernel, x: Value, weight: Value, rows: int, prefix: str) -> tuple[Value, list[str]]:
    inner = [name for name, _ in kernel.loops[1:]]
    shape = (rows, weight.type.shape[0])
    start, filled = f32(f"%{prefix}.init", shape), f32(f"%{prefix}.fill", shape)
    product = f32(f"%{prefix}.product", shape)
    inputs = [
        Input(value=x, loops=["m", *inner], element="left"),
        Input(value=weight, loops=["n", *inner], element="right"),
    ]
    body = ["%term = arith.mulf %left, %right : f32", "%sum = arith.addf %acc, %term : f32"]
    output = Output(value=product, loops=["m", "n"], start=filled)
    lines = [linalg.empty(start), *linalg.zeros(filled, start)]
    return product, lines + linalg.generic(["m", "n", *inner], inputs, output, body)


def _scale(product: Value, scales: Value, prefix: str) -> tuple[Value, list[str]]:
    scaled, start = (f32(f"%{prefix}.{name}", product.type.shape) for name in ("scaled", "scaled.empty"))
    inputs = [
        Input(value=product, loops=["m", "n"], element="value"),
        Input(value=scales, loops=["n"], element="scale"),
    ]
    output = Output(value=scaled, loops=["m", "n"], start=start)
    body = ["%scaled = arith.mulf %value, %scale : f32"]
    return scaled, [linalg.empty(start), *linalg.generic(["m", "n"], inputs, output, body)]


def _result(linear: QuantisedLinear, product: Value, prefix: str) -> list[str]:
    shaped = f32(f"%{prefix}.out", linear.result_type.shape)
    lines: list[str] = []
    if product.type.shape != shaped.type.shape:
        lines, product = linalg.reshape(product, shaped), shaped
    kinds = f"{product.type.builtin()} -> {linear.result_type.torch()}"
    return [*lines, f"{linear.result} = torch_c.from_builtin_tensor {product.name} : {kinds}"]
