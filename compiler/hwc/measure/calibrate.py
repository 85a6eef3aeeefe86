"""Calibrate: what this machine reaches of its own peaks, by kind of work, from probes compiled as models are."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hwc import digest, machine
from hwc.errors import MachineError
from hwc.measure import peaks
from hwc.measure.probing import EMBEDDINGS, Place, Timed, build, time_suites
from hwc.measure.profile import conditions, static_conditions, steal
from hwc.measure.suites import SUITES, Suite
from hwc.predict.class_fit import Peaks, Sample, fit_classes
from hwc.predict.efficiency import Calibration
from hwc.program import Program

TOOLS = ("hwc-compiler", "iree-base-compiler", "iree-base-runtime", "numpy")
PEAK_ROUNDS = 3
Tell = Callable[[str], None]


def calibrate(
    target: str, place: Place, *, budget_s: float, work: Path, tell: Tell, suites: Sequence[Suite] = SUITES
) -> Calibration:
    """Build the suites, time them in turn for ``budget_s``, and fit; building comes on top of it.

    Raises MachineError for a target whose code this machine's CPU does not run: its dispatches cannot be timed here.
    """
    if not place.device.driver.startswith("local"):
        raise MachineError(
            f"`{target}` runs by {place.device.driver}: calibration times this machine's CPU alone",
            hint="calibrate a target of this CPU, such as llvm-cpu-host",
        )
    built = []
    for suite in _encodable(suites, place):
        built.append(build(suite, place, work / suite.name))
        tell(f"{suite.name}: {len(built[-1].operations)} dispatches, compiled in {built[-1].compile_wall_s:.0f} s")
    program = built[0].program
    before = conditions()
    best = _peaks(program, work)
    tell(f"timing for {budget_s:.0f} s")
    timed, rounds = time_suites(built, budget_s=budget_s, work=work / "rounds")
    after = conditions()
    facts = {
        **static_conditions(program), "before": before, "after": after, "steal_s": steal(before, after),
        "rounds": rounds, "method": "measured: least of three calls a round and of all rounds, suites in turn",
    }
    return fitted(target, timed, best, facts)


def _encodable(suites: Sequence[Suite], place: Place) -> list[Suite]:
    """Leave out suites whose weights, or embeddings, the target has no encoding for."""
    known = set(place.recipe.encodings)
    return [suite for suite in suites if suite.form is None or {suite.form.kind, EMBEDDINGS.kind} <= known]


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """What the machine does at best."""

    flop_per_s: float
    bytes_per_s: float
    cache_bytes: int


def _peaks(program: Program, work: Path) -> Best:
    found = [peaks.measure(program, work) for _ in range(PEAK_ROUNDS)]
    if missing := next((row["reason"] for row in found if not row["available"]), ""):
        raise MachineError(f"this machine's peaks cannot be measured: {missing}")
    threads = program.device.threads
    return Best(
        flop_per_s=threads * 1e9 * max(row["gflop_per_s"]["best"] for row in found),
        bytes_per_s=max(row["read_bytes_per_s"]["best"] for row in found),
        cache_bytes=found[0]["last_cache_bytes"] or 0,
    )


def fitted(target: str, timed: Sequence[Timed], best: Best, facts: dict[str, Any]) -> Calibration:
    """Return the calibration that the timed suites come to."""
    empty_s, dispatch_s = min(one.empty_s for one in timed), min(one.dispatch_s for one in timed)
    samples = [
        replace(sample, seconds=sample.seconds + dispatch_s) for one in timed for sample in one.samples
    ]  # the profiler's clock starts when the dispatch's own code does
    found = fit_classes(samples, Peaks(**asdict(best), dispatch_s=dispatch_s))
    rows = tuple(_row(sample) for sample in samples)
    return Calibration(
        target=target, machine=machine.describe().as_json(),
        measured_utc=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **asdict(best), dispatch_s=dispatch_s,
        invocation_s=empty_s, classes=found.classes,
        data_sha256=digest.of_json(list(rows)),
        held_out={
            "all": asdict(found.held_out), "by_class": {name: asdict(row) for name, row in found.by_class.items()},
        },
        conditions=facts, versions={name: _version(name) for name in TOOLS}, samples=rows,
    )


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _row(sample: Sample) -> dict[str, Any]:
    """Return a sample as the file keeps it."""
    operation = sample.operation
    return {
        **{key: value for key, value in asdict(operation).items() if key != "count"},
        "quantised": sample.quantised, "resident": sample.resident, "seconds": sample.seconds, "spread": sample.spread,
    }
