"""Linears to calls of vendor kernels, where one is chosen; the others stay as they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hwc.formats import Kind
from hwc.lower.passes import linalg, plain_linears
from hwc.lower.passes.graph import TensorType
from hwc.lower.passes.kernel_call import Call, Import
from hwc.lower.passes.linalg import Input, Output, Value
from hwc.lower.passes.linear import QuantisedLinear, operands
from hwc.lower.passes.plain_linears import PlainLinear
from hwc.quantise.encodings import Layout, in_tiles
from hwc.spec.legality import PatternName

QUANTISED: dict[Kind, PatternName] = {
    "int4": "dequantise_matmul_int4", "int8": "dequantise_matmul_int8", "fp8": "matmul_fp8",
}
ROUNDED: dict[Kind, PatternName] = {"int4": "rounded_matmul_int4"}
"""Where the kernel rounds the activation to int8 itself."""
PLAIN: dict[str, PatternName] = {"f32": "matmul_f32", "f16": "matmul_f16"}
SIGNED_ENCODINGS = frozenset({"i4-grouped", "i4-tiled", "i8-grouped"})
"""Encodings whose codes are two's complement: ``HWC_CODES_SIGNED``."""
_SIGNED, _TILED = 1, 2  # enum hwc_codes
PART_OF_ROWS = "its device multiplies by a part of every row, and the ABI has no stride"
_ZEROS = {"none": 0, "point": 1, "offset": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A product that a kernel might compute."""

    pattern: PatternName
    layer: str
    m: int
    n: int
    k: int
    batch: int = 1
    """Products of this size that are computed: groups of a convolution."""
    unfit: str = ""
    """Why no kernel's ABI holds it."""
    tiled: bool = False
    """Whether its codes lie in tiles, which not every kernel reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A linear that was found, and the kernel's call it became, if it did."""

    product: Product
    call: Call | None


Choose = Callable[[Product], Import | None]
"""Which kernel computes a product; None: generated code."""


def _codes_form(product: Product, encoding: str) -> int:
    return (_SIGNED if encoding in SIGNED_ENCODINGS else 0) | (_TILED if product.tiled else 0)


def quantised_products(linear: QuantisedLinear, encoding: str) -> list[Product]:
    """Return what a quantised linear computes, its weight stored in an encoding: with its rounding, and without."""
    whole = [ROUNDED[linear.kind]] if linear.unrounded and linear.kind in ROUNDED else []
    return [_quantised(linear, encoding, pattern) for pattern in (*whole, QUANTISED[linear.kind])]


def _quantised(linear: QuantisedLinear, encoding: str, pattern: PatternName) -> Product:
    return Product(
        pattern=pattern, layer=linear.layer, m=math.prod(linear.x_type.shape[:-1]),
        n=linear.geometry.n, k=linear.geometry.k, unfit="" if linear.geometry.k == linear.stored.k else PART_OF_ROWS,
        tiled=in_tiles(encoding, linear.stored),
    )


def quantised_call(
    linear: QuantisedLinear, product: Product, encoding: str, layout: Layout, kernel: Import, prefix: str
) -> tuple[Call, list[str]]:
    """Return the call of a kernel for one of a quantised linear's products, and the lines that make it."""
    geometry = linear.geometry
    parts, lines = operands(linear, layout, prefix)
    weights = [parts["codes"], parts["scales"]]
    sizes: tuple[int, ...] = (product.m, product.n, product.k)
    elements: tuple[str, ...] = ("f32", "i8", "f32", "f32")
    if linear.kind != "fp8":
        weights.append(parts.get("zeros") or parts.get("offsets") or parts["codes"])
        sizes = (*sizes, geometry.group, _codes_form(product, encoding), _ZEROS[geometry.zeros])
        elements = ("f32", "i8", "i16", "i8", "f32")
    source = linear.unrounded if product.pattern in ROUNDED.values() else linear.x
    x, made = _rows(source, linear.x_type, product, prefix)
    result = _tensor(f"%{prefix}.product", (product.m, product.n), "f32")
    call = Call(
        kernel=kernel, pattern=product.pattern, operands=tuple(value.type for value in (x, *weights)),
        elements=elements, result=result.type,
        sizes=sizes,
    )
    lines += [*made, call.dispatch([x, *weights], result)]
    lines += _shaped(result, linear.result, linear.result_type, prefix)
    return call, [f"    {line}" for line in lines]


def rewrite_plain(mlir: str, choose: Choose) -> tuple[str, tuple[Seen, ...]]:
    """Rewrite linears of float weights to calls; return the module and every such linear that was found."""
    lines, seen = mlir.splitlines(), []
    for index, linear in enumerate(plain_linears.find(lines)):
        product = Product(
            pattern=PLAIN[linear.weight_type.dtype], layer=linear.layer, m=math.prod(linear.x_type.shape[:-1]),
            n=linear.n, k=linear.k, unfit=linear.unfit,
        )
        kernel = None if product.unfit else choose(product)
        call = None
        if kernel is not None:
            call, made = _plain_call(linear, product, kernel, f"kernel{index}")
            lines[linear.line] = "\n".join([f"    // {lines[linear.line].strip()}", *made])
        seen.append(Seen(product=product, call=call))
    return "\n".join(lines) + "\n", tuple(seen)


def declared(mlir: str, seen: Sequence[Seen]) -> str:
    """Insert the executables of all calls, each once, right after the line that opens the module."""
    executables = {entry.call.name: entry.call.executable() for entry in seen if entry.call is not None}
    lines = mlir.splitlines()
    opening = next(index for index, line in enumerate(lines) if line.startswith("module"))
    added = [line for name in sorted(executables) for line in executables[name]]
    return "\n".join([*lines[: opening + 1], *added, *lines[opening + 1 :]]) + "\n"


def _plain_call(linear: PlainLinear, product: Product, kernel: Import, prefix: str) -> tuple[Call, list[str]]:
    dtype = linear.weight_type.dtype
    x, lines = _rows(linear.x, linear.x_type, product, prefix)
    weight = Value(name=f"%{prefix}.weight", type=linear.weight_type)
    lines.append(_builtin(weight, linear.weight))
    result = _tensor(f"%{prefix}.product", (product.m, product.n), dtype)
    element = {"f32": "f32", "f16": "i16"}[dtype]
    strides = (1, product.k) if linear.transposed else (product.n, 1)
    call = Call(
        kernel=kernel, pattern=product.pattern, operands=(x.type, weight.type), elements=(element,) * 3,
        result=result.type,
        sizes=(product.m, product.n, product.k, *strides),
    )
    lines += [call.dispatch([x, weight], result), *finished(linear, result, prefix)]
    return call, [f"    {line}" for line in lines]


def tiled_call(
    linear: PlainLinear, product: Product, kernel: Import, weight: Value, prefix: str
) -> tuple[Call, list[str]]:
    """Return the call of a kernel for a float linear whose weight lies in tiles, and the lines that make it."""
    x, lines = _rows(linear.x, linear.x_type, product, prefix)
    result = _tensor(f"%{prefix}.product", (product.m, product.n), "f32")
    call = Call(
        kernel=kernel, pattern=product.pattern, operands=(x.type, weight.type), elements=("f32",) * 3,
        result=result.type, sizes=(product.m, product.n, product.k),
    )
    lines += [call.dispatch([x, weight], result), *finished(linear, result, prefix)]
    return call, [f"    {line}" for line in lines]


def finished(linear: PlainLinear, product: Value, prefix: str) -> list[str]:
    """Return the lines that make of a float linear's product [M, N] its result: its bias added, in its shape."""
    lines: list[str] = []
    if linear.bias_type is not None:
        product, lines = _biased(linear, product, prefix)
    return [*lines, *_shaped(product, linear.result, linear.result_type, prefix)]


def _biased(linear: PlainLinear, product: Value, prefix: str) -> tuple[Value, list[str]]:
    assert linear.bias_type is not None
    bias = Value(name=f"%{prefix}.bias", type=linear.bias_type)
    made, start = (Value(name=f"%{prefix}.{name}", type=product.type) for name in ("biased", "biased.empty"))
    lines = [_builtin(bias, linear.bias)]
    if len(bias.type.shape) == 2:
        flat = _tensor(f"%{prefix}.bias.row", bias.type.shape[-1:], bias.type.dtype)
        lines += linalg.reshape(bias, flat)
        bias = flat
    inputs = [
        Input(value=product, loops=["m", "n"], element="value"), Input(value=bias, loops=["n"], element="bias"),
    ]
    body = [f"%sum = arith.addf %value, %bias : {product.type.dtype}"]
    output = Output(value=made, loops=["m", "n"], start=start)
    return made, [*lines, linalg.empty(start), *linalg.generic(["m", "n"], inputs, output, body)]


def _rows(source: str, kind: TensorType, product: Product, prefix: str) -> tuple[Value, list[str]]:
    """Flatten activations […, K] to [M, K]."""
    x, rows = Value(name=f"%{prefix}.x", type=kind), _tensor(f"%{prefix}.rows", (product.m, product.k), kind.dtype)
    lines = [_builtin(x, source)]
    if kind.shape == rows.type.shape:
        return x, lines
    return rows, [*lines, *linalg.reshape(x, rows)]


def _shaped(product: Value, result: str, kind: TensorType, prefix: str) -> list[str]:
    """Give a product [M, N] the shape of the result that it is."""
    shaped = _tensor(f"%{prefix}.out", kind.shape, kind.dtype)
    lines: list[str] = []
    if product.type.shape != shaped.type.shape:
        lines, product = linalg.reshape(product, shaped), shaped
    kinds = f"{product.type.builtin()} -> {kind.torch()}"
    return [*lines, f"{result} = torch_c.from_builtin_tensor {product.name} : {kinds}"]


def _builtin(value: Value, source: str) -> str:
    return f"{value.name} = torch_c.to_builtin_tensor {source} : {value.type.torch()} -> {value.type.builtin()}"


def _tensor(name: str, shape: tuple[int, ...], dtype: str) -> Value:
    return Value(name=name, type=TensorType(shape=shape, dtype=dtype))
