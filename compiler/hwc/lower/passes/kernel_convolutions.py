"""Convolutions to calls of vendor kernels, where one is chosen; the others stay as they are."""

from __future__ import annotations

from hwc.lower.passes.convolutions import Convolution, find
from hwc.lower.passes.graph import parameter_keys
from hwc.lower.passes.kernel_call import Call, Import
from hwc.lower.passes.kernel_linears import Choose, Product, Seen
from hwc.lower.passes.linalg import Value

_BIAS, _RELU, _POOL = 1, 2, 4  # enum hwc_conv2d_form


def rewrite_convolutions(mlir: str, choose: Choose) -> tuple[str, tuple[Seen, ...]]:
    """Rewrite convolutions to calls, the ReLU and pooling behind them with them; return the module and all found."""
    lines, seen = mlir.splitlines(), []
    keys = parameter_keys(lines)
    for found in find(lines):
        product = _product(found, keys.get(found.weight, found.conv))
        kernel = None if product.unfit else choose(product)
        call = None
        if kernel is not None:
            call, made = _call(found, product, kernel)
            for line in found.lines:  # kept as comments, and counted, so that errors still name the node
                lines[line] = f"    // {lines[line].strip()}"
            lines[found.lines[-1]] += "\n" + "\n".join(made)
        seen.append(Seen(product=product, call=call))
    return "\n".join(lines) + "\n", tuple(seen)


def _product(found: Convolution, layer: str) -> Product:
    """Return the product that a convolution is: of each group's windows and channels."""
    taps = found.sides.window[0] * found.sides.window[1]
    return Product(
        pattern="conv2d_f32", layer=layer, batch=found.groups, m=found.positions, n=found.channels // found.groups,
        k=found.inputs * taps, unfit=found.unfit,
    )


def _call(found: Convolution, product: Product, kernel: Import) -> tuple[Call, list[str]]:
    prefix, batch = f"%convolution.{found.lines[0]}", found.types[0].shape[0]
    names = (found.x, found.weight, *([found.bias] if found.bias else []))
    operands = [Value(name=f"{prefix}.{at}", type=kind) for at, kind in enumerate(found.types)]
    lines = [
        f"{value.name} = torch_c.to_builtin_tensor {source} : {value.type.torch()} -> {value.type.builtin()}"
        for value, source in zip(operands, names, strict=True)
    ]
    given = [*operands, *(() if found.bias else operands[1:2])]
    result = Value(name=f"{prefix}.result", type=found.type)
    sides = found.sides
    form = _BIAS * bool(found.bias) + _RELU * found.relu + _POOL * found.pool
    call = Call(
        kernel=kernel, pattern=product.pattern, operands=tuple(value.type for value in given), elements=("f32",) * 4,
        result=result.type,
        sizes=(
            batch, batch * found.channels, found.groups, found.inputs, found.channels, *sides.x, *sides.window,
            *sides.stride, *sides.pad, *sides.y, form,
        ),
        extents=(product.batch, product.m, product.n, product.k),
    )
    lines.append(call.dispatch(given, result))
    lines.append(
        f"{found.result} = torch_c.from_builtin_tensor {result.name} : "
        f"{result.type.builtin()} -> {result.type.torch()}"
    )
    return call, [f"    {line}" for line in lines]
