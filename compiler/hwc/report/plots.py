"""Quality against latency and cost as inline SVG, one picture for each shape."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hwc.bundle.serving_cells import cells_of
from hwc.bundle.serving_records import Quality
from hwc.report.html import Html, element, number, of_class
from hwc.report.records import VariantReport

WIDTH, HEIGHT = 520, 340
LEFT, RIGHT, TOP, BOTTOM = 100, 20, 18, 50
MAX_RADIUS, MIN_RADIUS, PLAIN_RADIUS = 20.0, 4.0, 7.0
HUES = 8
MOST_NINES = 6
"""What is within 1e-6 of the float model is drawn as the same."""
PREFERRED = ("cosine_mean", "top1", "nearest_neighbour")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One variant at one shape."""

    label: str
    hue: int
    """Which of the page's series colours; 0 for none."""
    p50_ms: float
    p95_ms: float
    quality: float
    quality_low: float
    quality_high: float
    usd_per_million: float | None
    unit: str
    """Of what: ``items`` or ``tokens``."""
    valid: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The plotted range: latency on a logarithmic axis, quality in the units of its axis."""

    low_ms: float
    high_ms: float
    floor: float
    ceiling: float
    nines: bool

    def x(self, ms: float) -> float:
        """Return the place of a latency."""
        across = math.log(ms / self.low_ms) / math.log(self.high_ms / self.low_ms)
        return LEFT + min(1.0, max(0.0, across)) * (WIDTH - LEFT - RIGHT)

    def y(self, quality: float) -> float:
        """Return the place of a quality."""
        value = nines(quality) if self.nines else quality
        up = (value - self.floor) / (self.ceiling - self.floor)
        return HEIGHT - BOTTOM - min(1.0, max(0.0, up)) * (HEIGHT - TOP - BOTTOM)


def metric_of(variants: Iterable[VariantReport]) -> str:
    """Return the quality metric to draw: the first usual one that any variant tells, else the first told; or none."""
    told = [row.metric for one in variants if one.verified and one.serving for row in one.serving.quality]
    for name in PREFERRED:
        if name in told:
            return name
    return next((name for name in told if not name.startswith(("parity", "max_abs"))), "")


def shapes_of(variants: Iterable[VariantReport]) -> list[str]:
    """Return every measured shape, in the order in which they are told."""
    cells = [cell for one in variants if one.verified and one.serving for cell in cells_of(one.serving)]
    return list(dict.fromkeys(cell.shape for cell in cells))


def hues_of(variants: Iterable[VariantReport]) -> dict[str, int]:
    """Give each target that is drawn a colour of its own; those past the last share none."""
    targets = list(dict.fromkeys(one.target for one in variants if one.verified))
    return {target: index + 1 if index < HUES else 0 for index, target in enumerate(targets)}


def points_of(variants: Sequence[VariantReport], shape: str, metric: str) -> list[Point]:
    """Return the verified variants that were measured at a shape and tell the metric."""
    hues = hues_of(variants)
    found = []
    for one in variants:
        if not one.verified or one.serving is None:
            continue
        quality = {row.metric: row for row in one.serving.quality}.get(metric)
        for cell in cells_of(one.serving):
            if cell.shape == shape and quality is not None:
                label = one.scheme if len(hues) == 1 else one.name
                low, high = _interval(quality)
                found.append(
                    Point(
                        label=label, hue=hues[one.target], p50_ms=cell.latency.p50, p95_ms=cell.latency.p95,
                        quality=quality.value, quality_low=low, quality_high=high, valid=cell.valid,
                        usd_per_million=cell.usd.base if cell.usd else None, unit=cell.unit,
                    )
                )
    return found


def _interval(row: Quality) -> tuple[float, float]:
    return row.ci95 if row.ci95 is not None else (row.value, row.value)


def nines(quality: float) -> float:
    """Return how many nines a quality of at most 1 has: 0.9 has one, 0.999 three."""
    return -math.log10(max(1 - quality, 10.0**-MOST_NINES))


def frame_of(points: Sequence[Point]) -> Frame:
    """Return a frame around some points; qualities up to 1 stand on an axis of nines."""
    low = min(point.p50_ms for point in points) / 1.6
    high = max(point.p95_ms for point in points) * 1.6
    as_nines = all(0 <= point.quality <= 1 for point in points)
    values = [nines(p.quality) if as_nines else p.quality for p in points]
    if as_nines:
        floor = min(math.floor(min(values)), MOST_NINES - 3)
        return Frame(low_ms=low, high_ms=high, floor=floor, ceiling=MOST_NINES + 0.6, nines=True)
    margin = (max(values) - min(values)) * 0.15 or abs(values[0]) * 0.1 or 1.0
    return Frame(low_ms=low, high_ms=high, floor=min(values) - margin, ceiling=max(values) + margin, nines=False)


def plot(points: Sequence[Point], shape: str, metric: str) -> Html:
    """Return the picture of one shape."""
    frame = frame_of(points)
    most_usd = max((point.usd_per_million or 0 for point in points), default=0)
    ordered = sorted(points, key=lambda point: -(point.usd_per_million or 0))
    discs = [part for point in ordered for part in _disc(point, frame, most_usd)]
    told = ", ".join(f"{p.label}: {number(p.p50_ms)} ms at {number(p.quality, 5)}" for p in points)
    title = element("title", f"Quality against latency at shape {shape}. {told}")
    return element(
        "svg", [title, *_axes(frame, metric), *discs, *_labels(ordered, frame, most_usd)],
        {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "class": "plot"},
    )


def log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers inside an interval, as many as fit; at most eight of them."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1,)):
        found = [f * 10.0**power for power in range(first, last + 1) for f in factors if low <= f * 10.0**power <= high]
        if len(found) <= 8:
            return found
    return found[:: math.ceil(len(found) / 8)]


def _axes(frame: Frame, metric: str) -> Iterable[Html]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for ms in log_ticks(frame.low_ms, frame.high_ms):
        yield _line(frame.x(ms), TOP, frame.x(ms), bottom, "grid")
        yield _text(frame.x(ms), bottom + 17, number(ms), "middle")
    for value, label in _levels(frame):
        yield _line(LEFT, frame.y(value), right, frame.y(value), "grid")
        yield _text(LEFT - 8, frame.y(value) + 4, label, "end")
    yield _line(LEFT, bottom, right, bottom, "axis")
    yield _text((LEFT + right) / 2, bottom + 38, "latency p50, ms, logarithmic · measured", "middle")
    yield _text(8, TOP - 5, metric.replace("_", " "), "start")


def _levels(frame: Frame) -> list[tuple[float, str]]:
    if not frame.nines:
        step = (frame.ceiling - frame.floor) / 5
        return [(value, number(value)) for value in (frame.floor + step * index for index in range(6))]
    counts = range(int(frame.floor), MOST_NINES + 1)
    return [(1 - 10.0**-n, f"{'≥ ' if n == MOST_NINES else ''}{1 - 10.0**-n:.{n}f}") for n in counts]


def _radius(point: Point, most_usd: float) -> float:
    if point.usd_per_million is None or most_usd <= 0:
        return PLAIN_RADIUS
    return max(MIN_RADIUS, MAX_RADIUS * math.sqrt(point.usd_per_million / most_usd))


def _disc(point: Point, frame: Frame, most_usd: float) -> Iterable[Html]:
    x, y = frame.x(point.p50_ms), frame.y(point.quality)
    hue = f"s{point.hue}" if point.usd_per_million is not None else "s0"
    yield _line(x, y, frame.x(point.p95_ms), y, f"whisker {hue}")
    yield _line(x, frame.y(point.quality_low), x, frame.y(point.quality_high), f"whisker {hue}")
    price = point.usd_per_million
    usd = "no price" if price is None else f"${number(price)} per million {point.unit}, assumed"
    latency = f"p50 {number(point.p50_ms)} ms, p95 {number(point.p95_ms)} ms"
    told = f"{point.label}: {latency}, {number(point.quality, 5)}, {usd}"
    yield element(
        "circle", element("title", told + ("" if point.valid else "; noisy")),
        {
            "cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": f"{_radius(point, most_usd):.1f}",
            "class": f"disc {hue}{'' if point.valid else ' noisy'}",
        },
    )


def _labels(points: Sequence[Point], frame: Frame, most_usd: float) -> Iterable[Html]:
    """Write each name beside its disc, moved down where it would cover another."""
    taken: list[tuple[float, float, float]] = []
    for point in sorted(points, key=lambda one: (frame.y(one.quality), frame.x(one.p50_ms))):
        name = (point.label if len(point.label) <= 34 else point.label[:33] + "…") + ("" if point.valid else " (noisy)")
        radius, width = _radius(point, most_usd), 6.6 * len(name)
        x = frame.x(point.p50_ms) + radius + 5
        left = x + width > WIDTH - 4
        start = max(LEFT + 2, frame.x(point.p50_ms) - radius - 5 - width) if left else x
        y = frame.y(point.quality) - 6
        while any(abs(y - other) < 13 and start < end and begin < start + width for begin, end, other in taken):
            y += 13
        taken.append((start, start + width, y))
        yield _text(start + width if left else start, y, name, "end" if left else "start", "label")


def _line(x1: float, y1: float, x2: float, y2: float, classes: str) -> Html:
    places = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return element("line", "", {**{key: f"{value:.1f}" for key, value in places.items()}, "class": classes})


def _text(x: float, y: float, text: str, anchor: str, classes: str = "tick") -> Html:
    return element("text", text, {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "class": classes})


def legend(variants: Sequence[VariantReport]) -> Html:
    """Return what the colours and marks mean."""
    hues = hues_of(variants).items()
    keys = [of_class("span", "key", [of_class("span", f"swatch s{hue}"), target]) for target, hue in hues]
    told = (
        "Disc area: $ per million items or tokens (assumed prices; grey: no price). "
        "Bars: p50 to p95, and the quality's 95 % interval. Dashed: a noisy cell."
    )
    return of_class("p", "legend", [*keys, of_class("span", "note", told)])
