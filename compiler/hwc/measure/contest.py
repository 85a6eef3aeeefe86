"""Contest: which of several ways to make code is faster, judged on pairs of calls made next to each other; pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ERROR = 0.05
"""Chance, over all challengers of one contest, that equal ones are taken for different."""
LEAST_GAIN = 0.01
"""A gain below this is not worth another artefact, however sure it is."""

Times = Mapping[str, Sequence[float]]
"""Milliseconds by shape, one a round; the same round of two entrants was measured side by side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Time of one entrant over another's: geometric mean over shapes of the median ratio of a round."""

    value: float
    low: float
    high: float


def compare(ours: Times, theirs: Times, *, error: float = ERROR) -> Ratio:
    """Return our time over theirs with its interval, which is endless where there are too few rounds for one.

    A shape's interval is that of a median by order statistics (David and Nagaraja, Order Statistics, 7.1): it asks
    nothing of how noise is distributed. Shapes weigh alike; their half-widths add as independent errors do.
    """
    middle, below, above = 0.0, 0.0, 0.0
    for shape, times in ours.items():
        logs = sorted(math.log(one / other) for one, other in zip(times, theirs[shape], strict=True))
        median = statistics.median(logs)
        rank = median_rank(len(logs), error)
        middle += median
        below += (median - logs[rank]) ** 2 if rank is not None else math.inf
        above += (logs[-1 - rank] - median) ** 2 if rank is not None else math.inf
    count = len(ours)
    return Ratio(
        value=math.exp(middle / count), low=math.exp((middle - math.sqrt(below)) / count),
        high=math.exp((middle + math.sqrt(above)) / count),
    )


def median_rank(count: int, error: float) -> int | None:
    """Return the index r so that a median lies between sorted values r and count − 1 − r but for ``error``, or None."""
    tail, found = 0.0, None
    for rank in range(count // 2):
        tail += math.comb(count, rank) / 2.0**count
        if 2 * tail > error:
            break
        found = rank
    return found


def choose(times: Mapping[str, Times]) -> tuple[str, dict[str, Ratio]]:
    """Return the fastest entrant, and every challenger's ratio to the first.

    The first is the default. Another takes the place of the best so far only if all of its interval is faster by more
    than ``LEAST_GAIN``: noise changes no choice, and of equals the one named earlier stays.
    """
    first, *challengers = times
    error = ERROR / max(1, len(challengers))
    best = first
    for name in challengers:
        if compare(times[name], times[best], error=error).high < 1 - LEAST_GAIN:
            best = name
    return best, {name: compare(times[name], times[first], error=error) for name in challengers}
