"""Physical plausibility of a descriptor's arithmetic: magnitudes, peak rates, energy, roofline; pure.

A figure with a spread contradicts another only where no values within both spreads agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hwc.spec.figure import leaves, spread, told
from hwc.spec.finding import Finding, fails, idle, ok, warning
from hwc.spec.hardware import BITS, ROUNDED, Rate, Unit
from hwc.spec.target import TargetSpec

RIDGE_FLOP_PER_BYTE = (0.5, 5_000.0)
"""A B200 in 4-bit floating point has 1,125, a server's CPU 5 to 20; outside it, suspect a slip of units."""
VECTOR_PIPES = 8
"""Vector instructions that a core issues in one cycle at most; the widest known ones issue four to six."""
MAGNITUDES: dict[str, tuple[float, float]] = {
    "clock_hz": (1e6, 1e10), "flop_per_s": (1e6, 1e18), "bytes_per_s": (1e6, 1e16), "transfers_per_s": (1e7, 1e12),
    "pj_per_flop": (1e-4, 1e4), "pj_per_byte": (1e-2, 1e5), "size_bytes": (256, 1e14), "latency_s": (1e-10, 1e-1),
    "dispatch_s": (1e-9, 1e-1), "invocation_s": (1e-9, 1.0), "dma_setup_s": (1e-10, 1e-2), "tdp_w": (1e-3, 1e5),
    "idle_w": (1e-4, 1e4),
}
"""Ending of a key to the least and most that any such device has; wide, to catch MHz written for Hz and no more."""


def magnitudes(target: TargetSpec) -> Iterator[Finding]:
    """Find figures that look as if written in another unit than their key's."""
    found = [(key, figure, _range(key)) for key, figure in leaves(target.hardware, "hardware")]
    if not found:
        yield idle("the descriptor holds no figures")
        return
    odd = [
        warning(key, f"{told(figure)} is outside {low:g} to {high:g}: is it in the unit that the key names?")
        for key, figure, (low, high) in found
        if not low <= spread(figure).low <= spread(figure).high <= high
    ]
    yield from odd or [ok(f"all {len(found)} figures are of usual magnitude")]


def _range(key: str) -> tuple[float, float]:
    names = (ending for ending in MAGNITUDES if re.search(rf"(^|[._]){ending}$", key))
    return MAGNITUDES.get(next(names, ""), (0.0, float("inf")))


def peak_rates(target: TargetSpec) -> Iterator[Finding]:
    """Compare peak rates with what arrays and vector registers can do in a cycle."""
    compared = False
    for name, unit in target.hardware.units.items():
        for rate in unit.rates:
            most, how = _most_flop_per_s(unit, rate, target)
            if most is None:
                continue
            compared = True
            key, rated = f"hardware.units.{name}.rates", spread(rate.flop_per_s)
            text = f"in {rate.activations} {told(rate.flop_per_s)} flop/s; {how} do {most:.4g} at most"
            if rated.low > most * ROUNDED:
                yield fails(key, text)
            elif rated.high > most * ROUNDED:
                yield warning(key, text)
            else:
                yield ok(text, key)
    if not compared:
        yield idle("no unit tells its rows, columns and clock, and no core its vector length and clock")


def _most_flop_per_s(unit: Unit, rate: Rate, target: TargetSpec) -> tuple[float | None, str]:
    if unit.rows:
        return unit.most_flop_per_s(rate.activations), f"{unit.count} × {unit.rows}×{unit.columns} cells"
    core = target.hardware.core
    if unit.kind == "vector" and core is not None and core.vlen_bits and core.clock_hz is not None:
        lanes = core.vlen_bits / BITS[rate.activations]
        most = 2 * core.count * spread(core.clock_hz).high * lanes * VECTOR_PIPES
        return most, f"{core.count} cores of {VECTOR_PIPES} pipes of {core.vlen_bits} bits"
    return None, ""


def power(target: TargetSpec) -> Iterator[Finding]:
    """Hold what the busiest unit and the memories draw at their peaks, and the idle power, to the design power.

    A chip that cannot run one unit at its peak within its power does not have that peak. Both units at once may be too
    much for it: that is told as a warning.
    """
    tdp = target.hardware.power.tdp_w
    units = {name: unit for name, unit in target.hardware.units.items() if any(rate.pj_per_flop for rate in unit.rates)}
    if tdp is None or not units:
        yield idle("`hardware.power.tdp_w`, or energy per operation, is undisclosed")
        return
    low, base = _peak_w(target, "low"), _peak_w(target, "base")
    shown = ", ".join(f"{name} {watts:.3g} W" for name, watts in base.items())
    chief = max(base, key=lambda name: base[name] if name in units else 0.0)
    rest = sum(watts for name, watts in low.items() if name not in units)
    if low[chief] + rest > spread(tdp).high:
        reason = f"{chief} and the memories draw at least {low[chief] + rest:.4g} W at their peaks"
        yield fails(f"hardware.units.{chief}.rates", f"{reason}; `hardware.power.tdp_w` is {told(tdp)}")
    elif sum(base.values()) > spread(tdp).base:
        yield warning("hardware.power.tdp_w", f"{told(tdp)} W do not sustain all peaks at once: {shown}")
    else:
        yield ok(f"peaks together draw {sum(base.values()):.3g} W of {told(tdp)} W: {shown}", "hardware.power.tdp_w")


def _peak_w(target: TargetSpec, end: str) -> dict[str, float]:
    """Return what each part draws at its peak, by the low or base ends of the spreads."""
    hardware, watts = target.hardware, {}
    for name, unit in hardware.units.items():
        drawn = [
            getattr(spread(rate.flop_per_s), end) * getattr(spread(rate.pj_per_flop), end) * 1e-12
            for rate in unit.rates if rate.pj_per_flop is not None
        ]
        if drawn:
            watts[name] = max(drawn)
    for name, memory in hardware.memories.items():
        if memory.read_bytes_per_s is not None and memory.read_pj_per_byte is not None:
            rate, energy = spread(memory.read_bytes_per_s), spread(memory.read_pj_per_byte)
            watts[name] = getattr(rate, end) * getattr(energy, end) * 1e-12
    if hardware.power.idle_w is not None:
        watts["idle"] = getattr(spread(hardware.power.idle_w), end)
    return watts


def ridge(target: TargetSpec) -> Iterator[Finding]:
    """Place each roofline's ridge: the operations per byte from which on arithmetic, not memory, bounds."""
    levels = target.hardware.by_level
    bandwidth = levels[-1][1].read_bytes_per_s if levels else None
    if bandwidth is None or not target.hardware.units:
        yield idle("no unit's rate, or not the outermost memory's bandwidth, is told")
        return
    least, most = RIDGE_FLOP_PER_BYTE
    for name, unit in target.hardware.units.items():
        highest = max(unit.rates, key=lambda rate: spread(rate.flop_per_s).base)
        at = spread(highest.flop_per_s).base / spread(bandwidth).base
        text = f"in {highest.activations} {at:.4g} flop per byte of {levels[-1][0]}"
        if at > most or (at < least and unit.kind == "matrix"):  # a vector unit beside an array may be small
            yield warning(f"hardware.units.{name}.rates", f"{text}: outside {least:g} to {most:g}, suspect a unit")
        else:
            yield ok(text, f"hardware.units.{name}.rates")
