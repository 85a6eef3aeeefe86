"""Physical plausibility of memories and links: their order, their buses, and what joins chips; pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from hwc.spec.figure import Figure, spread, told
from hwc.spec.finding import Finding, fails, idle, ok, warning
from hwc.spec.hardware import BITS, ROUNDED, Memory
from hwc.spec.target import TargetSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """A figure of two memories, of which the nearer one's has to be the smaller, or the larger."""

    key: str
    near: Figure | None
    far: Figure | None
    nearer_is_smaller: bool
    wrong: str


def memory_order(target: TargetSpec) -> Iterator[Finding]:
    """Hold memories nearer to the units to be faster, smaller and cheaper to read than those further out."""
    levels = target.hardware.by_level
    if len(levels) < 2:
        yield idle("fewer than two memories are described")
        return
    for (name, near), (other, far) in pairwise(levels):
        for order in _orders(near, far):
            yield _ordered(f"hardware.memories.{name}.{order.key}", f"{name} ({other} is further out)", order)


def _orders(near: Memory, far: Memory) -> tuple[_Order, ...]:
    return (
        _Order(key="read_bytes_per_s", near=near.read_bytes_per_s, far=far.read_bytes_per_s, nearer_is_smaller=False,
               wrong="slower"),
        _Order(key="size_bytes", near=near.size_bytes, far=far.size_bytes, nearer_is_smaller=True, wrong="larger"),
        _Order(key="read_pj_per_byte", near=near.read_pj_per_byte, far=far.read_pj_per_byte, nearer_is_smaller=True,
               wrong="dearer to read"),
    )


def _ordered(key: str, names: str, order: _Order) -> Finding:
    if order.near is None or order.far is None:
        return Finding(verdict="not applicable", key=key, reason="undisclosed, here or one level further out")
    small, large = (order.near, order.far) if order.nearer_is_smaller else (order.far, order.near)
    figures = f"{told(order.near)} against {told(order.far)}"
    if spread(small).low > spread(large).high:
        return fails(key, f"{names} is {order.wrong}: {figures}")
    if spread(small).base > spread(large).base:
        return warning(key, f"{names} may be {order.wrong}: {figures}")
    return ok(f"in order: {figures}", key)


def bandwidth_sources(target: TargetSpec) -> Iterator[Finding]:
    """Hold each memory's bandwidth to its bus, and to the link it is reached through."""
    compared = False
    for name, memory in target.hardware.memories.items():
        key, rate = f"hardware.memories.{name}.read_bytes_per_s", memory.read_bytes_per_s
        for bound, what in _bounds(memory, target):
            if rate is None:
                continue
            compared = True
            text = f"{name} gives {told(rate)} bytes/s; {what} carries {bound:.4g} at most"
            yield fails(key, text) if spread(rate).low > bound * ROUNDED else ok(text, key)
    if not compared:
        yield idle("no memory tells its bus (`bus_bits`, `bus_transfers_per_s`) or a link it is reached `via`")


def _bounds(memory: Memory, target: TargetSpec) -> Iterator[tuple[float, str]]:
    if memory.bus_bits is not None and memory.bus_transfers_per_s is not None:
        yield memory.bus_bits * spread(memory.bus_transfers_per_s).high / 8, f"a bus of {memory.bus_bits} bits"
    if memory.via:
        yield spread(target.hardware.links[memory.via].bytes_per_s).high, f"link `{memory.via}`"


def links(target: TargetSpec) -> Iterator[Finding]:
    """Hold several chips to be joined by a link, and links to be fed by a memory."""
    hardware = target.hardware
    joined = [name for name, link in hardware.links.items() if link.peer == "chip"]
    if hardware.system.chips > 1 and not joined:
        yield fails("hardware.system.chips", f"{hardware.system.chips} chips, but no link has `peer = \"chip\"`")
    elif not hardware.links:
        yield idle("no links are described")
    rates = [spread(memory.read_bytes_per_s) for memory in hardware.memories.values() if memory.read_bytes_per_s]
    fastest = max((rate.high for rate in rates), default=None)
    for name, link in hardware.links.items():
        key, text = f"hardware.links.{name}.bytes_per_s", f"to a {link.peer} {told(link.bytes_per_s)} bytes/s"
        if fastest is None:
            yield ok(f"{text}; no memory's bandwidth to compare with", key)
        elif spread(link.bytes_per_s).low > fastest:
            yield fails(key, f"{text}: more than any memory of the chip delivers ({fastest:.4g})")
        else:
            yield ok(text, key)


def tiles(target: TargetSpec) -> Iterator[Finding]:
    """Hold the tiles of a matmul, and the weights an array holds, to the memory nearest to the units."""
    levels = target.hardware.by_level
    if not levels:
        yield idle("no memory is described")
        return
    name, nearest = levels[0]
    room = spread(nearest.size_bytes).high
    wanted = list(_tile_bytes(target))
    if not wanted:
        yield idle("no tile is given, and no unit tells its rows and columns")
    for key, count, what in wanted:
        text = f"{what} of {count} bytes, {name} holds {room:.6g}"
        yield fails(key, f"{text}: it does not fit") if count > room else ok(text, key)


def _tile_bytes(target: TargetSpec) -> Iterator[tuple[str, int, str]]:
    if target.lowering is not None and target.lowering.matmul_tile_bytes is not None:
        yield "lowering.matmul_tile_bytes", target.lowering.matmul_tile_bytes, "a tile"
    for name, unit in target.hardware.units.items():
        if unit.rows is not None and unit.columns is not None:
            widest = max(BITS[rate.weights] for rate in unit.rates)
            yield f"hardware.units.{name}.rows", unit.rows * unit.columns * widest // 8, "the array's weights"
