"""Gates: hold one variant's serving metadata against absolute bounds and against a baseline; pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hwc.bundle import regression
from hwc.bundle.bounds import Outcome, Row, judge
from hwc.bundle.serving import Serving
from hwc.bundle.serving_profile import Latency
from hwc.bundle.serving_records import Quality
from hwc.spec.model import Gates

IMPLAUSIBLE_ERRORS = 3.0
"""Standard errors by which a gain over the float model is no longer taken for chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One gate of one variant, with the figure and the bound in words."""

    variant: str
    gate: str
    outcome: Outcome
    told: str


def hold(
    serving: Serving, gates: Gates, *, parity_max_abs: float, baseline: Serving | None = None, functional: bool = False
) -> list[Verdict]:
    """Return the verdict on every gate that applies.

    What was never measured, or too noisily, is ``unjudged`` and said to be so: it neither passes nor fails.
    ``functional``: the device is only good for functional tests, on which a language model's text is not scored.
    Raises UsageError for a baseline of another model.
    """
    variant = serving.identity.variant_id
    rows = [*_absolute(serving, gates, parity_max_abs, functional=functional)]
    if baseline is not None:
        rows += regression.against(serving, gates.regression, baseline)
    return [Verdict(variant=variant, gate=gate, outcome=outcome, told=told) for gate, outcome, told in rows]


def _absolute(serving: Serving, gates: Gates, parity_max_abs: float, *, functional: bool) -> Iterator[Row]:
    if serving.status == "verified":
        yield from _quality(serving, gates, parity_max_abs, functional=functional)
        yield from _implausible(serving)
    bits = 8 * serving.resources.weights_bytes / serving.model.params
    if gates.bits_per_parameter_max is not None:
        bound = gates.bits_per_parameter_max
        yield "bits_per_parameter", judge(bits <= bound), f"{bits:.2f} bits per parameter, at most {bound:g}"
    if gates.weights_bytes_max is not None:
        size, limit = serving.resources.weights_bytes, gates.weights_bytes_max
        yield "weights_bytes", judge(size <= limit), f"{size} bytes of weights, at most {limit}"
    if serving.status == "verified":
        yield from _latency(serving, gates)
        yield from _cost(serving, gates)


def _quality(serving: Serving, gates: Gates, parity_max_abs: float, *, functional: bool) -> Iterator[Row]:
    metrics = {row.metric: row.value for row in serving.quality}
    parity = metrics.get("parity_max_abs", math.inf)
    yield (
        "parity", judge(parity <= parity_max_abs),
        f"max abs {parity:.2e} to ONNX Runtime on the same quantised graph, at most {parity_max_abs:.2e}",
    )
    rows = {row.metric: row for row in serving.quality}
    at_least = {
        "cosine_mean": gates.cosine_mean_min,
        "nearest_neighbour": gates.nearest_neighbour_min,
        "top1": gates.top1_min,
        "greedy_tokens": gates.greedy_tokens_min,
        **gates.metrics_min,
    }
    at_most = {
        "kl_mean": gates.kl_mean_max,
        "kl_p99": gates.kl_p99_max,
        "kl_vs_rtn": gates.kl_vs_rtn_max,
        "perplexity_ratio": gates.perplexity_ratio_max,
    }
    for least, bounds in ((True, at_least), (False, at_most)):
        for name, bound in bounds.items():
            if bound is None:
                continue
            if functional and name not in rows:
                yield name, "unjudged", f"{name} is gated at {bound:g}; a device for functional tests does not tell it"
            else:
                yield _metric(name, rows.get(name), bound, least=least)
    if gates.max_abs is not None:
        worst = metrics.get("max_abs", math.inf)
        told = f"max abs {worst:.2e} to the float model, at most {gates.max_abs:.2e}"
        yield "max_abs", judge(worst <= gates.max_abs), told


def _metric(name: str, row: Quality | None, bound: float, *, least: bool) -> Row:
    if row is None:
        return name, "missed", f"{name} is gated at {bound:g}, but the evaluator does not measure it"
    interval = f" (95 %: {_told(row.ci95[0])} … {_told(row.ci95[1])})" if row.ci95 else ""
    told = f"{name} {_told(row.value)}{interval}, at {'least' if least else 'most'} {bound:g}"
    return name, judge(row.value >= bound if least else row.value <= bound), told


def _told(value: float) -> str:
    return f"{value:.4f}" if abs(value) >= 0.01 else f"{value:.2e}"


def _implausible(serving: Serving) -> Iterator[Row]:
    """Name gains over the float model that chance does not explain: leaked data, or a reference that is not it."""
    for row in serving.quality:
        if row.metric.partition("/")[0] != "perplexity_ratio" or row.ci95 is None:
            continue
        error = (row.ci95[1] - row.ci95[0]) / (2 * 1.96)
        if row.value + IMPLAUSIBLE_ERRORS * error < 1:
            told = f"{row.metric} {row.value:.4f} ± {error:.4f} is better than the float model beyond chance"
            yield f"{row.metric} plausibility", "unjudged", f"{told}: look at the data and at the reference"


def _latency(serving: Serving, gates: Gates) -> Iterator[Row]:
    profile = serving.profile
    yield from _p99("p99_ms", gates.p99_ms_max, {
        cell.bucket: (cell.latency_ms, cell.valid) for cell in profile.request
    })  # fmt: skip
    yield from _p99("ttft_p99_ms", gates.ttft_p99_ms_max, {
        f"batch {cell.batch}, prompt {cell.isl}": (cell.ttft_ms, cell.valid) for cell in profile.prefill
    })  # fmt: skip
    yield from _p99("itl_p99_ms", gates.itl_p99_ms_max, {
        f"batch {cell.batch}, context {cell.context}": (cell.itl_ms, cell.valid) for cell in profile.decode
    })  # fmt: skip


def _p99(gate: str, bound: float | None, cells: Mapping[str, tuple[Latency, bool]]) -> Iterator[Row]:
    """Judge quiet cells alone; a gate never passes for want of one. ``cells``: name to (latency, valid)."""
    if bound is None:
        return
    if not cells:
        yield gate, "unjudged", f"never measured; at most {bound:g} ms is asked"
        return
    judged = 0
    for name, (latency, valid) in cells.items():
        if not valid or latency.p99 is None:
            why = "too noisy" if not valid else f"{latency.n} samples tell no p99"
            yield f"{gate} {name}", "unjudged", f"{why}; at most {bound:g} ms is asked"
        else:
            judged += 1
            yield f"{gate} {name}", judge(latency.p99 <= bound), f"p99 {latency.p99:.3g} ms, at most {bound:g} ms"
    if not judged:
        yield gate, "missed", f"no shape could be judged against {bound:g} ms; run again on a quiet machine"


def _cost(serving: Serving, gates: Gates) -> Iterator[Row]:
    bound = gates.usd_per_million_items_max
    if bound is None:
        return
    if serving.cost is None or not serving.cost.usd_per_million_items:
        yield "usd_per_million_items", "unjudged", "no price is known for this device"
        return
    cheapest = min(row.usd.base for row in serving.cost.usd_per_million_items)
    yield (
        "usd_per_million_items", judge(cheapest <= bound),
        f"{cheapest:.3g} USD per million items in the cheapest shape (base price), at most {bound:g}",
    )
