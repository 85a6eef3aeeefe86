"""Rewrite linears whose float weights are stored in tiles to products of tiles: ``linalg.mmt4d``."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence

from hwc.lower.passes.graph import TensorType
from hwc.lower.passes.kernel_linears import Choose, Product, Seen, tiled_call
from hwc.lower.passes.linalg import Value
from hwc.lower.passes.plain_linears import PlainLinear, find
from hwc.lower.passes.prune import prune
from hwc.quantise.encodings import TILE
from hwc.quantise.tiles import SUFFIX

_GLOBAL = re.compile(
    r'^(?P<head>\s*util\.global private )@(?P<symbol>"[^"]+"|[^ ]+)(?P<mid> = #\w+\.parameter\.named<"[^"]*"::)'
    r'"(?P<key>[^"]+)"> : tensor<(?P<k>\d+)x(?P<n>\d+)xf32>\s*$'
)

_LOAD = re.compile(r'^\s*(?P<value>%[\w$.-]+) = util\.global\.load (?:immutable )?@(?P<symbol>"[^"]+"|[^ ]+) : ')


def rewrite_tiled(
    mlir: str, tiled: Collection[str], most_rows: int, choose: Choose | None = None
) -> tuple[str, tuple[Seen, ...]]:
    """Rewrite every MatMul of static shapes by a weight in ``tiled``, the keys of parameters W[K, N] in float32.

    A kernel that ``choose`` names takes the product; otherwise ``most_rows`` rows of activations are multiplied at
    once, fewer where there are not as many. Whatever else reads such a weight gets it put together again. Returns the
    module and every such product. Ensures that no weight is read under its plain key.
    """
    lines = mlir.splitlines()
    written: dict[int, list[str]] = {}
    seen = []
    for index, linear in enumerate(find(lines)):
        if linear.layer in tiled and not linear.transposed and linear.weight_type.dtype == "f32" and not linear.bias:
            one, made = _made(linear, f"tiled{index}_", most_rows, choose)
            comment = f"    // {lines[linear.line].strip()}"  # counted, so that errors still name the node
            written[linear.line] = [comment, *made]
            seen.append(one)
    body = [new for index, line in enumerate(lines) for new in written.get(index, [line])]
    return "\n".join(_declared(prune(body), lines, tiled)) + "\n", tuple(seen)


def _made(linear: PlainLinear, prefix: str, most_rows: int, choose: Choose | None) -> tuple[Seen, list[str]]:
    product = Product(
        pattern="matmul_f32_tiles", layer=linear.layer, m=math.prod(linear.x_type.shape[:-1]), n=linear.n, k=linear.k,
        unfit=linear.unfit,
    )
    kernel = None if product.unfit or choose is None else choose(product)
    if kernel is None:
        return Seen(product=product, call=None), _product(linear, f"%{prefix}", most_rows)
    shape = (linear.n // TILE, linear.k, TILE, 1)
    weight = Value(name=f"%{prefix}w", type=TensorType(shape=shape, dtype="f32"))
    load = f"    {weight.name} = util.global.load @{_symbol(linear.layer)} : {weight.type.builtin()}"
    call, lines = tiled_call(linear, product, kernel, weight, prefix.rstrip("_"))
    return Seen(product=product, call=call), [load, *lines]


def _product(linear: PlainLinear, name: str, most_rows: int) -> list[str]:
    *lead, k = linear.x_type.shape
    rows, n = math.prod(lead), linear.n
    at_once = min(most_rows, 1 << (rows - 1).bit_length())
    blocks = -(-rows // at_once)
    left, right = _type(blocks, k, at_once, 1), _tiles(k, n)
    sums, flat, out = _type(blocks, n // TILE, at_once, TILE), _type(rows, k), _type(rows, n)
    x, result = linear.x_type.builtin(), linear.result_type.builtin()
    return [
        f"    {name}x = torch_c.to_builtin_tensor {linear.x} : {linear.x_type.torch()} -> {x}",
        _reshaped("collapse_shape", f"{name}flat", f"{name}x", lead, (x, flat)),
        f"    {name}w = util.global.load @{_symbol(linear.layer)} : {right}",
        f"    {name}zero = arith.constant 0.0 : f32",
        f"    {name}l0 = tensor.empty() : {left}",
        f"    {name}l = linalg.pack {name}flat padding_value({name}zero : f32) outer_dims_perm = [0, 1] "
        f"inner_dims_pos = [0, 1] inner_tiles = [{at_once}, 1] into {name}l0 : {flat} -> {left}",
        f"    {name}s0 = tensor.empty() : {sums}",
        f"    {name}s1 = linalg.fill ins({name}zero : f32) outs({name}s0 : {sums}) -> {sums}",
        f"    {name}s = linalg.mmt4d ins({name}l, {name}w : {left}, {right}) outs({name}s1 : {sums}) -> {sums}",
        f"    {name}o0 = tensor.empty() : {out}",
        f"    {name}o = linalg.unpack {name}s outer_dims_perm = [0, 1] inner_dims_pos = [0, 1] "
        f"inner_tiles = [{at_once}, {TILE}] into {name}o0 : {sums} -> {out}",
        _reshaped("expand_shape", f"{name}r", f"{name}o", lead, (out, result), output=linear.result_type.shape),
        f"    {linear.result} = torch_c.from_builtin_tensor {name}r : {result} -> {linear.result_type.torch()}",
    ]


def _type(*shape: int) -> str:
    return TensorType(shape=shape, dtype="f32").builtin()


def _tiles(k: int, n: int) -> str:
    return _type(n // TILE, k, TILE, 1)


def _symbol(key: str) -> str:
    return f'"{key}{SUFFIX}"'


def _reshaped(
    op: str, result: str, operand: str, lead: Sequence[int], types: tuple[str, str], output: Sequence[int] = ()
) -> str:
    """Write a reshape between [lead…, width] and [rows, width]."""
    rows = ", ".join(map(str, range(len(lead))))
    told = f" output_shape [{', '.join(map(str, output))}]" if output else ""
    return f"    {result} = tensor.{op} {operand} [[{rows}], [{len(lead)}]]{told} : {types[0]} into {types[1]}"


def _declared(body: list[str], original: Sequence[str], tiled: Collection[str]) -> list[str]:
    """Declare the tiles of every weight in ``tiled``, and put together what still reads one under its plain key."""
    found = {match["key"]: match for match in map(_GLOBAL.match, original) if match and match["key"] in tiled}
    globals_ = [
        f'{row["head"]}@{_symbol(key)}{row["mid"]}"{key}{SUFFIX}"> : {_tiles(int(row["k"]), int(row["n"]))}'
        for key, row in found.items()
    ]
    made: list[str] = []
    for line in body:
        if (kept := _GLOBAL.match(line)) is not None and kept["key"] in found:
            continue
        made += _loaded(line, {row["symbol"]: row for row in found.values()})
    opening = next(index for index, line in enumerate(made) if line.startswith("module"))
    return [*made[: opening + 1], *globals_, *made[opening + 1 :]]


def _loaded(line: str, found: Mapping[str, re.Match[str]]) -> list[str]:
    match = _LOAD.match(line)
    if match is None or match["symbol"] not in found:
        return [line]
    row, value = found[match["symbol"]], match["value"]
    k, n = int(row["k"]), int(row["n"])
    return [
        f"    {value}.tiles = util.global.load @{_symbol(row['key'])} : {_tiles(k, n)}",
        f"    {value}.whole = tensor.empty() : {_type(k, n)}",
        f"    {value} = linalg.unpack {value}.tiles outer_dims_perm = [1, 0] inner_dims_pos = [1, 0] "
        f"inner_tiles = [{TILE}, 1] into {value}.whole : {_tiles(k, n)} -> {_type(k, n)}",
    ]
