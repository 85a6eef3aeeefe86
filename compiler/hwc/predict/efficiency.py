"""What a machine reaches of its peaks, by kind of work: fitted to measurements, read from ``calibration/NAME.json``.

The time of one run of an operation is

    dispatch_s + ((flops / (flop_per_s · compute))² + (bytes / (bytes_per_s · memory))²)^½ · Π (1 + half_x / x)

over the extents x = m, n, k of a matmul (points for other work): an extent equal to ``half_x`` reaches half of what
a long one does. The root of squares lets arithmetic hide most of the traffic and not all of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from hwc.errors import IntegrityError, UsageError
from hwc.predict.operation import Operation
from hwc.spec.hardware import Element
from hwc.spec.legality import OpClass

FORMAT = 1
MAX_FILE_BYTES = 4 << 20


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
    compute: float
    """Share of peak arithmetic that long extents reach."""
    memory: float
    """Share of memory bandwidth; above 1 where caches serve what the bytes count."""
    half: Extents = field(default_factory=Extents)
    low: float
    """Tenth percentile of measured ÷ predicted on shapes that were held out."""
    high: float
    """Ninetieth percentile of the same."""
    samples: int

    def factor(self, operation: Operation) -> float:
        """Return by how much the operation's extents lengthen its time."""
        extents = {"m": operation.m, "n": operation.n, "k": operation.k, "points": operation.points}
        found = 1.0
        for name, extent in extents.items():
            found *= 1 + getattr(self.half, name) / extent if extent else 1.0
        return found


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
    dispatch_s: float
    invocation_s: float
    classes: tuple[Efficiency, ...]
    data_sha256: str
    held_out: Mapping[str, float]
    """Errors on shapes that were left out of the fit, as shares of the measured time."""
    conditions: Mapping[str, Any]
    versions: Mapping[str, str]
    samples: tuple[Mapping[str, Any], ...] = ()
    """What was measured: the data whose digest is told."""

    def of(self, operation: Operation) -> Efficiency | None:
        """Return the efficiency of an operation's class and weights, else of its class, else None."""
        fitting = [entry for entry in self.classes if entry.op == operation.op]
        exact = (entry for entry in fitting if entry.weights == operation.weights)
        return next(exact, None) or next((entry for entry in fitting if entry.weights is None), None)

    def run_s(self, operation: Operation) -> Times:
        """Return the time of one run, dispatch included. Work of no fitted class takes the slowest class's share."""
        entry = self.of(operation) or max(self.classes, key=lambda one: 1 / one.memory)
        compute_s = operation.flops / (self.flop_per_s * entry.compute)
        memory_s = operation.traffic_bytes / (self.bytes_per_s * entry.memory)
        base = math.hypot(compute_s, memory_s) * entry.factor(operation)
        scaled = [self.dispatch_s + base * share for share in (entry.low, 1.0, entry.high)]
        return Times(low=min(scaled), base=scaled[1], high=max(scaled))


def to_json(calibration: Calibration) -> str:
    """Serialise a calibration, sorted and indented."""
    return json.dumps({"format": FORMAT, **asdict(calibration)}, indent=1, sort_keys=True) + "\n"


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
    least = [found.dispatch_s, found.invocation_s, *(v for e in classes for v in asdict(e.half).values())]
    if not all(0 <= value < math.inf for value in least):
        raise ValueError("an overhead or an extent is negative")
    if unknown := {entry.op for entry in classes} - set(get_args(OpClass)):
        raise ValueError(f"unknown kinds of work: {', '.join(sorted(unknown))}")
    return found
