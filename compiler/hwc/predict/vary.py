"""What an answer owes to single figures: each moved alone, and the value at which a target would draw level; pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hwc.spec.figure import Spread, covered, leaves, spread
from hwc.spec.target import TargetSpec

Metric = Callable[[TargetSpec], float]
"""A target to one number, base figures throughout; less is better."""
MOST = 100.0
"""Factor from an assumed figure's ends past which no break-even is looked for."""
_HALVINGS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One figure of a tornado."""

    key: str
    figure: Spread
    at_low: float
    """The metric with this figure at its low end and all others at base."""
    at_high: float

    @property
    def width(self) -> float:
        """By how much the figure alone moves the metric."""
        return abs(self.at_high - self.at_low)


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakEven:
    """What one figure would have to be, all others at base, for the metric to reach a goal."""

    key: str
    base: float
    value: float | None
    """None where no value of it within a factor of 100 of its assumed ends does."""
    within: bool
    """Whether the value lies in the interval that is assumed."""


def assumed_leaves(target: TargetSpec) -> Iterator[tuple[str, Spread]]:
    """Yield each figure that is an assumption, or told as an interval, once a key, entries of a list together."""
    seen = set()
    for key, figure in leaves(target.hardware, "hardware"):
        source = target.sources.get(covered(key, target.sources))
        uncertain = isinstance(figure, Spread) or (source is not None and source.kind == "assumed")
        if key not in seen and uncertain and not isinstance(figure, int):
            seen.add(key)
            yield key, spread(figure)


def tornado(target: TargetSpec, metric: Metric) -> tuple[Bar, ...]:
    """Return what each uncertain figure moves, widest first; those that move nothing are left out."""
    bars = [
        Bar(
            key=key, figure=figure, at_low=metric(scaled(target, key, figure.low / figure.base)),
            at_high=metric(scaled(target, key, figure.high / figure.base)),
        )
        for key, figure in assumed_leaves(target)
    ]
    return tuple(sorted((bar for bar in bars if bar.width > 0), key=lambda bar: -bar.width))


def break_even(target: TargetSpec, metric: Metric, goal: float) -> tuple[BreakEven, ...]:
    """Return the value of each uncertain figure at which the metric reaches ``goal``, found by bisection."""
    return tuple(_level(target, metric, goal, key, figure) for key, figure in assumed_leaves(target))


def _level(target: TargetSpec, metric: Metric, goal: float, key: str, figure: Spread) -> BreakEven:
    def over(log_factor: float) -> float:
        return metric(scaled(target, key, math.exp(log_factor))) - goal

    low, high = math.log(figure.low / figure.base / MOST), math.log(figure.high / figure.base * MOST)
    at_low, at_high = over(low), over(high)
    if at_low * at_high > 0 or at_low == at_high:
        return BreakEven(key=key, base=figure.base, value=None, within=False)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if over(middle) * at_low > 0:
            low = middle
        else:
            high = middle
    value = figure.base * math.exp(high)
    return BreakEven(key=key, base=figure.base, value=value, within=figure.low <= value <= figure.high)


def scaled(target: TargetSpec, key: str, factor: float) -> TargetSpec:
    """Return a target with one figure, or all of a list's that share its key, times a factor.

    Nothing is checked anew: a figure moved alone may contradict its neighbours, which is what is asked.
    """
    parts = key.split(".")[1:]
    return target.model_copy(update={"hardware": _scaled(target.hardware, parts, factor)})


def _scaled(value: Any, parts: list[str], factor: float) -> Any:
    if isinstance(value, tuple):
        return tuple(_scaled(inner, parts, factor) for inner in value)
    if not parts:
        return _times(value, factor)
    if isinstance(value, dict):
        return {**value, parts[0]: _scaled(value[parts[0]], parts[1:], factor)}
    return value.model_copy(update={parts[0]: _scaled(getattr(value, parts[0]), parts[1:], factor)})


def _times(figure: Any, factor: float) -> Any:
    if figure is None:
        return None
    if isinstance(figure, Spread):
        return Spread(low=figure.low * factor, base=figure.base * factor, high=figure.high * factor)
    return figure * factor
