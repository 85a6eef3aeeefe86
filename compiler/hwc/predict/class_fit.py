"""From timed operations to efficiencies by kind of work, with their error on shapes that were left out; pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwc.errors import UsageError
from hwc.predict.efficiency import ALIGNED, Efficiency, Extents, aligned, is_batched, is_large
from hwc.predict.fit import Coefficient, Errors, errors, fit
from hwc.predict.operation import Operation
from hwc.spec.hardware import Element
from hwc.spec.legality import OpClass

if TYPE_CHECKING:
    import numpy as np

FOLDS = 5
LEAST_SAMPLES = 3
"""A class of fewer is left out: its work takes what other work does."""
_SHARE = (1e-4, 1.0, 20.0)
_HALF = (1e-3, 1.0, 1e4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One operation, timed."""

    operation: Operation
    quantised: bool
    """Whether it was compiled as a quantised model is."""
    resident: bool
    """Whether what it reads was in the last cache."""
    seconds: float
    """The least of all repeats: other work on the machine only adds."""
    spread: float
    """Of the rounds' minima, as quarantine.spread tells it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """What the machine does at best, and what starting a dispatch costs."""

    flop_per_s: float
    bytes_per_s: float
    dispatch_s: float
    cache_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """The classes, and every sample's time as predicted by a fit that had not seen its shape."""

    classes: tuple[Efficiency, ...]
    held_out: Errors
    by_class: Mapping[str, Errors]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    """What a class is of."""

    op: OpClass
    weights: Element | None
    quantised: bool
    resident: bool
    large: bool
    batched: bool


def _key(sample: Sample, peaks: Peaks) -> _Key:
    operation = sample.operation
    return _Key(
        op=operation.op, weights=operation.weights, quantised=sample.quantised, resident=sample.resident,
        large=is_large(operation, peaks.cache_bytes), batched=is_batched(operation),
    )


def fit_classes(samples: Sequence[Sample], peaks: Peaks) -> Fitted:
    """Fit each class of work of at least ``LEAST_SAMPLES`` samples; raise UsageError if there is none."""
    import numpy as np

    groups: dict[_Key, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[_key(sample, peaks)].append(sample)
    classes, measured, predicted, by_class = [], [], [], {}
    for key in sorted(groups, key=repr):
        group = groups[key]
        if len(group) < LEAST_SAMPLES:
            continue
        seconds = np.asarray([sample.seconds for sample in group])
        blind = _blind(group, peaks)
        low, high = (float(value) for value in np.quantile(seconds / blind, (0.1, 0.9)))
        classes.append(_class(key, group, _values(group, peaks), (min(low, 1.0), max(high, 1.0))))
        by_class[classes[-1].told()] = errors(blind, seconds)
        measured.append(seconds)
        predicted.append(blind)
    if not classes:
        raise UsageError(f"no kind of work has the {LEAST_SAMPLES} samples that a fit needs, of {len(samples)}")
    held_out = errors(np.concatenate(predicted), np.concatenate(measured))
    return Fitted(classes=tuple(classes), held_out=held_out, by_class=by_class)


def _unknowns(group: Sequence[Sample]) -> tuple[Coefficient, ...]:
    """Return as many unknowns as the samples can hold: extents only where they vary."""
    shares = [Coefficient(name=name, low=_SHARE[0], start=0.5, high=_SHARE[2]) for name in ("compute", "memory")]
    names = ("m", "n", "k") if group[0].operation.m else ("points",)
    varied = [name for name in names if len({getattr(sample.operation, name) for sample in group}) > 2]
    halves = [Coefficient(name=name, low=_HALF[0], start=_HALF[1], high=_HALF[2]) for name in varied]
    uneven = len({aligned(sample.operation.k) for sample in group}) > 1
    powers = [Coefficient(name="alignment", low=1e-3, start=0.5, high=4.0)] if uneven else []
    return tuple([*shares, *powers, *halves][: max(1, len(group) - 1)])


def _values(group: Sequence[Sample], peaks: Peaks) -> Mapping[str, float]:
    import numpy as np

    columns = _Columns(group)
    seconds = np.asarray([sample.seconds for sample in group])
    return fit(_unknowns(group), lambda values: columns.seconds(values, peaks), seconds).values


class _Columns:
    def __init__(self, group: Sequence[Sample]) -> None:
        import numpy as np

        self.flops = np.asarray([max(sample.operation.flops, 1.0) for sample in group])
        self.bytes = np.asarray([max(sample.operation.traffic_bytes, 1.0) for sample in group])
        self.extents = {
            name: np.asarray([max(getattr(sample.operation, name), 1) for sample in group], float)
            for name in ("m", "n", "k", "points")
        }
        self.unaligned = np.asarray([ALIGNED / aligned(sample.operation.k) for sample in group])

    def seconds(self, values: Mapping[str, float], peaks: Peaks) -> np.ndarray:
        """Return what efficiency.Calibration.run_s does, of many operations at once."""
        import numpy as np

        compute_s = self.flops / (peaks.flop_per_s * values["compute"]) * self.unaligned ** values.get("alignment", 0.0)
        for name in ("m", "n", "k"):
            compute_s = compute_s * (1 + values.get(name, 0.0) / self.extents[name])
        memory_s = self.bytes / (peaks.bytes_per_s * values.get("memory", 1.0))
        whole = np.hypot(compute_s, memory_s) * (1 + values.get("points", 0.0) / self.extents["points"])
        return np.asarray(peaks.dispatch_s + whole)


def _blind(group: Sequence[Sample], peaks: Peaks) -> np.ndarray:
    """Return each sample's time by a fit to the samples of other folds; samples of equal shape share a fold."""
    import numpy as np

    shapes = [_shape(sample.operation) for sample in group]
    order = {shape: place for place, shape in enumerate(dict.fromkeys(shapes))}
    folds = np.asarray([order[shape] % min(FOLDS, len(order)) for shape in shapes])
    found = np.zeros(len(group))
    for fold in range(max(folds) + 1):
        train = [sample for sample, its in zip(group, folds, strict=True) if its != fold] or list(group)
        test = [sample for sample, its in zip(group, folds, strict=True) if its == fold]
        found[folds == fold] = _Columns(test).seconds(_values(train, peaks), peaks)
    return found


def _shape(operation: Operation) -> tuple[int, ...]:
    return operation.batch, operation.m, operation.n, operation.k, operation.points


def _class(key: _Key, group: Sequence[Sample], values: Mapping[str, float], ends: tuple[float, float]) -> Efficiency:
    return Efficiency(
        op=key.op, weights=key.weights, quantised=key.quantised, resident=key.resident, large=key.large,
        batched=key.batched, compute=values["compute"], memory=values.get("memory", 1.0),
        half=Extents(**{name: values[name] for name in ("m", "n", "k", "points") if name in values}),
        alignment=values.get("alignment", 0.0), low=ends[0], high=ends[1], samples=len(group),
    )
