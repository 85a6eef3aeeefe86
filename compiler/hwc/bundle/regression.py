"""Regression gates: hold one variant's serving metadata against those of a baseline bundle; pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from hwc.bundle.bounds import Outcome, Row, judge
from hwc.bundle.serving import Serving
from hwc.bundle.serving_cells import cells_of
from hwc.bundle.serving_profile import Latency
from hwc.errors import UsageError
from hwc.spec.model import Regression

WORSE: dict[str, Literal["fell", "rose"]] = {
    "cosine_mean": "fell",
    "nearest_neighbour": "fell",
    "top1": "fell",
    "kl_mean": "rose",
    "kl_p99": "rose",
    "perplexity_ratio": "rose",
}
"""Metric to the way in which it gets worse.

Greedy tokens are not among them: one near tie moves the first difference by any number of tokens.
"""


def against(serving: Serving, bounds: Regression, baseline: Serving) -> Iterator[Row]:
    """Yield the verdict on every bound against a baseline; raise UsageError for a baseline of another model."""
    if baseline.identity.model_id != serving.identity.model_id:
        raise UsageError(
            f"the baseline is of model {baseline.identity.model_id}, not {serving.identity.model_id}",
            hint="name a bundle of the same model",
        )
    if bounds.quality_drop_max is not None:
        yield from _quality_drop(serving, baseline, bounds.quality_drop_max)
    if bounds.size_growth_max is not None:
        before, after = baseline.resources.weights_bytes, serving.resources.weights_bytes
        yield "size against baseline", *_growth(after / before - 1, bounds.size_growth_max, "weights")
    if bounds.latency_growth_max is not None:
        yield from _latency_growth(serving, baseline, bounds.latency_growth_max)
    if bounds.cost_growth_max is not None:
        yield from _cost_growth(serving, baseline, bounds.cost_growth_max)


def _growth(growth: float, bound: float, what: str) -> tuple[Outcome, str]:
    return judge(growth <= bound), f"{what} {growth:+.1%}, at most {bound:+.1%}"


def _quality_drop(serving: Serving, baseline: Serving, bound: float) -> Iterator[Row]:
    before = {row.metric: row for row in baseline.quality}
    for row in serving.quality:
        if row.metric not in WORSE or row.metric not in before:
            continue
        gate = f"{row.metric} against baseline"
        if before[row.metric].data_sha256 != row.data_sha256:
            yield gate, "unjudged", "the baseline was measured on other data"
            continue
        worse = WORSE[row.metric]
        moved = row.value - before[row.metric].value
        loss = moved if worse == "rose" else -moved
        yield gate, judge(loss <= bound), f"{row.metric} {worse} by {loss:.4f}, at most {bound:g}"


def _latency_growth(serving: Serving, baseline: Serving, bound: float) -> Iterator[Row]:
    ours, theirs = (document.profile.conditions.machine_sha256 for document in (serving, baseline))
    if ours != theirs or ours is None:
        yield "latency against baseline", "unjudged", "refused: the baseline's latency is another machine's"
        return
    before = {cell.name: cell for cell in cells_of(baseline)}
    for cell in cells_of(serving):
        if cell.name not in before:
            continue
        gate, old = f"latency {cell.name} against baseline", before[cell.name]
        if not (cell.valid and old.valid):
            yield gate, "unjudged", "too noisy to compare"
            continue
        low, high = growth_interval(old.latency, cell.latency)
        told = f"mean {low:+.1%} … {high:+.1%} (95 %), at most {bound:+.1%}"
        yield gate, judge(low <= bound), told


def growth_interval(before: Latency, after: Latency) -> tuple[float, float]:
    """Return the 95 % interval of the growth of the mean latency, as shares of the mean before.

    Welch's normal approximation on the difference of two means; both cells hold tens of samples or more.
    """
    error = 1.96 * math.sqrt(before.std**2 / before.n + after.std**2 / after.n)
    difference = after.mean - before.mean
    return (difference - error) / before.mean, (difference + error) / before.mean


def _cost_growth(serving: Serving, baseline: Serving, bound: float) -> Iterator[Row]:
    costs = [document.cost for document in (baseline, serving)]
    cheapest = [_cheapest(document) for document in (baseline, serving)]
    gate = "cost against baseline"
    if cheapest[0] is None or cheapest[1] is None:
        yield gate, "unjudged", "no price is known for both"
        return
    if costs[0] and costs[1] and costs[0].as_of != costs[1].as_of:
        yield gate, "unjudged", f"priced by tables of {costs[0].as_of} and {costs[1].as_of}"
        return
    yield gate, *_growth(cheapest[1] / cheapest[0] - 1, bound, "USD per million items or tokens")


def _cheapest(serving: Serving) -> float | None:
    """Return the base price of a million items in the cheapest shape, or of a million tokens."""
    return min((cell.usd.base for cell in cells_of(serving) if cell.usd is not None), default=None)
