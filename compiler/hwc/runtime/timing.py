"""Timing inside the artefact's process: series of calls, in rounds over all of them, so that drift hits them alike."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwc.program import Function
from hwc.runtime.grid import Series

if TYPE_CHECKING:
    import numpy as np

MOST_REPEATS = 10
P99_SAMPLES = 100
TOP_UP_MS = 2000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """How often every series is timed."""

    warmup: int
    min_rounds: int
    rounds: int
    budget_s: float
    """Time after which no further round starts once ``min_rounds`` are done."""


def single(functions: Sequence[Function], feeds: Mapping[str, Mapping[str, np.ndarray]]) -> tuple[Series, ...]:
    """Return one series of one call for each function; ``feeds`` by bucket, as JSON with sorted keys."""
    return tuple(
        Series(
            name=entry.name, facts={"bucket": dict(entry.bucket), "batch": _batch(entry)},
            calls=((entry.name, feeds[json.dumps(entry.bucket, sort_keys=True)]),),
        )
        for entry in functions
    )


def _batch(function: Function) -> int:
    return function.inputs[0].shape[0] if function.inputs and function.inputs[0].shape else 1


def measure(
    session: Any, series: Sequence[Series], how: Rounds, *, warm: Callable[[], None]
) -> dict[str, dict[str, Any]]:
    """Time every series: once first, then warm, then in rounds; return milliseconds by name.

    In a round a fast series is timed up to ten times as often as the slowest: percentiles need samples. ``warm`` is
    called when everything has run once. Series of several calls come last and find the code warm.
    """
    staged = {
        one.name: [(name, session.stage(name, feeds)) for name, feeds in one.calls]
        for one in sorted(series, key=lambda one: len(one.calls))
    }
    first = {name: once(session, calls) for name, calls in staged.items()}
    warmed = {
        name: min((once(session, calls) for _ in range(how.warmup - 1 or 1)), default=first[name])
        if len(calls) == 1
        else first[name]
        for name, calls in staged.items()
    }
    warm()
    slowest = max(warmed.values())
    repeats = {name: max(1, min(MOST_REPEATS, round(slowest / taken))) for name, taken in warmed.items()}
    wall: dict[str, list[float]] = {name: [] for name in staged}
    cpu: dict[str, list[float]] = {name: [] for name in staged}

    def sample(name: str) -> None:
        before = time.process_time()
        wall[name].append(once(session, staged[name]))
        cpu[name].append((time.process_time() - before) * 1e3)

    deadline = time.monotonic() + how.budget_s
    done = 0
    while done < how.min_rounds or (done < how.rounds and time.monotonic() < deadline):
        for name, count in repeats.items():
            for _ in range(count):
                sample(name)
        done += 1
    for name in staged:  # a p99 needs a hundred samples: take the few that lack
        if (P99_SAMPLES - len(wall[name])) * warmed[name] <= TOP_UP_MS:
            while len(wall[name]) < P99_SAMPLES:
                sample(name)
    return {"first_ms": first, "wall_ms": wall, "cpu_ms": cpu}


def once(session: Any, calls: Sequence[tuple[str, list[Any]]]) -> float:
    """Make the calls one after the other; return the milliseconds until the last result lies on the host."""
    started = time.perf_counter()
    for name, inputs in calls:
        for value in session.invoke(name, inputs):
            session.fetch(value)
    return (time.perf_counter() - started) * 1e3
