"""A chip as prediction sees it: a descriptor's figures at one end of their spreads, absent ones left out by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hwc.errors import UsageError
from hwc.spec.figure import Figure, Spread, spread
from hwc.spec.hardware import BITS, Element, Hardware, Link, Memory, Unit
from hwc.spec.target import TargetSpec

Corner = Literal["best", "base", "worst"]
"""Every figure at its end that makes work quick, at its base, or at its end that makes it slow, all at once."""
CORNERS: tuple[Corner, ...] = ("best", "base", "worst")
LATER = ("hardware.overheads.dispatch_s", "hardware.overheads.invocation_s")
"""Figures without which an answer lacks a part: they count as zero, and the times are too short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """Matrix arrays that hold weights while inputs stream past."""

    count: int
    rows: int
    columns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """One rate of one unit."""

    unit: str
    matrix: bool
    activations: Element
    weights: Element
    accumulator: Element
    flop_per_s: float
    pj_per_flop: float | None
    array: Array | None

    @property
    def told(self) -> str:
        """Name the rate: ``tensor bfloat16 × int4``."""
        return f"{self.unit} {self.activations} × {self.weights}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One level of memory."""

    name: str
    size_bytes: float
    read_bytes_per_s: float | None
    write_bytes_per_s: float | None
    """None where reads and writes share ``read_bytes_per_s``."""
    read_pj_per_byte: float | None
    write_pj_per_byte: float | None

    def transfer_s(self, read_bytes: float, write_bytes: float) -> float:
        """Return the least time for some traffic; 0 where no bandwidth is told."""
        if self.read_bytes_per_s is None:
            return 0.0
        if self.write_bytes_per_s is None:
            return (read_bytes + write_bytes) / self.read_bytes_per_s
        return max(read_bytes / self.read_bytes_per_s, write_bytes / self.write_bytes_per_s)

    def energy_pj(self, read_bytes: float, write_bytes: float) -> float | None:
        """Return the energy of some traffic; writes cost as reads where only those are told."""
        if self.read_pj_per_byte is None:
            return None
        written = self.write_pj_per_byte if self.write_pj_per_byte is not None else self.read_pj_per_byte
        return read_bytes * self.read_pj_per_byte + write_bytes * written


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """The way to the next chip, in each direction."""

    bytes_per_s: float
    latency_s: float
    pj_per_byte: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """Everything prediction reads, as plain numbers."""

    peaks: tuple[Peak, ...]
    inner: Level | None
    """The largest level on the chip; None where the descriptor tells one level alone."""
    outer: Level
    dispatch_s: float
    invocation_s: float
    dma_setup_s: float
    transfers_overlap: bool
    wire: Wire | None
    tdp_w: float | None
    idle_w: float | None
    most_chips: int


def corners(target: TargetSpec) -> dict[Corner, Chip]:
    """Return the chip at each corner; raise UsageError naming the key of a figure without which there is no answer."""
    return {corner: _chip(target, corner) for corner in CORNERS}


def missing(target: TargetSpec, *, joined: bool) -> tuple[str, ...]:
    """Return the keys of undisclosed figures that an answer was given without; of links if chips are ``joined``."""
    hardware = target.hardware
    absent = [key for key in LATER if getattr(hardware.overheads, key.rpartition(".")[2]) is None]
    if joined:
        name, link = next((one for one in hardware.links.items() if one[1].peer == "chip"), ("", None))
        absent += [f"hardware.links.{name}.latency_s"] if link is not None and link.latency_s is None else []
    absent += [
        f"hardware.memories.{name}.read_pj_per_byte"
        for name, memory in hardware.by_level
        if memory.read_pj_per_byte is None
    ]
    if all(rate.pj_per_flop is None for unit in hardware.units.values() for rate in unit.rates):
        absent.append("hardware.units.*.rates.pj_per_flop")
    elif hardware.power.idle_w is None:
        absent.append("hardware.power.idle_w")
    if hardware.power.tdp_w is None:
        absent.append("hardware.power.tdp_w")
    return tuple(absent)


def _chip(target: TargetSpec, corner: Corner) -> Chip:
    hardware = target.hardware
    pick = _Pick(corner)
    inner, outer = _levels(target, pick)
    link, overheads = _joint(hardware), hardware.overheads
    wire = None
    if link is not None:
        wire = Wire(
            bytes_per_s=pick.much(link.bytes_per_s), latency_s=pick.little(link.latency_s) or 0.0,
            pj_per_byte=pick.little(link.pj_per_byte),
        )
    if not hardware.units:
        raise _absent(target, "hardware.units", "there is no arithmetic rate to predict by")
    return Chip(
        peaks=tuple(peak for name, unit in hardware.units.items() for peak in _peaks(name, unit, pick)),
        inner=inner, outer=outer, dispatch_s=pick.little(overheads.dispatch_s) or 0.0,
        invocation_s=pick.little(overheads.invocation_s) or 0.0, dma_setup_s=pick.little(overheads.dma_setup_s) or 0.0,
        transfers_overlap=overheads.transfers_overlap, wire=wire, tdp_w=pick.little(hardware.power.tdp_w),
        idle_w=pick.little(hardware.power.idle_w), most_chips=hardware.system.chips,
    )


def _absent(target: TargetSpec, key: str, why: str) -> UsageError:
    return UsageError(
        f"`{target.name}` does not tell `{key}`: {why}", where=f"targets/{target.name}.toml",
        hint="add it with its source, as { low, base, high } where it is assumed; where the hardware is at hand, "
        "`hwc targets calibrate` measures it",
    )


@dataclass(frozen=True, slots=True)
class _Pick:
    corner: Corner

    def much(self, figure: Figure) -> float:
        """Return a figure of which more is better at this corner."""
        return _end(spread(figure), {"best": "high", "base": "base", "worst": "low"}[self.corner])

    def little(self, figure: Figure | None) -> float | None:
        """Return a figure of which less is better at this corner."""
        if figure is None:
            return None
        return _end(spread(figure), {"best": "low", "base": "base", "worst": "high"}[self.corner])


def _end(figure: Spread, name: str) -> float:
    return {"low": figure.low, "base": figure.base, "high": figure.high}[name]


def _peaks(name: str, unit: Unit, pick: _Pick) -> list[Peak]:
    array = None
    if unit.rows is not None and unit.columns is not None:
        array = Array(count=unit.count, rows=unit.rows, columns=unit.columns)
    return [
        Peak(
            unit=name, matrix=unit.kind == "matrix", activations=rate.activations, weights=rate.weights,
            accumulator=rate.accumulator, flop_per_s=pick.much(rate.flop_per_s),
            pj_per_flop=pick.little(rate.pj_per_flop), array=array,
        )
        for rate in unit.rates
    ]


def _levels(target: TargetSpec, pick: _Pick) -> tuple[Level | None, Level]:
    levels = [_level(name, memory, pick) for name, memory in target.hardware.by_level]
    if not levels:
        raise _absent(target, "hardware.memories", "there is no bandwidth to predict by")
    outer = levels[-1]
    if outer.read_bytes_per_s is None:
        raise _absent(target, f"hardware.memories.{outer.name}.read_bytes_per_s", "every operand passes through it")
    return max(levels[:-1], key=lambda level: level.size_bytes, default=None), outer


def _level(name: str, memory: Memory, pick: _Pick) -> Level:
    return Level(
        name=name, size_bytes=pick.much(memory.size_bytes),
        read_bytes_per_s=pick.much(memory.read_bytes_per_s) if memory.read_bytes_per_s is not None else None,
        write_bytes_per_s=pick.much(memory.write_bytes_per_s) if memory.write_bytes_per_s is not None else None,
        read_pj_per_byte=pick.little(memory.read_pj_per_byte),
        write_pj_per_byte=pick.little(memory.write_pj_per_byte),
    )


def _joint(hardware: Hardware) -> Link | None:
    """Return the link to other chips."""
    return next((link for link in hardware.links.values() if link.peer == "chip"), None)


def rate_for(chip: Chip, matrix: bool, activations: Element, weights: Element | None) -> tuple[Peak, bool]:
    """Return the rate for operands, and whether it is the rate of wider types than theirs.

    Work on matrices takes a matrix unit where one has the type or a wider one, else a vector unit; other work takes
    vector units, where there are any. Of rates that fit, the narrowest is taken. Raises UsageError if none does.
    """
    asked = weights or activations
    kinds = (matrix, not matrix)
    for kind in kinds:
        fitting = [
            peak
            for peak in chip.peaks
            if peak.matrix == kind and holds(peak.activations, activations) and holds(peak.weights, asked)
        ]
        if fitting:
            best = min(fitting, key=lambda peak: (BITS[peak.activations], BITS[peak.weights], -peak.flop_per_s))
            return best, (best.activations, best.weights) != (activations, asked)
    raise UsageError(
        f"no unit has a rate for {activations} × {asked}, nor for wider types",
        where="[hardware.units]", hint="add a rate that holds them, or predict with narrower --activations",
    )


_FLOATS = ("float4_e2m1fn", "float8_e4m3fn", "float8_e5m2", "float16", "bfloat16", "float32", "float64")


def holds(wide: Element, narrow: Element) -> bool:
    """Tell whether every value of a type is kept, or meant to be, in another: floats hold integers of half their bits.

    Weights in int4 or int8 are dequantised to any float of 16 bits or more.
    """
    if wide == narrow:
        return True
    if wide not in _FLOATS:
        return narrow not in _FLOATS and BITS[wide] > BITS[narrow]
    if narrow in _FLOATS:
        return BITS[wide] > BITS[narrow]
    return BITS[wide] >= min(2 * BITS[narrow], 32)
