"""Rewrite linears whose float weights are stored in tiles to products of tiles: ``linalg.mmt4d``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hwc.lower.passes.graph import TensorType
from hwc.lower.passes.kernel_linears import Choose, Product, Seen, finished, tiled_call
from hwc.lower.passes.linalg import Value
from hwc.lower.passes.plain_linears import PlainLinear, find
from hwc.lower.passes.prune import prune
from hwc.quantise.encodings import TILE
from hwc.quantise.tiles import SUFFIXES

_GLOBAL = re.compile(
    r'^(?P<head>\s*util\.global private )@(?P<symbol>"[^"]+"|[^ ]+)(?P<mid> = #\w+\.parameter\.named<"[^"]*"::)'
    r'"(?P<key>[^"]+)"> : tensor<(?P<rows>\d+)x(?P<columns>\d+)xf32>\s*$'
)

_LOAD = re.compile(r'^\s*(?P<value>%[\w$.-]+) = util\.global\.load (?:immutable )?@(?P<symbol>"[^"]+"|[^ ]+) : ')


def rewrite_tiled(
    mlir: str, tiled: Mapping[str, bool], most_rows: int, choose: Choose | None = None
) -> tuple[str, tuple[Seen, ...]]:
    """Rewrite every MatMul and Gemm of static shapes by a weight in ``tiled``.

    ``tiled``: keys of parameters in float32, W[K, N], or W[N, K] where the value is true. A kernel that ``choose``
    names takes the product; otherwise ``most_rows`` rows of activations are multiplied at once, fewer where there are
    not as many. Whatever else reads such a weight gets it put together again. Returns the module and every such
    product. Ensures that no weight is read under its plain key.
    """
    lines = mlir.splitlines()
    written: dict[int, list[str]] = {}
    seen = []
    for index, linear in enumerate(find(lines)):
        fits = tiled.get(linear.layer) is linear.transposed and linear.weight_type.dtype == "f32" and not linear.unfit
        if fits:
            one, made = _made(linear, f"tiled{index}", most_rows, choose)
            comment = f"    // {lines[linear.line].strip()}"  # counted, so that errors still name the node
            written[linear.line] = [comment, *made]
            seen.append(one)
    body = [new for index, line in enumerate(lines) for new in written.get(index, [line])]
    return "\n".join(_declared(prune(body), lines, tiled)) + "\n", tuple(seen)


def _made(linear: PlainLinear, prefix: str, most_rows: int, choose: Choose | None) -> tuple[Seen, list[str]]:
    product = Product(
        pattern="matmul_f32_tiles", layer=linear.layer, m=math.prod(linear.x_type.shape[:-1]), n=linear.n, k=linear.k
    )
    weight = Value(name=f"%{prefix}_w", type=TensorType(shape=(linear.n // TILE, linear.k, TILE, 1), dtype="f32"))
    load = f"    {weight.name} = util.global.load @{_symbol(linear.layer, linear.transposed)} : {weight.type.builtin()}"
    kernel = None if choose is None else choose(product)
    if kernel is None:
        return Seen(product=product, call=None), [load, *_product(linear, weight, prefix, most_rows)]
    call, lines = tiled_call(linear, product, kernel, weight, prefix)
    return Seen(product=product, call=call), [load, *lines]


def _product(linear: PlainLinear, weight: Value, prefix: str, most_rows: int) -> list[str]:
    *lead, k = linear.x_type.shape
    rows, n, name = math.prod(lead), linear.n, f"%{prefix}_"
    at_once = min(most_rows, 1 << (rows - 1).bit_length())
    blocks = -(-rows // at_once)
    left, right = _type(blocks, k, at_once, 1), weight.type.builtin()
    sums, flat, x = _type(blocks, n // TILE, at_once, TILE), _type(rows, k), linear.x_type.builtin()
    product = Value(name=f"{name}o", type=TensorType(shape=(rows, n), dtype="f32"))
    out = product.type.builtin()
    groups = f"[[{', '.join(map(str, range(len(lead))))}], [{len(lead)}]]"
    return [
        f"    {name}x = torch_c.to_builtin_tensor {linear.x} : {linear.x_type.torch()} -> {x}",
        f"    {name}flat = tensor.collapse_shape {name}x {groups} : {x} into {flat}",
        f"    {name}zero = arith.constant 0.0 : f32",
        f"    {name}l0 = tensor.empty() : {left}",
        f"    {name}l = linalg.pack {name}flat padding_value({name}zero : f32) outer_dims_perm = [0, 1] "
        f"inner_dims_pos = [0, 1] inner_tiles = [{at_once}, 1] into {name}l0 : {flat} -> {left}",
        f"    {name}s0 = tensor.empty() : {sums}",
        f"    {name}s1 = linalg.fill ins({name}zero : f32) outs({name}s0 : {sums}) -> {sums}",
        f"    {name}s = linalg.mmt4d ins({name}l, {weight.name} : {left}, {right}) outs({name}s1 : {sums}) -> {sums}",
        f"    {name}o0 = tensor.empty() : {out}",
        f"    {name}o = linalg.unpack {name}s outer_dims_perm = [0, 1] inner_dims_pos = [0, 1] "
        f"inner_tiles = [{at_once}, {TILE}] into {name}o0 : {sums} -> {out}",
        *(f"    {line}" for line in finished(linear, product, prefix)),
    ]


def _type(*shape: int) -> str:
    return TensorType(shape=shape, dtype="f32").builtin()


def _symbol(key: str, transposed: bool) -> str:
    return f'"{key}{SUFFIXES[transposed]}"'


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """A weight of ``rows`` by ``columns`` as the module declares it."""

    declaration: re.Match[str]
    transposed: bool

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.declaration["rows"]), int(self.declaration["columns"])

    @property
    def symbol(self) -> str:
        """Of its tiles."""
        return _symbol(self.declaration["key"], self.transposed)

    @property
    def tiles(self) -> str:
        """Type of its tiles."""
        k, n = reversed(self.shape) if self.transposed else self.shape
        return _type(n // TILE, k, TILE, 1)

    def declared(self) -> str:
        row = self.declaration
        return f"{row['head']}@{self.symbol}{row['mid']}{self.symbol}> : {self.tiles}"

    def whole(self, value: str) -> list[str]:
        """Put the weight together again."""
        order = "[0, 1]" if self.transposed else "[1, 0]"
        whole = _type(*self.shape)
        return [
            f"    {value}.tiles = util.global.load @{self.symbol} : {self.tiles}",
            f"    {value}.whole = tensor.empty() : {whole}",
            f"    {value} = linalg.unpack {value}.tiles outer_dims_perm = {order} inner_dims_pos = {order} "
            f"inner_tiles = [{TILE}, 1] into {value}.whole : {self.tiles} -> {whole}",
        ]


def _declared(body: list[str], original: Sequence[str], tiled: Mapping[str, bool]) -> list[str]:
    """Declare the tiles of every weight in ``tiled``, and put together what still reads one under its plain key."""
    found = {
        match["symbol"]: _Stored(declaration=match, transposed=tiled[match["key"]])
        for match in map(_GLOBAL.match, original) if match and match["key"] in tiled
    }
    made: list[str] = []
    for line in body:
        kept, load = _GLOBAL.match(line), _LOAD.match(line)
        if load is not None and load["symbol"] in found:
            made += found[load["symbol"]].whole(load["value"])
        elif kept is None or kept["symbol"] not in found:
            made.append(line)
    opening = next(index for index, line in enumerate(made) if line.startswith("module"))
    return [*made[: opening + 1], *(one.declared() for one in found.values()), *made[opening + 1 :]]
