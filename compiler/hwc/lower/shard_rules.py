"""How operators work on values that are split over devices: along which axis each input is cut, and each result is.

A rule is pure. It answers None for what cannot be computed part by part, and its inputs are then gathered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Shape = tuple[int, ...]
Told = int | tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a rule sees of an operator."""

    shapes: tuple[Shape, ...]
    """Of the inputs."""
    results: tuple[Shape, ...]
    axes: tuple[int | None, ...]
    """Axis along which each input is split; None for one that lies whole."""
    stored: tuple[bool, ...]
    """Whether each input is a weight or constant, of which a device can have its part."""
    numbers: tuple[tuple[int, ...] | None, ...] = ()
    """Values of the inputs that are constant integers."""
    told: Mapping[str, Told]
    """Attributes of integers."""

    def integer(self, name: str, default: int, rank: int) -> int:
        """Return an axis that an attribute tells, counted from the first."""
        found = self.told.get(name, default)
        assert isinstance(found, int)
        return found % rank

    def axes_told(self, place: int, rank: int) -> tuple[int, ...] | None:
        """Return the axes that an input or the attribute `axes` tells; None if they are computed."""
        found = self.told.get("axes") if place >= len(self.numbers) else self.numbers[place]
        return tuple(axis % rank for axis in found) if isinstance(found, tuple) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Follow:
    """How an operator works on parts."""

    inputs: tuple[int | None, ...]
    """Axis along which a device has its part of each input; None where it has the whole."""
    outputs: tuple[int, ...]
    shape: int | None = None
    """Input that tells the result's shape, and has to tell the part's."""


Rule = Callable[[Seen], Follow | None]


def elementwise(seen: Seen) -> Follow | None:
    """Cut every input where the result is, counted from the last axis; what is broadcast there stays whole."""
    (result,) = seen.results
    found = {axis - len(shape) for axis, shape in zip(seen.axes, seen.shapes, strict=True) if axis is not None}
    if len(found) != 1:
        return None
    (back,) = found
    if any(
        axis is not None and shape[back] != result[back]
        for axis, shape in zip(seen.axes, seen.shapes, strict=True)
    ):
        return None
    inputs: list[int | None] = []
    for axis, shape, stored in zip(seen.axes, seen.shapes, seen.stored, strict=True):
        if axis is None and len(shape) >= -back and shape[back] != 1:
            if not stored:
                return None
            inputs.append(len(shape) + back)
        else:
            inputs.append(axis)
    return Follow(inputs=tuple(inputs), outputs=(len(result) + back,))


def reshape(seen: Seen) -> Follow | None:
    """Go on along the axis before which as many elements lie: parts of it are the same runs of elements."""
    axis, (shape, *_), (result,) = seen.axes[0], seen.shapes, seen.results
    if axis is None:
        return None
    before = math.prod(shape[:axis])
    made = [at for at, size in enumerate(result) if size > 1 and math.prod(result[:at]) == before]
    return Follow(inputs=(axis, None), outputs=(made[0],), shape=1) if made else None


def expand(seen: Seen) -> Follow | None:
    """Broadcast other axes than the one that is split."""
    axis, (shape, *_), (result,) = seen.axes[0], seen.shapes, seen.results
    if axis is None or shape[axis] != result[axis - len(shape)]:
        return None
    return Follow(inputs=(axis, None), outputs=(len(result) + axis - len(shape),), shape=1)


def transpose(seen: Seen) -> Follow | None:
    """Follow the axis to its new place."""
    order = seen.told.get("perm", tuple(reversed(range(len(seen.shapes[0])))))
    return Follow(inputs=seen.axes, outputs=(order.index(seen.axes[0]),)) if isinstance(order, tuple) else None


def unsqueeze(seen: Seen) -> Follow | None:
    """Follow the axis past those that are inserted."""
    added = seen.axes_told(1, len(seen.results[0]))
    if added is None or seen.axes[0] is None:
        return None
    kept = [at for at in range(len(seen.results[0])) if at not in added]
    return Follow(inputs=seen.axes, outputs=(kept[seen.axes[0]],))


def squeeze(seen: Seen) -> Follow | None:
    """Follow the axis past those that are dropped."""
    dropped = seen.axes_told(1, len(seen.shapes[0]))
    if dropped is None or seen.axes[0] is None or seen.axes[0] in dropped:
        return None
    return Follow(inputs=seen.axes, outputs=(seen.axes[0] - sum(at < seen.axes[0] for at in dropped),))


def reduce(seen: Seen) -> Follow | None:
    """Reduce other axes than the one that is split."""
    gone = seen.axes_told(1, len(seen.shapes[0]))
    if gone is None or seen.axes[0] is None or seen.axes[0] in gone:
        return None
    before = 0 if seen.told.get("keepdims", 1) else sum(at < seen.axes[0] for at in gone)
    return Follow(inputs=seen.axes, outputs=(seen.axes[0] - before,))


def along(default: int) -> Rule:
    """Return the rule of an operator that works along one axis, which must not be the one that is split."""

    def rule(seen: Seen) -> Follow | None:
        axis = seen.axes[0]
        if axis is None or any(other is not None for other in seen.axes[1:]):
            return None
        worked = seen.integer("axis", default, len(seen.shapes[0]))
        return None if axis == worked else Follow(inputs=seen.axes, outputs=(axis,) * len(seen.results))

    return rule


def normalise(seen: Seen) -> Follow | None:
    """Normalise over the axes behind the one that is split; scale and bias are those axes'."""
    axis = seen.axes[0]
    if axis is None or any(other is not None for other in seen.axes[1:]) or len(seen.results) > 1:
        return None
    return Follow(inputs=seen.axes, outputs=(axis,)) if axis < seen.integer("axis", -1, len(seen.shapes[0])) else None


def concatenate(seen: Seen) -> Follow | None:
    """Join parts along another axis than the one that they are split along."""
    (axis,) = found if len(found := set(seen.axes)) == 1 else (None,)
    if axis is None or axis == seen.integer("axis", 0, len(seen.results[0])):
        return None
    return Follow(inputs=seen.axes, outputs=(axis,))


def slices(seen: Seen) -> Follow | None:
    """Cut other axes than the one that is split."""
    starts = seen.numbers[1]
    cut = seen.axes_told(3, len(seen.shapes[0])) if len(seen.shapes) > 3 else tuple(range(len(starts or ())))
    if seen.axes[0] is None or starts is None or cut is None or seen.axes[0] in cut:
        return None
    return Follow(inputs=seen.axes, outputs=(seen.axes[0],))


def product(seen: Seen) -> Follow | None:
    """Multiply matrices that are split along a batch axis, as heads are; an operand without that axis is whole."""
    (left, right), (result,) = seen.shapes, seen.results
    found = {axis - len(shape) for axis, shape in zip(seen.axes, seen.shapes, strict=True) if axis is not None}
    if len(found) != 1 or min(len(left), len(right)) < 2:
        return None
    (back,) = found
    if back == -2 and seen.axes[1] is None:  # rows of the left operand
        return Follow(inputs=seen.axes, outputs=(len(result) - 2,))
    return elementwise(seen) if back < -2 else None


ELEMENTWISE = (
    "Abs", "Add", "And", "Cast", "Clip", "Cos", "Div", "Elu", "Equal", "Erf", "Exp", "Gelu", "Greater", "HardSigmoid",
    "HardSwish", "Identity", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min", "Mul", "Neg", "Not", "Or", "Pow",
    "Reciprocal", "Relu", "Round", "Sigmoid", "Sin", "Softplus", "Sqrt", "Sub", "Tanh", "Where",
)  # fmt: skip
RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare"), reduce),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"), normalise),
    "Concat": concatenate, "Expand": expand, "MatMul": product, "Reshape": reshape, "Slice": slices,
    "Softmax": along(-1), "Split": along(0), "Squeeze": squeeze, "Transpose": transpose, "Unsqueeze": unsqueeze,
}
"""Operators by name; one that is not here gets its inputs whole."""
COMBINED = {"ReduceMax": "Max", "ReduceMin": "Min", "ReduceSum": "Add"}
"""Reductions over the split axis: each device reduces its part, and the first one combines what they found."""
