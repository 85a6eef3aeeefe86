"""How operators work on values that are split over devices: along which axis each input is cut, and each result is.

A rule is pure. It answers None for what cannot be computed part by part, and its inputs are then gathered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a rule sees of an operator."""

    op: str
    shapes: tuple[Shape, ...]
    """Of the inputs."""
    results: tuple[Shape, ...]
    axes: tuple[int | None, ...]
    """Axis along which each input is split; None for one that lies whole."""
    stored: tuple[bool, ...]
    """Whether each input is a weight or constant, of which a device can have its part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Follow:
    """How an operator works on parts."""

    inputs: tuple[int | None, ...]
    """Axis along which a device has its part of each input; None where it has the whole."""
    outputs: tuple[int, ...]


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


ELEMENTWISE = (
    "Abs", "Add", "And", "Cast", "Clip", "Cos", "Div", "Elu", "Equal", "Erf", "Exp", "Gelu", "Greater", "HardSigmoid",
    "HardSwish", "Identity", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min", "Mul", "Neg", "Not", "Or", "Pow",
    "Reciprocal", "Relu", "Round", "Sigmoid", "Sin", "Softplus", "Sqrt", "Sub", "Tanh", "Where",
)  # fmt: skip
RULES: dict[str, Rule] = dict.fromkeys(ELEMENTWISE, elementwise)
COMBINED = {"ReduceMax": "Max", "ReduceMin": "Min", "ReduceSum": "Add"}
"""Reductions over the split axis: each device reduces its part, and the first one combines what they found."""
