"""Draw a bundle's quality against its latency as SVG, from `hwc inspect --format json` alone.

    tools/plot_bundle.py minilm:dev --bucket b1_s128 -o docs/images/minilm-quality-latency.svg

The greys and hues are chosen to be read on white and on dark pages; the background is transparent.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 430
LEFT, RIGHT, TOP, BOTTOM = 100, 36, 76, 64
INK, FAINT = "#7a828c", "#7a828c40"
HUES = ("#2f81f7", "#d9742b", "#2da160", "#a371f7", "#c9465f")
RADIUS_PER_ROOT_MIB = 0.95
MOST_NINES = 6
"""What is within 1e-6 of the float model is drawn as the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One variant at one shape."""

    target: str
    scheme: str
    p50_ms: float
    low_ms: float
    high_ms: float
    quality: float
    weights_mib: float
    valid: bool


def main() -> int:
    """Read the bundle, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", help="as hwc inspect takes it")
    parser.add_argument("--bucket", default="b1_s128", help="the shape whose latency is drawn")
    parser.add_argument("--metric", default="cosine_mean", help="the quality metric")
    parser.add_argument("--store", type=Path, help="folder of the bundle store")
    parser.add_argument("-o", "--output", type=Path, required=True, help="SVG file to write")
    arguments = parser.parse_args()
    serving = inspect(arguments.bundle, arguments.store)
    points = list(read_points(serving, arguments.bucket, arguments.metric))
    if not points:
        print(f"no measured variant of {arguments.bundle} has shape {arguments.bucket}", file=sys.stderr)
        return 2
    cpu = serving[0]["profile"].get("conditions", {}).get("cpu", "")
    threads = serving[0]["profile"].get("conditions", {}).get("threads", 1)
    subtitle = f"{cpu}, {threads} thread(s), shape {arguments.bucket}; area of a disc: bytes of weights"
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(draw(points, f"{arguments.bundle}: quality and latency", subtitle, arguments.metric))
    print(arguments.output)
    return 0


def inspect(bundle: str, store: Path | None) -> list[dict[str, Any]]:
    """Return serving.json of every variant."""
    argv = [str(Path(sys.executable).with_name("hwc")), *(["--store", str(store)] if store else []), "inspect", bundle]
    told = subprocess.run([*argv, "--format", "json"], check=True, capture_output=True, text=True).stdout
    found: list[dict[str, Any]] = json.loads(told)["serving"]
    return found


def read_points(serving: Iterable[dict[str, Any]], bucket: str, metric: str) -> Iterable[Point]:
    """Yield the variants that were measured at a shape and tell the metric."""
    for document in serving:
        target, _, scheme = document["identity"]["variant_id"].partition("/")
        quality = {row["metric"]: row["value"] for row in document.get("quality", [])}
        for cell in document.get("profile", {}).get("request", []):
            if cell["bucket"] == bucket and metric in quality:
                latency = cell["latency_ms"]
                yield Point(
                    target=target, scheme=scheme, p50_ms=latency["p50"], low_ms=latency["ci95"][0],
                    high_ms=latency["ci95"][1], quality=quality[metric],
                    weights_mib=document["resources"]["weights_bytes"] / 2**20, valid=cell["valid"],
                )


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Return round numbers that span an interval."""
    raw = (high - low) / count
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw)
    first = math.floor(low / step)
    return [round(index * step, 10) for index in range(first, math.ceil(high / step - 1e-9) + 1)]


def nines(quality: float) -> float:
    """Return how many nines a quality of at most 1 has: 0.9 has one, 0.999 three."""
    return -math.log10(max(1 - quality, 10.0**-MOST_NINES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The plotted range and its place on the page."""

    x: list[float]
    y: list[float]

    def at(self, ms: float, count: float) -> tuple[float, float]:
        """Return the place on the page of a latency and a number of nines."""
        across = (ms - self.x[0]) / (self.x[-1] - self.x[0])
        up = (count - self.y[0]) / (self.y[-1] - self.y[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


def draw(points: Sequence[Point], title: str, subtitle: str, metric: str) -> str:
    """Return the plot as SVG text."""
    worst = min(nines(point.quality) for point in points)
    frame = Frame(
        x=ticks(0, max(max(point.high_ms, point.p50_ms) for point in points) * 1.08, 8),
        y=[float(count) for count in range(math.floor(worst), MOST_NINES + 1)],
    )
    targets = list(dict.fromkeys(point.target for point in points))
    hue = {target: HUES[index % len(HUES)] for index, target in enumerate(targets)}
    alone = len(targets) == 1
    parts = [
        _text(LEFT, 26, title, size=16, weight=600),
        _text(LEFT, 46, subtitle, size=12),
        *_axes(frame, metric),
        *(line for point in sorted(points, key=lambda one: -one.weights_mib)
          for line in _disc(point, frame, hue[point.target], alone=alone)),
    ]
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="system-ui, sans-serif" role="img">\n<title>{escape(title)}</title>\n{body}\n</svg>\n'
    )


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start", weight: int = 400) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
        f'fill="{INK}">{escape(text)}</text>'
    )


def _axes(frame: Frame, metric: str) -> Iterable[str]:
    left, bottom = frame.at(frame.x[0], frame.y[0])
    right, top = frame.at(frame.x[-1], frame.y[-1])
    for value in frame.x:
        x, _ = frame.at(value, frame.y[0])
        yield f'<line x1="{x:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{bottom:.1f}" stroke="{FAINT}"/>'
        yield _text(x, bottom + 18, f"{value:g}", anchor="middle")
    for value in frame.y:
        quality = 1 - 10.0**-value
        _, y = frame.at(frame.x[0], value)
        yield f'<line x1="{left:.1f}" y1="{y:.1f}" x2="{right:.1f}" y2="{y:.1f}" stroke="{FAINT}"/>'
        label = f"{'≥ ' if value == MOST_NINES else ''}{quality:.{int(value)}f}"
        yield _text(left - 8, y + 4, label, anchor="end")
    yield _text((left + right) / 2, bottom + 42, "latency of one call, p50 in ms (bar: 95 % interval of the mean)",
                anchor="middle")
    named = metric.replace("_", " ").removesuffix(" mean")
    yield (
        f'<text transform="translate({left - 76:.1f} {(top + bottom) / 2:.1f}) rotate(-90)" font-size="12" '
        f'text-anchor="middle" fill="{INK}">{escape(named)} to the float model</text>'
    )


def _disc(point: Point, frame: Frame, hue: str, *, alone: bool) -> Iterable[str]:
    count = nines(point.quality)
    x, y = frame.at(point.p50_ms, count)
    low, _ = frame.at(point.low_ms, count)
    high, _ = frame.at(point.high_ms, count)
    radius = RADIUS_PER_ROOT_MIB * math.sqrt(point.weights_mib)
    fill = hue if point.valid else "none"
    yield (
        f'<line x1="{low:.1f}" y1="{y:.1f}" x2="{high:.1f}" y2="{y:.1f}" stroke="{hue}" stroke-width="2"/>\n'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{fill}" fill-opacity="0.75" stroke="{hue}" '
        f'stroke-width="1.5"/>'
    )
    name = point.scheme if alone else f"{point.target}/{point.scheme}"
    label = f"{name}, {point.weights_mib:.0f} MiB" + ("" if point.valid else " (noisy)")
    beyond = x + radius + 12 + 7 * len(label) > WIDTH - RIGHT
    yield _text(x - radius - 8 if beyond else x + radius + 8, y - radius * 0.6, label,
                anchor="end" if beyond else "start", weight=600)


if __name__ == "__main__":
    sys.exit(main())
