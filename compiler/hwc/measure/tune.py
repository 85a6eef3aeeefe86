"""Tune: times of one model's code made in several ways, on the machine at hand, in turn."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from hwc import machine
from hwc.capture.golden import load_cases
from hwc.events import PROGRESS
from hwc.measure import profile
from hwc.program import Program
from hwc.runtime import contest, grid, timing
from hwc.runtime.contest import Turns

FILE = "times.json"


def measure(
    programs: Mapping[str, Program], how: Turns, *, cases: Path, context_tokens: int | None, kept: Path, out: Path
) -> None:
    """Write ``times.json``: milliseconds by entrant and shape, one a round, and the machine they were measured on.

    All entrants run in this process, each of which has passed its check in a process of its own. ``kept`` holds what
    an earlier, interrupted run has measured.
    """
    from hwc.runtime.session import Session

    programs = {name: profile.timed(program) for name, program in programs.items()}
    functions = next(iter(programs.values())).functions
    if context_tokens is None:
        feeds = {json.dumps(case.bucket, sort_keys=True): case.feeds for case in load_cases(cases)}
        series = timing.single(functions, feeds)
    else:
        series = grid.series(functions, context_tokens, composed=False)
    before = profile.conditions()
    sessions = {name: Session(program) for name, program in programs.items()}
    times = contest.run(sessions, series, how, kept, _tell)
    facts = {
        "times_ms": times, "method": asdict(how), "machine": machine.describe().as_json(),
        "conditions": {"before": before, "after": profile.conditions()},
        "measured_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    (out / FILE).write_text(json.dumps(facts, indent=1, sort_keys=True))


def _tell(text: str) -> None:
    sys.stderr.write(f"{PROGRESS}{text}\n")
