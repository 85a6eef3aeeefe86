"""A picture of a comparison: each target's interval, and what single figures of uncertain ones move; pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hwc.report.html import Html, element, number

WIDTH, LEFT, RIGHT, ROW = 860, 300, 90, 26
MOST_BARS = 8
"""Figures of one target that are drawn, the widest."""
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#14181f}.soft{fill:#5a6472}.head{font-weight:600;font-size:14px}"
    ".line{stroke:#2a78d6;stroke-width:3}.guess{stroke:#8b95a1;stroke-dasharray:5 3}.dot{fill:#2a78d6}"
    ".guess.dot{fill:#fff;stroke:#8b95a1;stroke-width:2}.low{fill:#1baf7a}.high{fill:#eb6834}.axis{stroke:#5a6472}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One target's interval."""

    label: str
    low: float
    base: float
    high: float
    exists: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Swing:
    """What one figure moves."""

    label: str
    at_low: float
    at_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Swings:
    """A target's tornado around its base."""

    target: str
    base: float
    bars: tuple[Swing, ...]


def picture(title: str, unit: str, marks: Sequence[Mark], swings: Sequence[Swings]) -> str:
    """Return an SVG document; positions are logarithmic, and every number stands beside its mark."""
    parts: list[Html] = [element("style", Html(_STYLE)), element("title", title), _text(16, 24, title, "head")]
    top = 44
    ends = [end for mark in marks for end in (mark.low, mark.high)]
    for mark in marks:
        parts += _interval(mark, top, min(ends), max(ends))
        top += ROW
    parts.append(_text(LEFT, top + 12, f"{unit}, logarithmic; dashed: the chip does not exist", "soft"))
    top += 44
    for one in swings:
        parts.append(_text(16, top, f"{one.target}: what single figures move", "head"))
        top += 22
        drawn = one.bars[:MOST_BARS]
        far = [end for bar in drawn for end in (bar.at_low, bar.at_high)] + [one.base]
        for bar in drawn:
            parts += _swing(bar, top, min(far), max(far))
            top += ROW
        x = _x(one.base, min(far), max(far))
        parts.append(_line(x, top - ROW * len(drawn) - 14, x, top - 12, "axis"))
        parts.append(_text(LEFT, top + 4, f"{unit}; green: figure at its low end, orange: at its high end", "soft"))
        top += 36
    size = {"viewBox": f"0 0 {WIDTH} {top}", "width": str(WIDTH), "height": str(top)}
    return element("svg", parts, {"xmlns": "http://www.w3.org/2000/svg", "role": "img", **size}) + "\n"


def _x(value: float, low: float, high: float) -> float:
    span = math.log(high / low) or 1.0
    return LEFT + (WIDTH - LEFT - RIGHT) * math.log(value / low) / span


def _interval(mark: Mark, top: float, low: float, high: float) -> Iterator[Html]:
    kind = "" if mark.exists else " guess"
    yield _text(16, top + 4, mark.label)
    yield _line(_x(mark.low, low, high), top, _x(mark.high, low, high), top, f"line{kind}")
    place = {"cx": f"{_x(mark.base, low, high):.1f}", "cy": f"{top:.1f}", "r": "5", "class": f"dot{kind}"}
    yield element("circle", element("title", f"{mark.label}: {number(mark.base)}"), place)
    yield _text(WIDTH - RIGHT + 10, top + 4, number(mark.base) or "", "soft")


def _swing(bar: Swing, top: float, low: float, high: float) -> Iterator[Html]:
    yield _text(16, top, bar.label.removeprefix("hardware."))
    for value, name in ((bar.at_low, "low"), (bar.at_high, "high")):
        place = {"cx": f"{_x(value, low, high):.1f}", "cy": f"{top - 4:.1f}", "r": "5", "class": name}
        yield element("circle", element("title", f"{bar.label}: {number(value)}"), place)
    yield _line(_x(bar.at_low, low, high), top - 4, _x(bar.at_high, low, high), top - 4, "axis")


def _line(x1: float, y1: float, x2: float, y2: float, classes: str) -> Html:
    places = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return element("line", "", {**{key: f"{value:.1f}" for key, value in places.items()}, "class": classes})


def _text(x: float, y: float, text: str, classes: str = "") -> Html:
    return element("text", text, {"x": f"{x:.1f}", "y": f"{y:.1f}", "class": classes})
