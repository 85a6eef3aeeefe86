"""The reference router: one request, prepared candidates and live state to one decision; pure, and fast.

It knows of a variant what its ``serving.json`` says and of a node what its live state says, and nothing else:
that it decides well is the proof that the metadata is enough.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hwc.bundle.serving import Serving
from hwc.errors import UsageError

TIE_SHARE = 0.01
"""Costs closer than this are a tie, which goes to the most loaded server that is still in time: keep the fleet busy."""
FEW_SAMPLES_SIGMA = 3.0
"""Where a cell has too few samples for a p99, mean + 3 σ stands for it, or its p95 if that is larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be served."""

    model: str
    items: int = 1
    dims: Mapping[str, int] = field(default_factory=dict)
    """Sizes of an item's named dimensions, as ``{"sequence": 100}``."""
    slo_p99_ms: float
    min_quality: Mapping[str, float] = field(default_factory=dict)
    """Metric to its least value, as ``{"cosine_mean": 0.98}``."""
    priority: int = 0
    """Of two equal requests the higher one is served first; here: it may use a node past its drain mark."""
    allow_unverified: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a node says of itself now."""

    healthy: bool = True
    queued_ms: float = 0.0
    """Work that waits before a new request starts, in milliseconds of this node's time."""
    utilisation: float = 0.0
    thermal_factor: float = 1.0
    """Measured slow-down against the profile: 1.25 for a node that runs a quarter slower now."""
    draining: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One measured shape, reduced to what a decision needs."""

    bucket: str
    batch: int
    dims: tuple[tuple[str, int], ...]
    typical_ms: float
    bound_ms: float
    """p99, or what stands for it."""
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One variant on one node."""

    node: str
    bundle: str
    variant: str
    model: str
    verified: bool
    cells: tuple[Cell, ...]
    quality: Mapping[str, float]
    usd_per_ms: float | None
    margin_share: float
    """Held-out p90 error of the latency fit, added before the comparison with the objective; 0 on measured cells."""
    batch_dim: str = "batch"

    @property
    def name(self) -> str:
        """``NODE: BUNDLE#VARIANT``."""
        return f"{self.node}: {self.bundle}#{self.variant}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Why a candidate was not taken."""

    candidate: str
    reason: str


Rejected = tuple[Candidate, str, float]
"""A candidate, why it lost with a place for one figure, and that figure: put into words only when asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the router answers; ``chosen`` is None where nothing is feasible."""

    chosen: Candidate | None
    bucket: str = ""
    calls: int = 0
    predicted_p50_ms: float = math.nan
    predicted_p99_ms: float = math.nan
    margin_ms: float = math.nan
    """What is left of the objective."""
    usd: float | None = None
    """Cost of this request, as the base price has it."""
    basis: str = ""
    rejected: tuple[Rejected, ...] = ()

    @property
    def losses(self) -> tuple[Loss, ...]:
        """Every other candidate with the reason it lost."""
        return tuple(Loss(candidate=row[0].name, reason=row[1].format(row[2])) for row in self.rejected)


def prepare(node: str, bundle: str, serving: Serving, *, usd_per_hour: float | None = None) -> Candidate:
    """Reduce a ``serving.json`` to a candidate; a node's own price, where it is known, wins over the table's."""
    hourly = usd_per_hour
    if hourly is None and serving.cost is not None:
        hourly = serving.cost.usd_per_hour.total.base
    fits = [fit.holdout.p90 for fit in serving.fit if fit.holdout is not None]
    cells = []
    for cell in serving.profile.request:
        if not cell.valid:
            continue
        told = cell.latency_ms
        few = max(told.p95, told.mean + FEW_SAMPLES_SIGMA * told.std)
        cells.append(
            Cell(
                bucket=cell.bucket,
                batch=cell.batch,
                dims=tuple((dim, size) for dim, size in cell.dims.items() if dim != "batch"),
                typical_ms=told.p50,
                bound_ms=few if told.p99 is None else told.p99,
                basis=f"{cell.method} p99, n={told.n}" if told.p99 is not None else f"bound from n={told.n}",
            )
        )
    return Candidate(
        node=node,
        bundle=bundle,
        variant=serving.identity.variant_id,
        model=serving.identity.model_id,
        verified=serving.status == "verified",
        cells=tuple(cells),
        quality={row.metric: row.value for row in serving.quality},
        usd_per_ms=None if hourly is None else hourly / 3.6e6,
        margin_share=max(fits, default=0.0),
    )


_Offer = tuple[float, float, Candidate, Cell, int, State]
"""Cost in USD, predicted p99 in ms, and what they come from."""


def decide(request: Request, candidates: Sequence[Candidate], states: Mapping[str, State]) -> Decision:
    """Return the cheapest candidate that is in time; ties go to the most loaded one.

    Every other candidate is told with the reason it lost. Closed form, no search: linear in the number of cells.
    """
    offers: list[_Offer] = []
    rejected: list[Rejected] = []
    for candidate in candidates:
        state = states.get(candidate.node, _IDLE)
        if (refused := _refused(request, candidate, state)) is not None:
            rejected.append(refused)
        elif isinstance(found := _offer(request, candidate, state), float):
            rejected.append((candidate, _TOO_SLOW if found < math.inf else _NO_SHAPE, found))
        else:
            offers.append(found)
    if not offers:
        return Decision(chosen=None, rejected=tuple(rejected))
    best = _choose(offers)
    limit = best[0] * (1 + TIE_SHARE)
    for offer in offers:
        if offer is not best:
            dearer = offer[0] > limit
            rejected.append((offer[2], _DEARER if dearer else _TIED, offer[0] / best[0] if best[0] else math.inf))
    return _decision(request, best, tuple(rejected))


_IDLE = State()
_TOO_SLOW = "too slow: p99 {:.1f} ms"
_NO_SHAPE = "no measured shape holds the request"
_DEARER = "costs {:.2f} times as much"
_TIED = "as cheap, but less loaded or slower"


def _choose(offers: Sequence[_Offer]) -> _Offer:
    limit = min(offer[0] for offer in offers) * (1 + TIE_SHARE)
    tied = [offer for offer in offers if offer[0] <= limit]
    return max(tied, key=lambda offer: (offer[5].utilisation, -offer[1], offer[2].name))


def _offer(request: Request, candidate: Candidate, state: State) -> _Offer | float:
    """Return the cheapest shape in time, or the least p99 of those too slow; infinity where no shape holds it."""
    best: _Offer | None = None
    nearest = math.inf
    dims, items, slo_p99_ms = request.dims, request.items, request.slo_p99_ms
    slow = state.thermal_factor * (1 + candidate.margin_share)
    usd_per_ms = (candidate.usd_per_ms or 0.0) * state.thermal_factor
    for cell in candidate.cells:
        for dim, size in cell.dims:
            if dims.get(dim, 1) > size:
                break
        else:
            calls = -(-items // cell.batch)
            p99_ms = state.queued_ms + calls * slow * cell.bound_ms
            if p99_ms > slo_p99_ms:
                nearest = min(nearest, p99_ms)
                continue
            usd = calls * cell.typical_ms * usd_per_ms
            if best is None or usd < best[0]:
                best = (usd, p99_ms, candidate, cell, calls, state)
    return nearest if best is None else best


def _refused(request: Request, candidate: Candidate, state: State) -> Rejected | None:
    if candidate.model != request.model:
        return candidate, "serves another model", 0.0
    if not candidate.verified and not request.allow_unverified:
        return candidate, "unverified: it never ran on the device it is for", 0.0
    if not state.healthy:
        return candidate, "the node is unhealthy", 0.0
    if state.draining and request.priority <= 0:
        return candidate, "the node is draining", 0.0
    if not candidate.cells:
        return candidate, "no latency was measured that may be trusted", 0.0
    if candidate.usd_per_ms is None:
        return candidate, "no price is known", 0.0
    for metric, least in request.min_quality.items():
        value = candidate.quality.get(metric)
        if value is None:
            return candidate, f"quality: {metric} was not measured", 0.0
        if value < least:
            return candidate, f"quality: {metric} {{:.4f}} < {least:g}", value
    return None


def _decision(request: Request, best: _Offer, rejected: tuple[Rejected, ...]) -> Decision:
    usd, p99_ms, candidate, cell, calls, state = best
    return Decision(
        chosen=candidate,
        bucket=cell.bucket,
        calls=calls,
        predicted_p50_ms=state.queued_ms + calls * cell.typical_ms * state.thermal_factor,
        predicted_p99_ms=p99_ms,
        margin_ms=request.slo_p99_ms - p99_ms,
        usd=usd,
        basis=cell.basis,
        rejected=rejected,
    )


def request_from(document: Mapping[str, Any]) -> Request:
    """Read a request from JSON; raise UsageError for an unknown or missing key, or an impossible value."""
    known = {"model", "items", "dims", "slo_p99_ms", "min_quality", "priority", "allow_unverified"}
    if unknown := sorted(set(document) - known):
        raise UsageError(f"unknown key `{unknown[0]}` in the request", hint=f"known: {', '.join(sorted(known))}")
    try:
        request = Request(**document)
    except TypeError as error:
        raise UsageError(f"the request is incomplete: {error}", hint="it needs model and slo_p99_ms") from error
    numbers = (request.items, request.slo_p99_ms, *request.dims.values())
    if not all(isinstance(number, (int, float)) and math.isfinite(number) and number > 0 for number in numbers):
        raise UsageError("items, dims and slo_p99_ms are positive numbers")
    return request
