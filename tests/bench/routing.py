"""The router: microseconds a decision over 64 candidates, as a library call."""

from __future__ import annotations

import time
from typing import Any

from hwc.serve.router import Candidate, Cell, Request, State, decide

CANDIDATES = 64
DECISIONS = 20_000
TARGET_P99_US = 200


def measure() -> dict[str, Any]:
    """Return p50 and p99 of a decision in which every candidate is feasible, so that nothing is skipped."""
    shapes = ((1, 16, 5.0), (1, 128, 32.0), (8, 128, 260.0))
    cells = tuple(
        Cell(
            bucket=f"b{batch}_s{tokens}", batch=batch, dims=(("sequence", tokens),), typical_ms=typical,
            bound_ms=typical * 1.2, basis="measured p99, n=200",
        )
        for batch, tokens, typical in shapes
    )
    fleet = [
        Candidate(
            node=f"node{index}", bundle="m:1.0.0", variant="cpu/fp32", model="m", verified=True, cells=cells,
            quality={"cosine_mean": 0.99}, usd_per_ms=(index % 7 + 1) * 1e-9, margin_share=0.0,
        )
        for index in range(CANDIDATES)
    ]
    states = {candidate.node: State(queued_ms=float(index)) for index, candidate in enumerate(fleet)}
    wanted = Request(model="m", items=4, dims={"sequence": 100}, slo_p99_ms=2000.0, min_quality={"cosine_mean": 0.9})
    took: list[float] = []
    for _ in range(DECISIONS):
        started = time.perf_counter()
        decide(wanted, fleet, states)
        took.append((time.perf_counter() - started) * 1e6)
    took.sort()
    return {
        "candidates": CANDIDATES, "decisions": DECISIONS, "p50_us": took[DECISIONS // 2],
        "p99_us": took[DECISIONS * 99 // 100], "target_p99_us": TARGET_P99_US,
    }
