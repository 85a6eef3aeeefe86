"""Arithmetic and traffic of a dispatch, estimated from the name IREE's compiler gives it; pure.

A name tells the kind of operation, the extents of its loops and the element types of its operands, result last:
``async_dispatch_3_matmul_like_128x1536x384_f32``. The figures count the named operation alone: what was fused into it
is not seen. Bytes count every operand once, as if caches held the rest, so the time they bound is a lower bound.
Source of the names: IREE, compiler/Dialect/Flow/Transforms/AnnotateDispatches.cpp.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

MAX_NAME = 240
_PREFIX = re.compile(r"^.*dispatch_\d+_(?=[a-z])")
_TYPE = r"(?:bf|f|i|si|ui)\d{1,3}(?:E\d+M\d+[A-Z]*)?"
_SHAPED = re.compile(
    rf"(?P<kind>[a-z]+(?:_[a-z]+)*)_(?P<loops>\d{{1,9}}(?:x\d{{1,9}}){{0,7}})[_x](?P<types>{_TYPE}(?:x{_TYPE})*)(?:_[a-z_]+)?"
)
_SOFTMAX_STEPS = 5
"""Of every element: maximum, difference, exponential, sum, quotient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a dispatch does at least, estimated."""

    flops: float
    """Floating-point operations; a multiply-add counts as two."""
    traffic_bytes: float
    """Bytes read and written if every operand passes once; those the name does not tell are left out."""

    def bound_s(self, flop_per_s: float, bytes_per_s: float) -> float:
        """Return the time no execution can beat whose operands come from memory: the roofline."""
        return max(self.flops / flop_per_s, self.traffic_bytes / bytes_per_s)

    @property
    def flop_per_byte(self) -> float:
        """Arithmetic intensity."""
        return self.flops / self.traffic_bytes if self.traffic_bytes else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    loops: tuple[int, ...]
    read_bytes: float
    """Bytes of an element of what is read: the narrowest type, as the name does not tell which operand is whole."""
    write_bytes: float
    weight_bytes: float

    @property
    def points(self) -> float:
        return float(math.prod(self.loops))


def estimate(name: str, *, weight_bits: float | None = None) -> Work | None:
    """Return the work of a dispatch, or None where its name does not tell it.

    ``weight_bits``: bits of a stored weight. An operation whose name ends in ``_like`` may decode weights as it goes,
    and its name tells the type of the result alone.
    """
    if len(name) > MAX_NAME or (found := _SHAPED.fullmatch(_PREFIX.sub("", name))) is None:
        return None
    count = _COUNTS.get(found["kind"])
    types = found["types"].split("x")
    fused = found["kind"].endswith("_like") and weight_bits is not None
    read_bytes = min(_bytes(name) for name in types[:-1] or types)
    named = _Named(
        loops=tuple(int(extent) for extent in found["loops"].split("x")),
        read_bytes=read_bytes,
        write_bytes=_bytes(types[-1]),
        weight_bytes=(weight_bits or 0) / 8 if fused else read_bytes,
    )
    return count(named) if count is not None and all(named.loops) else None


def _bytes(name: str) -> float:
    bits = int(re.sub(r"^[a-z]+(\d+).*$", r"\1", name))
    return 1.0 if bits == 1 else bits / 8


def _matmul(named: _Named) -> Work | None:
    """M×N×K; of more loops, whose place is not told, the result's bytes alone."""
    if len(named.loops) < 3:
        return None
    outer, depth = named.loops[:-1], named.loops[-1]
    traffic = math.prod(outer) * named.write_bytes
    if len(outer) == 2:
        traffic += depth * (outer[0] * named.read_bytes + outer[1] * named.weight_bytes)
    return Work(flops=2 * named.points, traffic_bytes=traffic)


def _batch_matmul(named: _Named) -> Work | None:
    if len(named.loops) != 4:
        return None
    batch, rows, columns, depth = named.loops
    traffic = batch * (depth * (rows + columns) * named.read_bytes + rows * columns * named.write_bytes)
    return Work(flops=2 * named.points, traffic_bytes=traffic)


def _matvec(named: _Named) -> Work:
    """N×K, or N×(groups)×(group size): the matrix, the vector and the result."""
    rows, depth = named.loops[0], math.prod(named.loops[1:])
    traffic = rows * depth * named.weight_bytes + depth * named.read_bytes + rows * named.write_bytes
    return Work(flops=2 * named.points, traffic_bytes=traffic)


def _conv(named: _Named) -> Work:
    """[batch×]channels×height×width×inputs×window²; pooling is named so too and does half as much arithmetic."""
    loops = named.loops if len(named.loops) == 7 else (1, *named.loops)
    if len(loops) != 7:
        return Work(flops=2 * named.points, traffic_bytes=0)
    batch, channels, height, width, inputs, *window = loops
    image, weights = batch * inputs * height * width, channels * inputs * math.prod(window)
    result = batch * channels * height * width
    traffic = (image + weights) * named.read_bytes + result * named.write_bytes
    return Work(flops=2 * named.points, traffic_bytes=traffic)


def _each(steps: int) -> Callable[[_Named], Work]:
    """Return the count of an operation that reads and writes every point once."""

    def count(named: _Named) -> Work:
        return Work(flops=steps * named.points, traffic_bytes=named.points * (named.read_bytes + named.write_bytes))

    return count


def _reduction(named: _Named) -> Work:
    return Work(flops=named.points, traffic_bytes=named.points * named.read_bytes)


def _broadcast(named: _Named) -> Work:
    """Count what is written alone: what is read is smaller, by how much is not told."""
    return Work(flops=named.points, traffic_bytes=named.points * named.write_bytes)


_COUNTS: dict[str, Callable[[_Named], Work | None]] = {
    "matmul": _matmul,
    "matmul_like": _matmul,
    "batch_matmul": _batch_matmul,
    "matvec": _matvec,
    "matvec_like": _matvec,
    "conv": _conv,
    "softmax": _each(_SOFTMAX_STEPS),
    "elementwise": _each(1),
    "elementwise_broadcast": _broadcast,
    "elementwise_transpose": _each(1),
    "transpose": _each(0),
    "reduction": _reduction,
}
