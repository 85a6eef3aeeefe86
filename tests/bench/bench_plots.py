"""The bench's figures as pictures: panels by case, lines by contestant, columns by threads."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fixed import READ

from hwc.report.html import Html, element, number
from hwc.report.plots import log_ticks

LEFT, WIDTH, GAP, LINE, HEAD = 340, 330, 40, 17, 34
APART = 44.0
"""Between the numbers of an axis."""
OWN, PEER, WRONG, SOFT = "#2a78d6", "#eb6834", "#c02020", "#7a828c"
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A logarithmic axis of milliseconds."""

    low: float
    high: float
    left: float

    def x(self, ms: float) -> float:
        """Return the place of a time."""
        return self.left + WIDTH * math.log(ms / self.low) / math.log(self.high / self.low)


def pictures(parts: Mapping[str, Mapping[str, Row]]) -> dict[str, str]:
    """Return an SVG document for every part that has rows, by the part's name."""
    drawn = {name: picture(name, sections) for name, sections in parts.items()}
    return {name: text for name, text in drawn.items() if text}


def picture(name: str, sections: Mapping[str, Row]) -> str:
    """Return one part's picture; empty if it has no rows."""
    rows = [row for section in sections.values() for row in section["rows"] if row["contestant"] != READ]
    columns = sorted({row["threads"] for row in rows})
    parts: list[Html] = [element("title", f"{name}: milliseconds a call, logarithmic")]
    parts += [
        _text(_left(index), 16, f"{threads} thread{'s' if threads > 1 else ''}", weight="600")
        for index, threads in enumerate(columns)
    ]
    top = 30.0
    for case in dict.fromkeys(row["case"] for row in rows):
        shown = [row for row in rows if row["case"] == case]
        parts += _panel(case, shown, columns, top)
        top += HEAD + LINE * len({row["contestant"] for row in shown}) + 12
    if not rows:
        return ""
    legend = "ms; dot: median; line: tenth to ninetieth percentile; tick: least. Blue: hwc. Red ring: answers wrongly"
    parts.append(_text(8, top + 10, legend))
    width = _left(len(columns))
    attributes = {
        "xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width:.0f} {top + 24:.0f}", "role": "img",
        "font-family": "system-ui, sans-serif", "font-size": "12", "fill": SOFT,
    }
    return element("svg", parts, attributes) + "\n"


def _left(index: int) -> float:
    return LEFT + index * (WIDTH + GAP)


def _panel(case: str, rows: Sequence[Row], columns: Sequence[int], top: float) -> Iterator[Html]:
    names = list(dict.fromkeys(row["contestant"] for row in sorted(rows, key=lambda row: row["ms"]["median"])))
    low = min(row["ms"]["min"] for row in rows) / 1.15
    high = max(max(row["ms"]["p90"], row["ms"]["median"]) for row in rows) * 1.15
    yield _text(8, top + 12, case, weight="600")
    bottom = top + HEAD + LINE * len(names)
    for index in range(len(columns)):
        span = Span(low=low, high=high, left=_left(index))
        told = -APART
        for tick in log_ticks(low, high):
            yield _line(span.x(tick), top + 18, span.x(tick), bottom, f"{SOFT}33")
            if span.x(tick) - told >= APART:
                told = span.x(tick)
                yield _text(told, top + 14, number(tick), anchor="middle")
    for place, name in enumerate(names):
        y = top + HEAD + LINE * place
        yield _text(LEFT - 8, y + 4, name, anchor="end")
        for row in rows:
            if row["contestant"] == name:
                span = Span(low=low, high=high, left=_left(columns.index(row["threads"])))
                yield from _mark(row, span, y)


def _mark(row: Row, span: Span, y: float) -> Iterator[Html]:
    colour, ms = OWN if row["own"] else PEER, row["ms"]
    yield _line(span.x(ms["p10"]), y, span.x(ms["p90"]), y, colour)
    yield _line(span.x(ms["min"]), y - 4, span.x(ms["min"]), y + 4, colour)
    wrong = row.get("check") is not None and not row["check"]["right"]
    told = f"{row['contestant']}, {row['case']}: {ms['median']:.4g} ms, least {ms['min']:.4g}{', wrong' * wrong}"
    look = {"fill": "#ffffff", "stroke": WRONG, "stroke-width": "2"} if wrong else {"fill": colour}
    place = {"cx": f"{span.x(ms['median']):.1f}", "cy": f"{y:.1f}", "r": "4"}
    yield element("circle", element("title", told), {**place, **look})


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> Html:
    places = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return element(
        "line", "", {**{key: f"{value:.1f}" for key, value in places.items()}, "stroke": colour, "stroke-width": "1.5"}
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "400") -> Html:
    return element("text", text, {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "font-weight": weight})
