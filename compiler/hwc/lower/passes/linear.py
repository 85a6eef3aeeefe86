"""A quantised linear: what was matched, how its encoding is decoded, and the MLIR that computes it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hwc.formats import Kind
from hwc.lower.passes import linalg
from hwc.lower.passes.devices import on_device
from hwc.lower.passes.graph import Operator, TensorType
from hwc.lower.passes.linalg import Input, Output, Value
from hwc.quantise.encodings import Geometry, Layout, Part


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The part of a weight that one of several devices multiplies by."""

    device: int
    n_start: int
    k_start: int
    whole: Geometry
    """The weight as it is stored."""


def share_of(operator: Operator, whole: Geometry) -> Share | None:
    """Return the part of a stored weight that an operator of a sharded graph names; None if it names none."""
    told = operator.attributes
    if "device" not in told:
        return None
    return Share(device=told["device"], n_start=told["n_start"], k_start=told["k_start"], whole=whole)


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
    """Of what it multiplies by: the share, where it has one."""
    share: Share | None = None
    unrounded: str = ""
    """The activation that ``x`` was rounded from, to int8, of the same type; empty where it was not."""

    @property
    def stored(self) -> Geometry:
        """Sizes of the weight as it is stored."""
        return self.share.whole if self.share else self.geometry


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """How one encoding turns stored elements into float32 weights, one element at a time."""

    loops: tuple[tuple[str, int], ...]
    """The weight's loops with their sizes: those whose sizes multiply to N, then those of K, in their order."""
    indexing: dict[Part, tuple[str, ...]]
    """The parts that the body reads, each with the loops that index it."""
    body: tuple[str, ...]
    """Scalar ops on ``%codes``, ``%scales``, ``%zeros`` and ``%shift``; the last defines the f32 weight."""
    shifts: tuple[int, ...] = ()
    """Values of ``%shift`` along the last loop, for several weights in one i32 word."""
    scale_product: bool = False
    """Whether scales [N] multiply the product rather than the weight."""
    outer: int = 1
    """How many of the loops are N's."""


def emit(linear: QuantisedLinear, kernel: Kernel, layout: Layout, prefix: str) -> list[str]:
    """Return the lines that compute ``linear``, whose stored parts are ``layout``; values begin with ``%{prefix}.``.

    x float32 […, K] is flattened to [M, K]. The contraction keeps the weight's own loops instead of collapsing
    them to K: a reshape between dequantisation and contraction keeps IREE from fusing the two.
    """
    rows = math.prod(linear.x_type.shape[:-1])
    parts, lines = operands(linear, layout, prefix)
    weight = f32(f"%{prefix}.weight", tuple(size for _, size in kernel.loops))
    lines += dequantise(kernel, parts, weight, prefix)
    x, made = _activations(linear, rows, weight.type.shape[kernel.outer :], prefix)
    product, computed = _contract(kernel, x, weight, rows, prefix)
    lines += made + computed
    if kernel.scale_product:
        product, scaled = _scale(product, parts["scales"], prefix)
        lines += scaled
    lines += _result(linear, product, prefix)
    return [f"    {line}" for line in lines]


def operands(linear: QuantisedLinear, stored: Layout, prefix: str) -> tuple[dict[Part, Value], list[str]]:
    """Return what a linear multiplies by: the parts of its stored weight, or its share of each, and the lines.

    A share is cut out of the whole parameter where it is read, so that nothing is stored or unpacked a second time.
    """
    share = linear.share
    if share is None:
        return load(linear.layer, stored, prefix)
    whole, lines = load(linear.layer, stored, f"{prefix}.whole", share.device)
    made: dict[Part, Value] = {}
    for part, value in whole.items():
        offsets, sizes = _cut(value.type.shape, share, linear.geometry)
        made[part] = Value(name=f"%{prefix}.{part}", type=TensorType(shape=sizes, dtype=value.type.dtype))
        lines.append(
            f"{made[part].name} = tensor.extract_slice {value.name}{list(offsets)} {list(sizes)} {[1] * len(sizes)} "
            f": {value.type.builtin()} to {made[part].type.builtin()}"
        )
    return made, lines


def _cut(shape: tuple[int, ...], share: Share, part: Geometry) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return where a share begins in a stored part, and how long it is: its axes are N's, K's, and what stays whole.

    Raises ValueError if the share ends within what is stored as one: a tile of rows, a word, a group.
    """
    spans = ((share.n_start, part.n, share.whole.n), (share.k_start, part.k, share.whole.k))
    offsets, sizes = [0] * len(shape), list(shape)
    for axis, (start, size, whole) in zip(range(len(shape)), spans, strict=False):
        if start * shape[axis] % whole or size * shape[axis] % whole:
            raise ValueError(f"a share of {size} of {whole} is no whole number of the {shape[axis]} that are stored")
        offsets[axis], sizes[axis] = start * shape[axis] // whole, size * shape[axis] // whole
    return tuple(offsets), tuple(sizes)


def load(layer: str, layout: Layout, prefix: str, device: int = 0) -> tuple[dict[Part, Value], list[str]]:
    """Load the parts of a packed weight on a device; return their values and the lines."""
    parts = {
        part: Value(name=f"%{prefix}.{part}", type=TensorType(shape=kind.shape, dtype=kind.dtype))
        for part, kind in layout.items()
    }
    lines = [
        f"{value.name} = util.global.load {_symbol(layer, part, device)} : {value.type.builtin()}"
        for part, value in parts.items()
    ]
    return parts, lines


def declare(layer: str, layout: Layout, scope: str, device: int | None = None) -> list[str]:
    """Declare the parameters of a packed weight, on one of several devices, in the order of its layout."""
    return [
        f"  util.global private {_symbol(layer, part, device or 0)} {on_device(device)}= "
        f'#stream.parameter.named<"{scope}"::"{layer}.{part}"> : '
        f"{TensorType(shape=kind.shape, dtype=kind.dtype).builtin()}"
        for part, kind in layout.items()
    ]


def _symbol(layer: str, part: Part, device: int) -> str:
    """Name a global apart from the importer's own, which may stay if something else reads it."""
    return f'@"packed.{layer}.{part}"' if device == 0 else f'@"device{device}.packed.{layer}.{part}"'


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
    loops = [name for name, _ in kernel.loops]
    outer, inner = loops[: kernel.outer], loops[kernel.outer :]
    shape = (rows, *weight.type.shape[: kernel.outer])
    start, filled = f32(f"%{prefix}.init", shape), f32(f"%{prefix}.fill", shape)
    product = f32(f"%{prefix}.product", shape)
    inputs = [
        Input(value=x, loops=["m", *inner], element="left"),
        Input(value=weight, loops=loops, element="right"),
    ]
    body = ["%term = arith.mulf %left, %right : f32", "%sum = arith.addf %acc, %term : f32"]
    output = Output(value=product, loops=["m", *outer], start=filled)
    lines = [linalg.empty(start), *linalg.zeros(filled, start), *linalg.generic(["m", *loops], inputs, output, body)]
    if kernel.outer == 1:
        return product, lines
    whole = f32(f"%{prefix}.columns", (rows, math.prod(shape[1:])))
    return whole, [*lines, *linalg.reshape(product, whole)]


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
