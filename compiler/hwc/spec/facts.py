"""A descriptor's figures as people read them: each with its unit, its spread, and where it comes from; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hwc.spec.figure import Spread, covered, leaves, spread
from hwc.spec.target import SourceKind, TargetSpec

UNITS: dict[str, str] = {
    "clock_hz": "Hz", "flop_per_s": "flop/s", "bytes_per_s": "B/s", "transfers_per_s": "bit/s",
    "pj_per_flop": "pJ/flop", "pj_per_byte": "pJ/B", "size_bytes": "B", "_s": "s", "_w": "W", "_bits": "bit",
}
"""Ending of a key to the unit of its figure; the first that fits. Counts have none."""
_PREFIXES = (
    (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"),
)
_SCALED = {"Hz", "flop/s", "B/s", "bit/s", "B", "s"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One figure."""

    key: str
    """Dotted key; a rate's tells its types: ``hardware.units.npu.rates[int8 × int8 → int32].flop_per_s``."""
    unit: str
    low: float
    base: float
    high: float
    source: SourceKind
    source_key: str
    """Entry of [sources] that tells where it comes from."""
    where: str
    as_of: str

    @property
    def exact(self) -> bool:
        """Whether it is one number."""
        return self.low == self.high

    def told(self) -> str:
        """Write it with its unit and spread: ``39.3 Tflop/s``, ``7.7 TB/s (4 to 10)``."""
        scale, prefix = _prefix(self.base) if self.unit in _SCALED else (1.0, "")
        base, low, high = (f"{value / scale:.4g}" for value in (self.base, self.low, self.high))
        text = f"{base} {prefix}{self.unit}".rstrip()
        return text if self.exact else f"{text} ({low} to {high})"


def facts(target: TargetSpec) -> tuple[Fact, ...]:
    """Return every figure of a descriptor, in its order."""
    return tuple(_fact(target, key, figure) for key, figure in _figures(target))


def kinds(found: Sequence[Fact]) -> dict[str, int]:
    """Count figures by the kind of their source."""
    counted: dict[str, int] = {}
    for fact in found:
        counted[fact.source] = counted.get(fact.source, 0) + 1
    return dict(sorted(counted.items(), key=lambda entry: (-entry[1], entry[0])))


def _figures(target: TargetSpec) -> Iterator[tuple[str, float | Spread]]:
    for key, figure in leaves(target.hardware, "hardware"):
        if ".rates." not in key:
            yield key, figure
    for name, unit in target.hardware.units.items():
        for rate in unit.rates:
            types = f"{rate.activations} × {rate.weights} → {rate.accumulator}"
            for key, figure in leaves(rate, f"hardware.units.{name}.rates[{types}]"):
                yield key, figure


def _fact(target: TargetSpec, key: str, figure: float | Spread) -> Fact:
    source_key = covered(_written(key), target.sources)
    source = target.sources[source_key]
    unit = next((unit for ending, unit in UNITS.items() if key.endswith(ending)), "")
    told = spread(figure)
    return Fact(
        key=key, unit=unit, low=told.low, base=told.base, high=told.high, source=source.kind,
        source_key=source_key, where=source.where, as_of=source.as_of,
    )


def _written(key: str) -> str:
    before, bracket, after = key.partition("[")
    return before + after.partition("]")[2] if bracket else key


def _prefix(value: float) -> tuple[float, str]:
    return next(((scale, prefix) for scale, prefix in _PREFIXES if value >= scale), _PREFIXES[-1])
