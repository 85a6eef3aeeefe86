"""Gates: hold one variant's serving metadata against absolute bounds and against a baseline; pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from hwc.bundle.serving import Serving
from hwc.bundle.serving_profile import RequestCell
from hwc.errors import UsageError
from hwc.spec.model import Gates

Outcome = Literal["passed", "missed", "unjudged"]
REGRESSION_METRICS = ("cosine_mean", "nearest_neighbour", "top1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One gate of one variant, with the figure and the bound in words."""

    variant: str
    gate: str
    outcome: Outcome
    told: str


def hold(
    serving: Serving, gates: Gates, *, parity_max_abs: float, baseline: Serving | None = None
) -> list[Verdict]:
    """Return the verdict on every gate that applies.

    What was never measured, or too noisily, is ``unjudged`` and said to be so: it neither passes nor fails. Raises
    UsageError for a baseline of another model.
    """
    variant = serving.identity.variant_id
    rows = [*_absolute(serving, gates, parity_max_abs)]
    if baseline is not None:
        rows += _relative(serving, gates, baseline)
    return [Verdict(variant=variant, gate=gate, outcome=outcome, told=told) for gate, outcome, told in rows]


_Row = tuple[str, Outcome, str]


def _judge(ok: bool) -> Outcome:
    return "passed" if ok else "missed"


def _absolute(serving: Serving, gates: Gates, parity_max_abs: float) -> Iterator[_Row]:
    if serving.status == "verified":
        yield from _quality(serving, gates, parity_max_abs)
    bits = 8 * serving.resources.weights_bytes / serving.model.params
    if gates.bits_per_parameter_max is not None:
        bound = gates.bits_per_parameter_max
        yield "bits_per_parameter", _judge(bits <= bound), f"{bits:.2f} bits per parameter, at most {bound:g}"
    if gates.weights_bytes_max is not None:
        size, limit = serving.resources.weights_bytes, gates.weights_bytes_max
        yield "weights_bytes", _judge(size <= limit), f"{size} bytes of weights, at most {limit}"
    if serving.status == "verified":
        yield from _latency(serving, gates)
        yield from _cost(serving, gates)


def _quality(serving: Serving, gates: Gates, parity_max_abs: float) -> Iterator[_Row]:
    metrics = {row.metric: row.value for row in serving.quality}
    parity = metrics.get("parity_max_abs", math.inf)
    yield (
        "parity", _judge(parity <= parity_max_abs),
        f"max abs {parity:.2e} to ONNX Runtime on the same quantised graph, at most {parity_max_abs:.2e}",
    )
    lower = {
        "cosine_mean": gates.cosine_mean_min,
        "nearest_neighbour": gates.nearest_neighbour_min,
        "top1": gates.top1_min,
        **gates.metrics_min,
    }
    for name, bound in lower.items():
        if bound is not None and name not in metrics:
            yield name, "missed", f"{name} is gated at {bound:g}, but the evaluator does not measure it"
        elif bound is not None:
            yield name, _judge(metrics[name] >= bound), f"{name} {metrics[name]:.4f}, at least {bound:g}"
    if gates.max_abs is not None:
        worst = metrics.get("max_abs", math.inf)
        told = f"max abs {worst:.2e} to the float model, at most {gates.max_abs:.2e}"
        yield "max_abs", _judge(worst <= gates.max_abs), told


def _latency(serving: Serving, gates: Gates) -> Iterator[_Row]:
    """Judge quiet shapes alone; a gate never passes for want of one."""
    if gates.p99_ms_max is None or not serving.profile.request:
        return
    bound, judged = gates.p99_ms_max, 0
    for cell in serving.profile.request:
        gate, p99 = f"p99_ms {cell.bucket}", cell.latency_ms.p99
        if not cell.valid or p99 is None:
            why = "too noisy" if not cell.valid else f"{cell.latency_ms.n} samples tell no p99"
            yield gate, "unjudged", f"{why}; at most {bound:g} ms is asked"
        else:
            judged += 1
            yield gate, _judge(p99 <= bound), f"p99 {p99:.3g} ms, at most {bound:g} ms"
    if not judged:
        yield "p99_ms", "missed", f"no shape could be judged against {bound:g} ms; run again on a quiet machine"


def _cost(serving: Serving, gates: Gates) -> Iterator[_Row]:
    bound = gates.usd_per_million_items_max
    if bound is None:
        return
    if serving.cost is None or not serving.cost.usd_per_million_items:
        yield "usd_per_million_items", "unjudged", "no price is known for this device"
        return
    cheapest = min(row.usd.base for row in serving.cost.usd_per_million_items)
    yield (
        "usd_per_million_items", _judge(cheapest <= bound),
        f"{cheapest:.3g} USD per million items in the cheapest shape (base price), at most {bound:g}",
    )


def _relative(serving: Serving, gates: Gates, baseline: Serving) -> Iterator[_Row]:
    if baseline.identity.model_id != serving.identity.model_id:
        raise UsageError(
            f"the baseline is of model {baseline.identity.model_id}, not {serving.identity.model_id}",
            hint="name a bundle of the same model",
        )
    bounds = gates.regression
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
    return _judge(growth <= bound), f"{what} {growth:+.1%}, at most {bound:+.1%}"


def _quality_drop(serving: Serving, baseline: Serving, bound: float) -> Iterator[_Row]:
    before = {row.metric: row for row in baseline.quality}
    for row in serving.quality:
        if row.metric not in REGRESSION_METRICS or row.metric not in before:
            continue
        gate = f"{row.metric} against baseline"
        if before[row.metric].data_sha256 != row.data_sha256:
            yield gate, "unjudged", "the baseline was measured on other data"
            continue
        drop = before[row.metric].value - row.value
        yield gate, _judge(drop <= bound), f"{row.metric} fell by {drop:.4f}, at most {bound:g}"


def _latency_growth(serving: Serving, baseline: Serving, bound: float) -> Iterator[_Row]:
    ours, theirs = (document.profile.conditions.machine_sha256 for document in (serving, baseline))
    if ours != theirs or ours is None:
        yield "latency against baseline", "unjudged", "refused: the baseline's latency is another machine's"
        return
    before = {cell.bucket: cell for cell in baseline.profile.request}
    for cell in serving.profile.request:
        if cell.bucket not in before:
            continue
        gate, old = f"latency {cell.bucket} against baseline", before[cell.bucket]
        if not (cell.valid and old.valid):
            yield gate, "unjudged", "too noisy to compare"
            continue
        low, high = growth_interval(old, cell)
        told = f"mean {low:+.1%} … {high:+.1%} (95 %), at most {bound:+.1%}"
        yield gate, _judge(low <= bound), told


def growth_interval(before: RequestCell, after: RequestCell) -> tuple[float, float]:
    """Return the 95 % interval of the growth of the mean latency, as shares of the mean before.

    Welch's normal approximation on the difference of two means; both cells hold tens of samples or more.
    """
    old, new = before.latency_ms, after.latency_ms
    error = 1.96 * math.sqrt(old.std**2 / old.n + new.std**2 / new.n)
    difference = new.mean - old.mean
    return (difference - error) / old.mean, (difference + error) / old.mean


def _cost_growth(serving: Serving, baseline: Serving, bound: float) -> Iterator[_Row]:
    costs = [document.cost for document in (baseline, serving)]
    gate = "cost against baseline"
    if any(cost is None or not cost.usd_per_million_items for cost in costs):
        yield gate, "unjudged", "no price is known for both"
        return
    if costs[0] and costs[1] and costs[0].as_of != costs[1].as_of:
        yield gate, "unjudged", f"priced by tables of {costs[0].as_of} and {costs[1].as_of}"
        return
    before, after = (min(row.usd.base for row in cost.usd_per_million_items) for cost in costs if cost is not None)
    yield gate, *_growth(after / before - 1, bound, "USD per million items")
