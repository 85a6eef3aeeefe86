"""The latency and energy of a whole call: its operations added up at each corner of the chip's figures; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hwc.predict.chip import CORNERS, Chip, Corner
from hwc.predict.efficiency import Calibration
from hwc.predict.operation import Operation
from hwc.predict.roofline import Bound, Cost, cost
from hwc.predict.traffic import SHARE
from hwc.spec.figure import Spread, covered
from hwc.spec.target import TargetSpec

Method = Literal["calibrated", "estimated", "assumed"]
EnergyMethod = Literal["by level", "at most: TDP × time"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """Messages between chips in one call."""

    count: int = 0
    each_bytes: float = 0.0
    chips: int = 1

    def seconds(self, chip: Chip) -> float:
        """Return the time of ring all-reduces: 2(N-1)/N of the bytes and 2(N-1) latencies each.

        Source: Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms, 2009.
        """
        if self.chips == 1 or chip.wire is None:
            return 0.0
        steps = 2 * (self.chips - 1)
        return self.count * steps * (self.each_bytes / self.chips / chip.wire.bytes_per_s + chip.wire.latency_s)

    @property
    def bytes_per_chip(self) -> float:
        """Bytes that each chip sends in one call."""
        return self.count * self.each_bytes * 2 * (self.chips - 1) / self.chips


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One of the operations that take most of the time."""

    name: str
    op: str
    count: int
    share: float
    bound: Bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """One call of a model."""

    seconds: Spread
    method: Method
    bound: Bound
    """What takes most of the time at base figures."""
    parts: Mapping[Bound, float]
    """Seconds at base figures, as if nothing overlapped; of a calibrated machine, at its measured peaks."""
    energy_j: Spread | None
    """Of all chips together."""
    energy_method: EnergyMethod | None
    top: tuple[Share, ...]
    widened: tuple[str, ...]
    """Types the chip has no rate for, and the rate that was taken."""
    link_bytes_per_chip: float


def predict(
    operations: Sequence[Operation], chips: Mapping[Corner, Chip], *, exchange: Exchange | None = None,
    assumed: bool = False, top: int = 5,
) -> Predicted:
    """Return the prediction of one call on the chips that ``exchange`` joins, each doing ``operations``.

    ``assumed``: a figure it rests on is an assumption. Raises UsageError where a type has no rate.
    """
    joined = exchange or Exchange()
    costs = {corner: _costs(operations, chips[corner], corner) for corner in CORNERS}
    seconds = {
        corner: sum(one.seconds for one in costs[corner]) + chips[corner].invocation_s + joined.seconds(chips[corner])
        for corner in CORNERS
    }
    base = costs["base"]
    parts: dict[Bound, float] = {
        "compute": sum(one.compute_s for one in base), "memory": sum(one.memory_s for one in base),
        "overhead": sum(one.overhead_s for one in base) + chips["base"].invocation_s,
        "link": joined.seconds(chips["base"]),
    }
    energy, how = _energy(costs, chips, seconds, joined)
    return Predicted(
        seconds=_spread(seconds), method="assumed" if assumed else "estimated",
        bound=max(parts, key=lambda name: parts[name]), parts=parts, energy_j=energy, energy_method=how,
        top=_top([(one.operation, one.seconds, one.bound) for one in base], top), widened=_widened(base),
        link_bytes_per_chip=joined.bytes_per_chip,
    )


def _costs(operations: Sequence[Operation], chip: Chip, corner: Corner) -> list[Cost]:
    resident = fits_on_chip(operations, chip)
    return [cost(operation, chip, corner, resident=resident) for operation in operations]


def fits_on_chip(operations: Sequence[Operation], chip: Chip) -> bool:
    """Tell whether every weight and cache of a call stays on the chip between calls."""
    held = sum(
        one.count * (one.weight_bytes if one.weights is not None else one.read_bytes)
        for one in operations
        if one.weights is not None or one.op in ("attention", "matmul")
    )
    return chip.inner is not None and held <= chip.inner.size_bytes * SHARE


def calibrated(
    operations: Sequence[Operation], calibration: Calibration, *, quantised: bool, tdp_w: Spread | None = None,
    top: int = 5,
) -> Predicted:
    """Return the prediction of one call on the machine that efficiencies were fitted on."""
    times = calibration.call_s(operations, quantised=quantised)
    parts: dict[Bound, float] = {
        "compute": sum(one.count * one.flops for one in operations) / calibration.flop_per_s,
        "memory": sum(one.count * one.traffic_bytes for one in operations) / calibration.bytes_per_s,
        "overhead": calibration.invocation_s + calibration.dispatch_s * sum(one.count for one in operations),
        "link": 0.0,
    }
    resident = calibration.resident(operations)
    rows = [
        (one, one.count * calibration.run_s(one, quantised=quantised, resident=resident).base,
         _nearer(one, calibration))
        for one in operations
    ]
    energy = None
    if tdp_w is not None:
        energy = Spread(low=tdp_w.low * times.low, base=tdp_w.base * times.base, high=tdp_w.high * times.high)
    return Predicted(
        seconds=Spread(low=times.low, base=times.base, high=times.high), method="calibrated",
        bound=max(parts, key=lambda name: parts[name]), parts=parts, energy_j=energy,
        energy_method="at most: TDP × time" if energy else None, top=_top(rows, top), widened=(),
        link_bytes_per_chip=0.0,
    )


def _nearer(operation: Operation, calibration: Calibration) -> Bound:
    compute = operation.flops / calibration.flop_per_s
    return "compute" if compute > operation.traffic_bytes / calibration.bytes_per_s else "memory"


def _spread(seconds: Mapping[Corner, float]) -> Spread:
    return Spread(low=seconds["best"], base=seconds["base"], high=seconds["worst"])


def _energy(
    costs: Mapping[Corner, Sequence[Cost]], chips: Mapping[Corner, Chip], seconds: Mapping[Corner, float],
    joined: Exchange,
) -> tuple[Spread | None, EnergyMethod | None]:
    """Return joules by level where the descriptor tells them, else the most that the chips' power allows."""
    if all(one.energy_j is not None for one in costs["base"]):
        found = {}
        for corner in CORNERS:
            chip = chips[corner]
            wire = (chip.wire.pj_per_byte or 0.0) * 1e-12 * joined.bytes_per_chip if chip.wire else 0.0
            moving = sum(one.energy_j or 0.0 for one in costs[corner])
            found[corner] = joined.chips * (moving + wire + (chip.idle_w or 0.0) * seconds[corner])
        return _spread(found), "by level"
    if chips["base"].tdp_w is None:
        return None, None
    return (
        _spread({corner: joined.chips * (chips[corner].tdp_w or 0.0) * seconds[corner] for corner in CORNERS}),
        "at most: TDP × time",
    )


def _top(rows: Sequence[tuple[Operation, float, Bound]], most: int) -> tuple[Share, ...]:
    whole = sum(seconds for _, seconds, _ in rows) or 1.0
    ordered = sorted(rows, key=lambda row: -row[1])[:most]
    return tuple(
        Share(name=one.name, op=one.op, count=one.count, share=seconds / whole, bound=bound)
        for one, seconds, bound in ordered
    )


def _widened(costs: Sequence[Cost]) -> tuple[str, ...]:
    found = Counter(
        f"{one.operation.op} {one.operation.activations} × {one.operation.weights or one.operation.activations} at the "
        f"rate of {one.peak.told}"
        for one in costs
        if one.widened and one.operation.flops
    )
    return tuple(sorted(found))


def assumed_figures(target: TargetSpec, *, joined: bool) -> tuple[str, ...]:
    """Return the keys of [sources] by which times rest on assumptions; those of links where chips are joined."""
    tables = ("hardware.units", "hardware.memories", "hardware.overheads", *(("hardware.links",) if joined else ()))
    kinds = {table: target.sources.get(covered(table, target.sources)) for table in tables}
    keys = {table for table, source in kinds.items() if source is not None and source.kind == "assumed"}
    keys |= {key for key, source in target.sources.items() if source.kind == "assumed" and key.startswith(tables)}
    return tuple(sorted(keys))
