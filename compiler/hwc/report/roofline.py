"""Where a function spends its time, dispatch by dispatch, against the roofline of one core."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hwc.predict.dispatch_names import Work
from hwc.report.html import Column, Html, details, element, number, of_class, table
from hwc.report.records import Dispatch, Peaks, Profiled, VariantReport

WIDTH, ROW_HEIGHT = 170, 16
MOST_ROWS = 24
"""Dispatches of a function that are drawn; the rest is told as a sum."""


def section(variants: Sequence[VariantReport]) -> Iterable[Html]:
    """Yield the breakdown of every verified variant, or why there is none."""
    opened = False
    for one in variants:
        if one.profiled is None:
            why = "it has no profile" if one.verified else "it is unverified: it never ran on the device it is for"
            yield element("p", [element("strong", one.name), f": no times, as {why}."], {"class": "note"})
        elif not one.profiled.functions:
            told = f": no dispatches ({one.profiled.no_dispatches})."
            yield element("p", [element("strong", one.name), told], {"class": "note"})
        else:
            summary = element("span", [element("strong", one.name), " ", _peaks_line(one.profiled)])
            yield details(summary, list(_functions(one.name, one.profiled)), is_open=not opened)
            opened = True


def _peaks_line(profiled: Profiled) -> Html:
    if profiled.peaks is None:
        return of_class("span", "note", f"no roofline: {profiled.no_peaks}")
    peaks = profiled.peaks
    return of_class(
        "span", "note",
        f"one core at best: {number(peaks.gflop_per_s)} GFLOP/s in float32, "
        f"{number(peaks.read_bytes_per_s / 1e9)} GB/s from memory · measured ({peaks.how})",
    )


def _functions(name: str, profiled: Profiled) -> Iterable[Html]:
    for function, rows in profiled.functions.items():
        drawn = rows[:MOST_ROWS]
        yield table(f"{name}, {function}: time by dispatch", _COLUMNS, list(_rows(drawn, profiled.peaks)))
        told = [_summary(rows, profiled.peaks)]
        if rest := rows[MOST_ROWS:]:
            told.append(f"{len(rest)} more take {sum(row.share for row in rest):.1%} of the time.")
        if unknown := sum(row.work is None for row in rows):
            told.append(f"The names of {unknown} of {len(rows)} tell no work, so they have no estimate.")
        yield of_class("p", "note", " ".join(filter(None, told)))


_COLUMNS = (
    Column(title="dispatch", number=False),
    Column(title="best time and roofline", unit="bar measured · mark estimated", number=False),
    Column(title="share", unit="% · measured"),
    Column(title="best", unit="µs · measured"),
    Column(title="roofline", unit="µs · estimated"),
    Column(title="mean", unit="µs · measured"),
    Column(title="reached", unit="GFLOP/s · estimated"),
    Column(title="bound by", unit="estimated", number=False),
    Column(title="runs", unit="measured"),
)


def _rows(rows: Sequence[Dispatch], peaks: Peaks | None) -> Iterable[list[str | Html]]:
    bounds = [peaks.bound_us(row.work) if peaks and row.work else None for row in rows]
    longest = max((max(row.best_us, bound or 0.0) for row, bound in zip(rows, bounds, strict=True)), default=1.0)
    for row, bound in zip(rows, bounds, strict=True):
        reached = row.work.flops / row.best_us / 1e3 if row.work and row.work.flops else None
        yield [
            of_class("code", "name", row.name.removeprefix("async_dispatch_")),
            _bar(row, bound, longest),
            f"{row.share * 100:.1f}",
            number(row.best_us),
            number(bound),
            number(row.mean_us),
            number(reached),
            _bound_by(row.work, peaks),
            number(row.count),
        ]


def _bound_by(work: Work | None, peaks: Peaks | None) -> str:
    if work is None:
        return "not known"
    if peaks is None:
        return "–"
    computing = work.flops / (peaks.gflop_per_s * 1e9) >= work.traffic_bytes / peaks.read_bytes_per_s
    return "arithmetic" if computing else "memory"


def _bar(row: Dispatch, bound: float | None, longest: float) -> Html:
    scale = (WIDTH - 4) / longest
    best, mean = row.best_us * scale, min(row.mean_us * scale, WIDTH - 1)
    parts = [
        element("title", f"best {number(row.best_us)} µs, roofline {number(bound)} µs"),
        _rect(0, best, "bar known" if bound is not None else "bar"),
    ]
    if mean > best:
        parts.append(element("line", "", _level(best, mean)))
    if bound is not None:
        parts.append(element("rect", "", {**_box(max(0, bound * scale - 1), 2.5, 0, ROW_HEIGHT), "class": "mark"}))
    return element(
        "svg", parts,
        {"viewBox": f"0 0 {WIDTH} {ROW_HEIGHT}", "width": str(WIDTH), "height": str(ROW_HEIGHT), "role": "img"},
    )


def _rect(x: float, width: float, classes: str) -> Html:
    return element("rect", "", {**_box(x, max(width, 1), 3, ROW_HEIGHT - 6), "rx": "2", "class": classes})


def _box(x: float, width: float, y: float, height: float) -> dict[str, str]:
    return {"x": f"{x:.1f}", "y": f"{y:.1f}", "width": f"{width:.1f}", "height": f"{height:.1f}"}


def _level(x1: float, x2: float) -> dict[str, str]:
    y = f"{ROW_HEIGHT / 2:.1f}"
    return {"x1": f"{x1:.1f}", "x2": f"{x2:.1f}", "y1": y, "y2": y, "class": "whisker s0"}


def _summary(rows: Sequence[Dispatch], peaks: Peaks | None) -> str:
    """Say how near the dispatches with an estimate come to the roofline as a whole, weighed by how often they ran."""
    known = [row for row in rows if row.work is not None]
    if peaks is None or not known:
        return ""
    best = sum(row.best_us * row.count for row in known)
    bound = sum(peaks.bound_us(row.work) * row.count for row in known if row.work is not None)
    return (
        f"The roofline is {bound / best:.0%} of the best time of the dispatches whose work is estimated. "
        "More than 100 % means that operands came from the caches."
    )
