"""The reference router: one request, prepared candidates and live state to one decision; pure, and fast.

It knows of a variant what its ``serving.json`` says and of a node what its live state says, and nothing else:
that it decides well is the proof that the metadata is enough.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hwc.serve.candidate import Candidate, Cell, State
from hwc.serve.request import Request
from hwc.serve.token_grid import Rows

TIE_SHARE = 0.01
"""Costs closer than this are a tie, which goes to the most loaded server that is still in time: keep the fleet busy."""


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
    ttft_p99_ms: float = math.nan
    """Of a language model, as the next."""
    tpot_p99_ms: float = math.nan
    margin_ms: float = math.nan
    """What is left of the objective that is nearest."""
    usd: float | None = None
    """Cost of this request, as the base price has it."""
    basis: str = ""
    chips: int = 1
    """Chips that work on the request together."""
    link_bytes: float = 0.0
    """Bytes that pass between devices for this request."""
    rejected: tuple[Rejected, ...] = ()

    @property
    def losses(self) -> tuple[Loss, ...]:
        """Every other candidate with the reason it lost."""
        return tuple(Loss(candidate=row[0].name, reason=row[1].format(row[2])) for row in self.rejected)


_Offer = tuple[float, float, Candidate, Cell | Rows, int, State]
"""Cost in USD, predicted p99 in ms, and what they come from: a shape or side by side rows, and how often it is run."""


def decide(request: Request, candidates: Sequence[Candidate], states: Mapping[str, State]) -> Decision:
    """Return the cheapest candidate that is in time; ties go to the most loaded one.

    Every other candidate is told with the reason it lost. Closed form, no search: linear in the number of cells.
    """
    price = _offer if request.prompt_tokens is None else _offer_of_tokens
    offers: list[_Offer] = []
    rejected: list[Rejected] = []
    for candidate in candidates:
        state = states.get(candidate.node, _IDLE)
        if (refused := _refused(request, candidate, state)) is not None:
            rejected.append(refused)
        elif isinstance(found := price(request, candidate, state), float):
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
_NO_TEXT = "generates no text"
_NO_ROOM = "prompt and completion do not fit into a cache of {:.0f} tokens"
_TEXT = "generates text: ask with prompt and completion tokens"
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


def _offer_of_tokens(request: Request, candidate: Candidate, state: State) -> _Offer | float:
    """Return the cheapest batch in time, or the least p99 of those too slow: TTFT, and then a token after the other.

    The cache is taken as full as it is at the end. The bound of a whole request is the sum of its calls' bounds, which
    is never too low: calls may be slow together.
    """
    best: _Offer | None = None
    nearest = math.inf
    prompt, more = request.prompt_tokens or 1, (request.completion_tokens or 1) - 1
    slow = state.thermal_factor * (1 + candidate.margin_share)
    usd_per_ms = (candidate.usd_per_ms or 0.0) * state.thermal_factor
    for rows in candidate.tokens.rows if candidate.tokens else ():
        rounds = -(-request.items // rows.batch)
        ttft_ms, ttft_bound_ms = rows.prefill.in_pieces(prompt)
        itl_ms, itl_bound_ms = rows.decode.at(prompt + more)
        first_ms = state.queued_ms + slow * ((rounds - 1) * more * itl_bound_ms + rounds * ttft_bound_ms)
        p99_ms = first_ms + slow * more * itl_bound_ms
        if p99_ms > request.slo_p99_ms or first_ms > request.slo_ttft_ms or slow * itl_bound_ms > request.slo_tpot_ms:
            nearest = min(nearest, p99_ms)
            continue
        usd = rounds * (ttft_ms + more * itl_ms) * usd_per_ms
        if best is None or usd < best[0]:
            best = (usd, p99_ms, candidate, rows, rounds, state)
    return nearest if best is None else best


def _refused(request: Request, candidate: Candidate, state: State) -> Rejected | None:
    if candidate.model != request.model:
        return candidate, "serves another model", 0.0
    if not candidate.runs:
        return candidate, "a hand-over: it holds sources, and no code to run", 0.0
    if not candidate.verified and not request.allow_unverified:
        return candidate, "unverified: it never ran on the device it is for", 0.0
    if not state.healthy:
        return candidate, "the node is unhealthy", 0.0
    if state.draining and request.priority <= 0:
        return candidate, "the node is draining", 0.0
    if not candidate.cells and candidate.tokens is None:
        return candidate, "no latency was measured that may be trusted", 0.0
    if request.prompt_tokens is None:
        if not candidate.cells:
            return candidate, _TEXT, 0.0
    elif candidate.tokens is None:
        return candidate, _NO_TEXT, 0.0
    elif request.prompt_tokens + (request.completion_tokens or 1) - 1 > candidate.tokens.context_tokens:
        return candidate, _NO_ROOM, float(candidate.tokens.context_tokens)
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
    if isinstance(cell, Rows):
        return _decision_of_tokens(request, best, cell, rejected)
    return Decision(
        chosen=candidate,
        bucket=cell.bucket,
        calls=calls,
        predicted_p50_ms=state.queued_ms + calls * cell.typical_ms * state.thermal_factor,
        predicted_p99_ms=p99_ms,
        margin_ms=request.slo_p99_ms - p99_ms,
        usd=usd,
        basis=cell.basis,
        chips=candidate.chips,
        link_bytes=float(calls * candidate.link_bytes.get(cell.bucket, 0)),
        rejected=rejected,
    )


def _decision_of_tokens(request: Request, best: _Offer, rows: Rows, rejected: tuple[Rejected, ...]) -> Decision:
    usd, p99_ms, candidate, _, rounds, state = best
    prompt, more = request.prompt_tokens or 1, (request.completion_tokens or 1) - 1
    ttft_ms, _ = rows.prefill.in_pieces(prompt)
    itl_ms, itl_bound_ms = rows.decode.at(prompt + more)
    tpot_ms = state.thermal_factor * (1 + candidate.margin_share) * itl_bound_ms
    first_ms = p99_ms - more * tpot_ms
    left = (request.slo_p99_ms - p99_ms, request.slo_ttft_ms - first_ms, request.slo_tpot_ms - tpot_ms)
    return Decision(
        chosen=candidate, bucket=f"batch {rows.batch}", calls=rounds, predicted_p99_ms=p99_ms, ttft_p99_ms=first_ms,
        predicted_p50_ms=state.queued_ms + rounds * (ttft_ms + more * itl_ms) * state.thermal_factor,
        tpot_p99_ms=tpot_ms, margin_ms=min(left), usd=usd, basis=rows.basis, rejected=rejected,
        chips=candidate.chips, link_bytes=request.items * (prompt + more) * candidate.link_bytes_per_token,
    )
