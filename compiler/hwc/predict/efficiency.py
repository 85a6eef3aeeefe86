"""What a machine reaches of its peaks, by kind of work: fitted to measurements, read from ``calibration/NAME.json``.

The time of one run of an operation is dispatch_s + (arithmetic² + traffic²)^½ · (1 + half.points / points), where

    arithmetic = flops / (flop_per_s · compute) · Π (1 + half.x / x) · (128 / a)^alignment   over x = m, n, k
    traffic    = bytes / (bytes_per_s · memory)

and a is the largest power of two in k, at most 128. An extent equal to ``half.x`` reaches half of what a long one
does; a k of few powers of two fills vectors badly. The root of squares lets arithmetic hide most of the traffic and
not all of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from hwc.errors import IntegrityError, UsageError
from hwc.predict.operation import Operation
from hwc.spec.hardware import Element
from hwc.spec.legality import OpClass

FORMAT = 1
MAX_FILE_BYTES = 4 << 20


ALIGNED = 128
_CACHE_SHARE, _LARGE_SHARE = 0.5, 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Extents:
    """Extents at which half of a class's speed is reached; 0: speed does not depend on it."""

    m: float = 0.0
    n: float = 0.0
    k: float = 0.0
    points: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """What one kind of work reaches."""

    op: OpClass
    weights: Element | None
    """Type in which stored weights lie in memory; None: of work that reads none, or of any."""
    quantised: bool
    """Whether of a model with quantised weights: such models are compiled at another level."""
    resident: bool
    """Whether what it reads is in the last cache from the call before."""
    large: bool = False
    """Whether its weights alone take a good part of that cache, as a head over a vocabulary does."""
    batched: bool = False
    """Whether it is many products at once, as attention's are."""
    compute: float
    """Share of peak arithmetic that long extents reach."""
    memory: float
    """Share of memory bandwidth; above 1 where caches serve what the bytes count."""
    half: Extents = field(default_factory=Extents)
    alignment: float = 0.0
    """Power by which a k that is no multiple of 128 slows arithmetic."""
    low: float
    """Tenth percentile of measured ÷ predicted on shapes that were held out."""
    high: float
    """Ninetieth percentile of the same."""
    samples: int

    def told(self) -> str:
        """Name the class in a few words."""
        stored = f"{self.weights} weights" if self.weights else "no weights"
        told = {"batched": self.batched, "large": self.large, "in cache": self.resident}
        more = "".join(f", {name}" for name, holds in told.items() if holds)
        return f"{self.op}, {stored}, {'quantised' if self.quantised else 'float'} model{more}"

    def work_s(self, operation: Operation, *, flop_per_s: float, bytes_per_s: float) -> float:
        """Return the time that arithmetic and traffic of one run take on a machine of these peaks."""
        compute_s = operation.flops / (flop_per_s * self.compute)
        for extent, half in ((operation.m, self.half.m), (operation.n, self.half.n), (operation.k, self.half.k)):
            compute_s *= 1 + half / extent if extent else 1.0
        compute_s *= (ALIGNED / aligned(operation.k)) ** self.alignment
        memory_s = operation.traffic_bytes / (bytes_per_s * self.memory)
        return math.hypot(compute_s, memory_s) * (1 + self.half.points / max(1, operation.points))


def aligned(extent: int) -> int:
    """Return the largest power of two in an extent, at most 128; of no extent, 128."""
    return min(ALIGNED, extent & -extent) if extent else ALIGNED


def is_large(operation: Operation, cache_bytes: int) -> bool:
    """Return whether an operation's weights take a quarter of the last cache or more."""
    return bool(cache_bytes) and operation.weight_bytes >= _LARGE_SHARE * cache_bytes


def is_batched(operation: Operation) -> bool:
    """Return whether an operation is several products at once: its result is larger than one product's."""
    return operation.op != "attention" and operation.points > operation.m * operation.n > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds of a piece of work: the fitted ones and where a tenth of held-out shapes lay below and above."""

    low: float
    base: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Every efficiency of one target on one machine, with what they were fitted to."""

    target: str
    machine: Mapping[str, Any]
    """Facts of the machine, ``fingerprint`` among them."""
    measured_utc: str
    flop_per_s: float
    """Measured peak of float32 multiply-adds, of as many threads as the target uses."""
    bytes_per_s: float
    """Measured rate of reading memory past the caches."""
    cache_bytes: int
    """Size of the last cache; 0 where the machine does not tell."""
    dispatch_s: float
    invocation_s: float
    classes: tuple[Efficiency, ...]
    data_sha256: str
    held_out: Mapping[str, Any]
    """Errors on shapes that were left out of the fit: of all, and by class."""
    conditions: Mapping[str, Any]
    versions: Mapping[str, str]
    samples: tuple[Mapping[str, Any], ...] = ()
    """What was measured: the data whose digest is told."""

    def resident(self, operations: Iterable[Operation]) -> bool:
        """Return whether a model's weights stay in the last cache: they take half of it at most."""
        return sum(one.count * one.weight_bytes for one in operations) <= _CACHE_SHARE * self.cache_bytes

    def of(self, operation: Operation, *, quantised: bool, resident: bool = False) -> Efficiency | None:
        """Return the efficiency of the operation's class: of its weights and kind of model, or the nearest to it."""
        fitting = [entry for entry in self.classes if entry.op == operation.op]

        large, batched = is_large(operation, self.cache_bytes), is_batched(operation)

        def distance(entry: Efficiency) -> tuple[bool, ...]:
            return (
                entry.weights != operation.weights, entry.batched != batched, entry.large != large,
                entry.quantised != quantised, entry.resident != resident,
            )

        return min(fitting, key=distance, default=None)

    def run_s(self, operation: Operation, *, quantised: bool, resident: bool = False) -> Times:
        """Return the time of one run, dispatch included, in a model that is ``quantised`` and ``resident`` or not.

        Work of a class that was never measured takes the time of the slowest class to move its bytes.
        """
        entry = self.of(operation, quantised=quantised, resident=resident)
        entry = entry or min(self.classes, key=lambda one: one.memory)
        base = entry.work_s(operation, flop_per_s=self.flop_per_s, bytes_per_s=self.bytes_per_s)
        low, middle, high = (self.dispatch_s + base * share for share in (entry.low, 1.0, entry.high))
        return Times(low=low, base=middle, high=high)

    def call_s(self, operations: Sequence[Operation], *, quantised: bool) -> Times:
        """Return the time of one call of a model: every run, and the invocation.

        Errors of classes are taken to be independent of each other, and equal within a class.
        """
        base, resident = self.invocation_s, self.resident(operations)
        classes: dict[tuple[str, str | None], list[float]] = {}
        for operation in operations:
            times = self.run_s(operation, quantised=quantised, resident=resident)
            sums = classes.setdefault((operation.op, operation.weights), [0.0, 0.0])
            sums[0] += operation.count * (times.base - times.low)
            sums[1] += operation.count * (times.high - times.base)
            base += operation.count * times.base
        squares_low = sum(sums[0] ** 2 for sums in classes.values())
        squares_high = sum(sums[1] ** 2 for sums in classes.values())
        return Times(low=max(0.0, base - math.sqrt(squares_low)), base=base, high=base + math.sqrt(squares_high))


def to_json(calibration: Calibration) -> str:
    """Serialise a calibration, sorted, with a line for each sample."""
    head = {"format": FORMAT, **asdict(calibration), "samples": []}
    rows = ",\n".join(json.dumps(row, sort_keys=True) for row in calibration.samples)
    return json.dumps(head, indent=1, sort_keys=True).replace('"samples": []', f'"samples": [\n{rows}\n]') + "\n"


def load(path: Path) -> Calibration:
    """Read a calibration; raise UsageError if there is none, IntegrityError if it is damaged or of another format."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise IntegrityError("the calibration is too large to be one", where=str(path))
        raw = json.loads(path.read_text())
    except OSError as error:
        raise UsageError("no such calibration", where=str(path), hint="`hwc targets calibrate` writes it") from error
    except ValueError as error:
        raise IntegrityError(f"the calibration is not JSON: {error}", where=str(path)) from error
    try:
        return _parsed(raw)
    except (KeyError, TypeError, ValueError) as error:
        told = f"the calibration cannot be read: {error!r}"
        raise IntegrityError(told, where=str(path), hint="`hwc targets calibrate` writes it anew") from error


def _parsed(raw: dict[str, Any]) -> Calibration:
    if raw.pop("format", None) != FORMAT:
        raise ValueError(f"its format is not {FORMAT}")
    classes = tuple(Efficiency(**{**entry, "half": Extents(**entry["half"])}) for entry in raw.pop("classes"))
    found = Calibration(**{**raw, "classes": classes, "samples": tuple(raw.get("samples", ()))})
    numbers = [found.flop_per_s, found.bytes_per_s]
    numbers += [value for entry in classes for value in (entry.compute, entry.memory, entry.low, entry.high)]
    if not classes or not all(isinstance(value, (int, float)) and 0 < value < math.inf for value in numbers):
        raise ValueError("an efficiency or a peak is no positive number")
    least = [found.dispatch_s, found.invocation_s, *(entry.alignment for entry in classes)]
    least += [value for entry in classes for value in asdict(entry.half).values()]
    if not all(0 <= value < math.inf for value in least):
        raise ValueError("an overhead or an extent is negative")
    if unknown := {entry.op for entry in classes} - set(get_args(OpClass)):
        raise ValueError(f"unknown kinds of work: {', '.join(sorted(unknown))}")
    return found
