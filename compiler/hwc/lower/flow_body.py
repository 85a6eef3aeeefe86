"""What the code of one dispatch does: its kind, extents, arithmetic and the bytes it loads, from IREE's flow IR.

Reads the compiler's own IR through its Python bindings, so it is called in a child process alone (flow_reader.py).
Bindings are untyped: every ``op`` here is an ``iree.compiler.ir`` operation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hwc.lower.flow_types import byte_count, dims, element

ARITHMETIC = frozenset(
    f"arith.{name}"
    for name in (
        "addf", "subf", "mulf", "divf", "maximumf", "minimumf", "maxnumf", "minnumf", "negf", "remf", "addi", "subi",
        "muli",
    )
)
"""One operation a point each, as is every op of the math dialect; conversions, comparisons and choices are free."""
SOFTMAX_STEPS = 5
"""Of every element: maximum, difference, exponential, sum, quotient."""
_NAMED = {
    "linalg.softmax": "softmax", "iree_linalg_ext.attention": "attention", "iree_linalg_ext.online_attention":
    "attention", "iree_linalg_ext.scatter": "scatter", "iree_linalg_ext.gather": "gather", "iree_linalg_ext.sort":
    "sort", "iree_linalg_ext.topk": "sort", "iree_linalg_ext.topk_v2": "sort", "iree_linalg_ext.arg_compare":
    "reduction", "linalg.transpose": "transpose", "linalg.pack": "transpose", "linalg.unpack": "transpose",
    "tensor.pad": "copy",
}  # fmt: skip
_RANKING = (
    "attention", "conv", "matmul", "pooling", "softmax", "sort", "scatter", "normalisation", "reduction", "gather",
    "elementwise", "transpose", "copy", "other",
)  # fmt: skip
"""A dispatch that does several kinds of work is of the first of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One operation in a dispatch."""

    kind: str
    flops: float
    batch: int = 1
    m: int = 0
    n: int = 0
    k: int = 0
    left: frozenset[int] = frozenset()
    """Arguments that the streamed side of a contraction comes from."""
    accumulator: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """What the code of a dispatch does in one run."""

    parts: tuple[Part, ...]
    loaded_bytes: dict[int, float]
    """Argument to bytes taken from it; of a table, the rows."""
    elements: dict[int, str]
    """Argument to the type of its elements."""
    written_bytes: float
    shape: tuple[int, ...]
    """Of its largest result."""
    result: str

    @property
    def root(self) -> Part:
        """The part that the dispatch is named for: the highest in rank, then the one of most arithmetic."""
        return min(self.parts, key=lambda part: (_RANKING.index(part.kind), -part.flops), default=_COPY)


_COPY = Part(kind="copy", flops=0.0)


def read(function: Any, weights: frozenset[int]) -> Body:
    """Read a dispatch's function; ``weights`` are the arguments that hold stored weights.

    Raises ValueError for a shape that is not static.
    """
    block = function.regions[0].blocks[0]
    arguments = {argument: place for place, argument in enumerate(block.arguments)}
    sources: dict[Any, frozenset[int]] = {}
    loaded: dict[int, float] = {}
    elements: dict[int, str] = {}
    parts: list[Part] = []
    written: list[tuple[float, tuple[int, ...], str]] = []
    for view in block.operations:
        op = view.operation
        if op.name == "iree_tensor_ext.dispatch.tensor.load":
            if op.operands[0] not in arguments:  # the compiler binds sizes to what is not static
                raise ValueError(f"a shape that is not static: {op.operands[0].type}")
            place, value = arguments[op.operands[0]], op.results[0]
            sources[value], elements[place] = frozenset({place}), element(value.type)
            loaded[place] = loaded.get(place, 0.0) + _taken(value)
        elif op.name == "iree_tensor_ext.dispatch.tensor.store":
            kind = op.operands[0].type
            written.append((byte_count(kind), dims(kind), element(kind)))
        else:
            reached = frozenset().union(*(sources.get(value, frozenset()) for value in _reads(op)))
            sources.update(dict.fromkeys(op.results, reached))
            parts += _parts(op, sources, weights)
    largest = max(written, default=(0.0, (), "float32"))
    return Body(
        parts=_as_norm(parts, block), loaded_bytes=loaded, elements=elements,
        written_bytes=sum(row[0] for row in written), shape=largest[1], result=largest[2],
    )


def _reads(op: Any) -> Iterator[Any]:
    """Yield what an operation reads: its operands, and outer tensors that its body extracts from."""
    yield from op.operands
    for inner in _inside(op):
        if inner.name == "tensor.extract":
            yield inner.operands[0]


def _inside(op: Any) -> Iterator[Any]:
    for region in op.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield inner.operation
                yield from _inside(inner.operation)


def _taken(value: Any) -> float:
    """Return the bytes used of a loaded tensor: all of it, or the elements that are extracted by index."""
    uses = [use.owner.operation for use in value.uses]
    if not uses or any(use.name != "tensor.extract" for use in uses):
        return byte_count(value.type)
    whole, count = max(1, math.prod(dims(value.type))), 0.0
    for use in uses:
        count += _extracted(use)
    return byte_count(value.type) * min(1.0, count / whole)


def _extracted(extract: Any) -> float:
    """Return how many distinct elements one extraction takes: the extents of the loops its indices depend on."""
    loop = extract.parent.operation
    if loop.name != "linalg.generic":
        return 1.0
    extents, maps = loop_extents(loop), _maps(loop)
    seen: set[int] = set()
    pending = list(extract.operands)[1:]
    body = loop.regions[0].blocks[0]
    arguments = {argument: place for place, argument in enumerate(body.arguments)}
    while pending:
        value = pending.pop()
        if value in arguments:
            seen |= set(_plain(maps[arguments[value]]).values())
            continue
        op = value.owner.operation if hasattr(value.owner, "operation") else None
        if op is None or op.parent is None or op.parent.operation != loop:
            continue
        if op.name == "linalg.index":
            seen.add(int(op.attributes["dim"]))
        pending += list(op.operands)
    return float(math.prod(extents[loop_dim] for loop_dim in seen))


def _parts(op: Any, sources: dict[Any, frozenset[int]], weights: frozenset[int]) -> list[Part]:
    if op.name in _NAMED:
        return [_named(op)]
    if not op.name.startswith("linalg.") or op.name in ("linalg.fill", "linalg.yield", "linalg.index"):
        return []
    extents = loop_extents(op)
    points = float(math.prod(extents))
    reduced = _reductions(op)
    if not reduced:
        return [_pointwise(op, points)]
    if "pool" in op.name:
        return [Part(kind="pooling", flops=points)]
    if _multiplies_and_adds(op):
        if any(len(_plain(found)) < len(found.results) for found in _maps(op)):
            return [_convolution(op, points)]
        if (contraction := _contraction(op, extents, sources, weights)) is not None:
            return [contraction]
    windowed = any(len(_plain(found)) < len(found.results) for found in _maps(op))
    return [Part(kind="pooling" if windowed else "reduction", flops=points * max(1, _steps(op)))]


def _named(op: Any) -> Part:
    kind, points = _NAMED[op.name], float(math.prod(dims(op.results[0].type)))
    if kind == "softmax":
        return Part(kind=kind, flops=SOFTMAX_STEPS * points)
    if kind != "attention":
        return Part(kind=kind, flops=0.0)
    query, key, value = (dims(operand.type) for operand in list(op.operands)[:3])
    batch, rows, depth = math.prod(query[:-2]), query[-2], query[-1]
    pairs = float(batch * rows * key[-2])
    return Part(
        kind=kind, flops=pairs * (2 * depth + 2 * value[-1] + SOFTMAX_STEPS), batch=batch, m=rows, n=key[-2], k=depth
    )


def _pointwise(op: Any, points: float) -> Part:
    steps = _steps(op)
    if any(inner.name == "tensor.extract" and dims(inner.operands[0].type) for inner in _inside(op)):
        return Part(kind="gather", flops=points * steps)
    if steps == 0 and not any(inner.name.startswith(("arith.", "math.")) for inner in _inside(op)):
        moved = any(list(_plain(found).values()) != sorted(_plain(found).values()) for found in _maps(op))
        return Part(kind="transpose" if moved else "copy", flops=0.0)
    return Part(kind="elementwise", flops=points * steps)


def _steps(op: Any) -> int:
    return sum(
        inner.name in ARITHMETIC or inner.name.startswith("math.")
        for inner in _inside(op)
        if inner.results and not str(inner.results[0].type).startswith("index")
    )


def _reductions(op: Any) -> list[int]:
    """Return the loops of an operation that its result does not have."""
    result = set(_plain_loops(_maps(op)[-1]))
    return [loop for loop in range(len(loop_extents(op))) if loop not in result]


def _maps(op: Any) -> list[Any]:
    attributes = op.attributes
    if "indexing_maps" in attributes:
        return [found.value for found in attributes["indexing_maps"]]
    return [found.value for found in _linalg().get_indexing_maps(op)]


def _linalg() -> Any:
    from iree.compiler.dialects import linalg

    return linalg


def _plain(found: Any) -> dict[int, int]:
    """Return the positions of an affine map's result that are loops by themselves, each with its loop."""
    from iree.compiler import ir

    return {
        place: expression.position
        for place, expression in enumerate(found.results)
        if isinstance(expression, ir.AffineDimExpr)
    }


def _plain_loops(found: Any) -> list[int]:
    return list(_plain(found).values())


def loop_extents(op: Any) -> list[int]:
    """Return the extents of an operation's loops; raise ValueError where a shape does not tell one."""
    found: dict[int, int] = {}
    maps = _maps(op)
    for operand, affine in zip(op.operands, maps, strict=False):
        shape = dims(operand.type) if _is_tensor(operand) else ()
        for place, loop in _plain(affine).items():
            found.setdefault(loop, shape[place])
    count = maps[0].n_dims
    if missing := set(range(count)) - set(found):
        raise ValueError(f"{op.name}: loops {sorted(missing)} have no extent")
    return [found[loop] for loop in range(count)]


def _is_tensor(value: Any) -> bool:
    return str(value.type).startswith("tensor<")


def _multiplies_and_adds(op: Any) -> bool:
    names = [inner.name for inner in _inside(op)]
    return {"arith.mulf", "arith.addf"} <= set(names) or {"arith.muli", "arith.addi"} <= set(names)


def _convolution(op: Any, points: float) -> Part:
    return Part(kind="conv", flops=2 * points, accumulator=element(op.results[0].type))


def _contraction(
    op: Any, extents: list[int], sources: dict[Any, frozenset[int]], weights: frozenset[int]
) -> Part | None:
    """Return the batch, m, n and k of a contraction; n is the stored weight's side where there is one."""
    maps, inputs = _maps(op), list(op.operands)[: len(_maps(op)) - 1]
    reduced, kept = set(_reductions(op)), set(_plain_loops(maps[-1]))
    sides = [
        (loops, sources.get(value, frozenset()))
        for value, found in zip(inputs, maps[:-1], strict=True)
        if (loops := set(_plain_loops(found))) & reduced
    ]
    if len(sides) < 2:
        return None
    stored = [side for side in sides if side[1] & weights]
    right = stored if stored and len(stored) < len(sides) else sides[1:]
    left = [side for side in sides if side not in right]
    rows, columns = set().union(*(side[0] for side in left)), set().union(*(side[0] for side in right))
    if rows & kept == columns & kept:
        return None

    def extent(loops: set[int]) -> int:
        return math.prod(extents[loop] for loop in loops)

    return Part(
        kind="matmul", flops=2.0 * math.prod(extents), batch=extent(rows & columns & kept),
        m=extent((rows - columns) & kept), n=extent((columns - rows) & kept), k=extent(reduced),
        left=frozenset().union(*(side[1] for side in left)), accumulator=element(op.results[0].type),
    )


def _as_norm(parts: list[Part], block: Any) -> tuple[Part, ...]:
    """Call a reduction followed by a reciprocal square root what it is: a normalisation."""
    names = {inner.name for op in block.operations for inner in _inside(op.operation)}
    if not any(part.kind == "reduction" for part in parts) or not names & {"math.rsqrt", "math.sqrt"}:
        return tuple(parts)
    return tuple(
        Part(kind="normalisation", flops=part.flops) if part.kind == "reduction" else part for part in parts
    )
