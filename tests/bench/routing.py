"""The router: microseconds a decision over 64 candidates, as a library call, for encoders and for language models."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hwc.serve.candidate import Candidate, Cell, State
from hwc.serve.request import Request
from hwc.serve.router import decide
from hwc.serve.token_grid import Line, Rows, TokenGrid, line

CANDIDATES = 64
DECISIONS = 20_000
TARGET_P99_US = 200


def measure() -> dict[str, Any]:
    """Return p50 and p99 of a decision in which every candidate is feasible, so that nothing is skipped."""
    encoder = Request(model="m", items=4, dims={"sequence": 100}, slo_p99_ms=2000.0, min_quality={"cosine_mean": 0.9})
    text = Request(model="m", prompt_tokens=300, completion_tokens=64, slo_ttft_ms=1e5, min_quality={"top1": 0.8})
    plain, tokens = (_timed(wanted, fleet) for wanted, fleet in ((encoder, _encoders()), (text, _language_models())))
    return {
        "candidates": CANDIDATES, "decisions": DECISIONS, "target_p99_us": TARGET_P99_US, **plain,
        **{f"tokens_{name}": value for name, value in tokens.items()},
    }


def _encoders() -> list[Candidate]:
    shapes = ((1, 16, 5.0), (1, 128, 32.0), (8, 128, 260.0))
    cells = tuple(
        Cell(
            bucket=f"b{batch}_s{tokens}", batch=batch, dims=(("sequence", tokens),), typical_ms=typical,
            bound_ms=typical * 1.2, basis="measured p99, n=200",
        )
        for batch, tokens, typical in shapes
    )
    return [
        Candidate(
            node=f"node{index}", bundle="m:1.0.0", variant="cpu/fp32", model="m", verified=True, cells=cells,
            quality={"cosine_mean": 0.99, "top1": 0.9}, usd_per_ms=(index % 7 + 1) * 1e-9, margin_share=0.0,
        )
        for index in range(CANDIDATES)
    ]


def _language_models() -> list[Candidate]:
    """Return a fleet with the grid of a build: eight prompt lengths and six fills of the cache, at two batches."""
    lengths, fills = (1, 16, 32, 64, 128, 256, 512, 1024), (10, 102, 256, 512, 768, 1024)

    def through(tokens: tuple[int, ...], per_token_ms: float, call_ms: float) -> Line:
        typical = [call_ms + per_token_ms * count for count in tokens]
        return line((count, value, 1.2 * value) for count, value in zip(tokens, typical, strict=True))

    rows = tuple(
        Rows(
            batch=batch, prefill=through(lengths, 10.0 * batch, 30.0), decode=through(fills, 0.0, 30.0 + batch),
            basis="measured p99, n=200",
        )
        for batch in (1, 4)
    )
    grid = TokenGrid(rows=rows, context_tokens=1024)
    return [replace(one, cells=(), tokens=grid) for one in _encoders()]


def _timed(wanted: Request, fleet: Sequence[Candidate]) -> dict[str, float]:
    states = {candidate.node: State(queued_ms=float(index)) for index, candidate in enumerate(fleet)}
    took: list[float] = []
    for _ in range(DECISIONS):
        started = time.perf_counter()
        decide(wanted, fleet, states)
        took.append((time.perf_counter() - started) * 1e6)
    took.sort()
    return {"p50_us": took[DECISIONS // 2], "p99_us": took[DECISIONS * 99 // 100]}
