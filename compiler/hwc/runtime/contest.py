"""Several artefacts of one model timed in one process, call by call in turn, one shape after the other."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hwc.files import write_atomic
from hwc.runtime.grid import Series
from hwc.runtime.timing import once

if TYPE_CHECKING:
    from hwc.runtime.session import Session

SAMPLE_MS = 2.0
"""A sample of a fast call is the mean of as many as take this long: a clock's own cost is no difference."""
MOST_REPEATS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """How often every entrant is timed in each shape."""

    min_rounds: int
    rounds: int
    budget_s: float
    """Time for all shapes together; one starts no further round after its share, once ``min_rounds`` are done."""


def run(
    sessions: Mapping[str, Session], series: Sequence[Series], how: Turns, kept: Path, tell: Callable[[str], None]
) -> dict[str, dict[str, list[float]]]:
    """Return milliseconds by entrant and shape, one a round.

    A finished shape is kept in the folder ``kept``: a run that is cut off loses the shape it was at, no more.
    """
    kept.mkdir(parents=True, exist_ok=True)
    times: dict[str, dict[str, list[float]]] = {name: {} for name in sessions}
    for number, one in enumerate(series):
        file = kept / f"{one.name}.json"
        if (found := _finished(file, list(sessions))) is None:
            tell(f"{one.name}, {number + 1} of {len(series)} shapes")
            found = _shape(sessions, one, how, how.budget_s / len(series))
            write_atomic(file, json.dumps(found).encode())
        else:
            tell(f"{one.name} was measured before the interruption")
        for name, values in found.items():
            times[name][one.name] = values
    return times


def _finished(file: Path, names: list[str]) -> dict[str, list[float]] | None:
    try:
        found: dict[str, list[float]] = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return found if list(found) == names else None


def _shape(sessions: Mapping[str, Session], one: Series, how: Turns, budget_s: float) -> dict[str, list[float]]:
    staged = {
        name: [(function, session.stage(function, feeds)) for function, feeds in one.calls]
        for name, session in sessions.items()
    }
    for name, session in sessions.items():
        once(session, staged[name])
    slowest_ms = max(once(session, staged[name]) for name, session in sessions.items())
    repeats = max(1, min(MOST_REPEATS, round(SAMPLE_MS / slowest_ms)))
    times: dict[str, list[float]] = {name: [] for name in sessions}
    order, deadline, done = random.Random(0), time.monotonic() + budget_s, 0  # noqa: S311 (an order, no secret)
    while done < how.min_rounds or (done < how.rounds and time.monotonic() < deadline):
        for name in order.sample(list(sessions), len(sessions)):
            taken = sum(once(sessions[name], staged[name]) for _ in range(repeats))
            times[name].append(taken / repeats)
        done += 1
    return times
