"""Estimates whose standard errors hold although neighbours are alike: positions come in windows of running text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Z95 = 1.96
"""Normal quantile of a two-sided 95 % interval; with 24 windows Student's is 2.07, which is not corrected for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with its uncertainty; standard error and interval are absent where one window tells none."""

    value: float
    standard_error: float | None = None
    ci95: tuple[float, float] | None = None
    n: int
    """Observations; for text, token positions."""


def of(value: float, error: float | None, n: int) -> Estimate:
    """Return an estimate with the normal interval about its value."""
    interval = None if error is None else (value - Z95 * error, value + Z95 * error)
    return Estimate(value=value, standard_error=error, ci95=interval, n=n)


def mean(values: np.ndarray, clusters: np.ndarray) -> Estimate:
    """Return the mean of values, float [P], with its standard error clustered by ``clusters``, int [P]."""
    import numpy as np

    value = float(np.mean(values, dtype=np.float64))
    return of(value, clustered_error(values - value, clusters), len(values))


def clustered_error(residuals: np.ndarray, clusters: np.ndarray) -> float | None:
    """Return the standard error of a mean from its residuals, float [P], or None of a single cluster.

    √(G/(G−1) · Σ_g (Σ_{i∈g} r_i)²) / P over G clusters: Liang and Zeger 1986, with the usual small-sample factor. It
    takes windows for independent and says nothing about what lies inside one.
    """
    import numpy as np

    _, places = np.unique(clusters, return_inverse=True)
    sums = np.bincount(places, weights=residuals)
    if len(sums) < 2:
        return None
    return math.sqrt(len(sums) / (len(sums) - 1) * float(sums @ sums)) / len(residuals)


def ratio(over: np.ndarray, under: np.ndarray, clusters: np.ndarray) -> Estimate:
    """Return the ratio of two paired means, float [P] each; its error is the linearised ratio's (delta method)."""
    import numpy as np

    base = float(np.mean(under, dtype=np.float64))
    value = float(np.mean(over, dtype=np.float64)) / base if base else math.inf
    if not math.isfinite(value):
        return of(value, None, len(over))
    return of(value, clustered_error((over - value * under) / base, clusters), len(over))


def quantile(values: np.ndarray, share: float, clusters: np.ndarray) -> Estimate:
    """Return a quantile; its interval inverts that of the share of values below it (Woodruff 1952).

    The quantile is the smallest value that at least this share of the values do not exceed, so it is one of them.
    """
    import numpy as np

    def of_share(wanted: float) -> float:
        return float(np.quantile(values, min(max(wanted, 0.0), 1.0), method="inverted_cdf"))

    value = of_share(share)
    error = clustered_error((values <= value) - share, clusters)
    if error is None:
        return Estimate(value=value, n=len(values))
    low, high = of_share(share - Z95 * error), of_share(share + Z95 * error)
    return Estimate(value=value, standard_error=(high - low) / (2 * Z95), ci95=(low, high), n=len(values))
