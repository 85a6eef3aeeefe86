"""Which measured cells are not to be trusted, by rules that look at measurements alone, never at a prediction."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

MOST_SPREAD = 0.25
"""Of a cell's repeats, as ``spread`` tells it."""
LEAST_GROWTH = 0.9
"""A larger size may take this share of a smaller one's time: less is not noise."""
MOST_REMOVED = 0.05
SAME_RATIO = 1e-9


def spread(repeats: Sequence[float]) -> float:
    """Return (ninth − first decile) / median, by nearest rank: of up to ten repeats, the largest and the smallest."""
    ordered = sorted(repeats)
    low, high = (ordered[max(0, math.ceil(share * len(ordered)) - 1)] for share in (0.1, 0.9))
    return (high - low) / statistics.median(ordered)


def impossible(median_s: float, bound_s: float) -> str:
    """Return why a time cannot be: it is below what peak arithmetic and bandwidth allow; empty if it can."""
    if median_s >= bound_s:
        return ""
    return f"{median_s * 1e3:.4g} ms is {bound_s / median_s:.1f} times faster than the data sheet's peak allows"


def uneven(repeats: Sequence[float]) -> str:
    """Return why a cell's repeats do not name one time; empty if they do."""
    found = spread(repeats)
    return f"its {len(repeats)} repeats spread over {found:.0%} of their median" if found > MOST_SPREAD else ""


def shrinking(sweep: Mapping[int, float]) -> dict[int, str]:
    """Return the sizes of a sweep whose time lies well below that of a smaller size, with the reason."""
    found: dict[int, str] = {}
    highest = 0.0
    for size in sorted(sweep):
        if sweep[size] < LEAST_GROWTH * highest:
            found[size] = f"{sweep[size] * 1e3:.4g} ms at {size} is less than {highest * 1e3:.4g} ms at a smaller size"
        highest = max(highest, sweep[size])
    return found


def scaled_copy(left: Sequence[float], right: Sequence[float]) -> float | None:
    """Return the constant that makes one series another, to the last digits, or None: such a copy is no measurement."""
    if len(left) != len(right) or len(left) < 10:
        return None
    ratios = [b / a for a, b in zip(left, right, strict=True)]
    same = max(ratios) - min(ratios) <= SAME_RATIO * max(ratios)
    return ratios[0] if same else None
