"""Fit positive coefficients to measured times: bounded least squares on logarithms, with bad samples weighed down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwc.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

Predict = Callable[[Mapping[str, float]], "np.ndarray"]
"""Coefficients by name to predicted times, one a sample."""
_STEP = 1e-4
_ENOUGH = 1e-8
"""Share of the loss below which a further round is not worth it."""
_HUBER = 1.345
"""Residuals past this many robust deviations weigh less. Source: Huber, Robust Statistics, 1981."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficient:
    """A positive unknown with the interval that physics leaves it."""

    name: str
    low: float
    start: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What a fit found."""

    values: Mapping[str, float]
    rounds: int
    at_bound: tuple[str, ...]
    """Coefficients that ended at an end of their interval: the data do not hold them."""


def fit(unknowns: Sequence[Coefficient], predict: Predict, measured: np.ndarray, *, most_rounds: int = 200) -> Fitted:
    """Return the coefficients whose predictions differ least from measured times, by ratio.

    Minimises Huber's loss of log(predicted / measured) by Levenberg and Marquardt's method over the logarithms of the
    coefficients. Raises UsageError where there are fewer samples than unknowns, or a time that is not positive.
    """
    import numpy as np

    if len(measured) < len(unknowns) or not np.all(np.isfinite(measured) & (measured > 0)):
        raise UsageError(f"{len(measured)} positive times are needed to fit {len(unknowns)} coefficients, at least")
    low, high = (np.log([getattr(one, end) for one in unknowns]) for end in ("low", "high"))
    point = np.clip(np.log([one.start for one in unknowns]), low, high)
    target = np.log(measured)

    def residuals(at: np.ndarray) -> np.ndarray:
        return np.asarray(np.log(predict(_named(unknowns, at))) - target)

    damping, rounds = 1e-2, 0
    current = residuals(point)
    for rounds in range(1, most_rounds + 1):  # noqa: B007  (told at the end)
        weights = _weights(current)
        step = _step(_jacobian(residuals, point, current), current, weights, damping)
        tried = np.clip(point + step, low, high)
        found = residuals(tried)
        before, after = float(np.sum(weights * current**2)), float(np.sum(weights * found**2))
        if after < before:
            point, current, damping = tried, found, max(damping / 3, 1e-9)
            if before - after < _ENOUGH * before:
                break
        else:
            damping *= 4
            if damping > 1e9:
                break
    held = tuple(
        one.name for one, x, a, b in zip(unknowns, point, low, high, strict=True) if min(x - a, b - x) < 1e-6
    )
    return Fitted(values=_named(unknowns, point), rounds=rounds, at_bound=held)


def _named(unknowns: Sequence[Coefficient], point: np.ndarray) -> dict[str, float]:
    import numpy as np

    return {one.name: float(np.exp(value)) for one, value in zip(unknowns, point, strict=True)}


def _weights(residuals: np.ndarray) -> np.ndarray:
    """Return Huber's weights, by the median absolute deviation."""
    import numpy as np

    sizes = np.abs(residuals)
    deviation = max(1.4826 * float(np.median(sizes)), 1e-6)
    weights: np.ndarray = np.minimum(1.0, _HUBER * deviation / np.maximum(sizes, 1e-12))
    return weights


def _jacobian(residuals: Callable[[np.ndarray], np.ndarray], point: np.ndarray, current: np.ndarray) -> np.ndarray:
    import numpy as np

    columns = []
    for index in range(len(point)):
        moved = point.copy()
        moved[index] += _STEP
        columns.append((residuals(moved) - current) / _STEP)
    return np.stack(columns, axis=1)


def _step(jacobian: np.ndarray, residuals: np.ndarray, weights: np.ndarray, damping: float) -> np.ndarray:
    import numpy as np

    weighted = jacobian * weights[:, None]
    normal = weighted.T @ jacobian
    ridge = damping * (np.diag(np.diag(normal)) + 1e-9 * np.eye(len(normal)))
    return -np.asarray(np.linalg.solve(normal + ridge, weighted.T @ residuals))


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """How far predictions are from measured times: |predicted / measured − 1|."""

    median: float
    p90: float
    worst: float
    bias: float
    """Median of predicted / measured − 1, with its sign."""
    samples: int


def errors(predicted: np.ndarray, measured: np.ndarray) -> Errors:
    """Summarise errors; percentiles are nearest rank."""
    import numpy as np

    signed = np.asarray(predicted) / np.asarray(measured) - 1
    sizes = np.sort(np.abs(signed))

    def rank(share: float) -> float:
        return float(sizes[max(0, int(np.ceil(share * len(sizes))) - 1)])

    return Errors(
        median=rank(0.5), p90=rank(0.9), worst=float(sizes[-1]), bias=float(np.median(signed)), samples=len(sizes)
    )
