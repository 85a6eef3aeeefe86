"""Profile: latency per bucket with its spread, load time, memory and the conditions it was measured under."""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hwc import machine
from hwc.measure import dispatches, peaks
from hwc.program import Program
from hwc.runtime import clean

NOISY_CV = 0.10
NOISY_WAIT_SHARE = 0.05
NOISY_DRIFT = 0.10


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """How latencies are measured."""

    warmup: int = 3
    min_rounds: int = 5
    rounds: int = 200
    budget_s: float = 8.5
    """Time after which no further round starts once ``min_rounds`` are done."""
    dispatch_budget_s: float = 30.0
    composed: bool = True
    """Whether a language model's prompts are timed up to its whole cache, in pieces where no shape holds them."""


def profile(
    program: Program, method: Method, *, cases: Path, context_tokens: int | None = None, timeout_s: float,
    memory_bytes: int, out: Path,
) -> None:
    """Write ``profile.json``: cells per function, load, memory, conditions, dispatches, peaks, raw latencies.

    With ``context_tokens``, the length of a language model's cache, cells are per prompt length and per fill of the
    cache. Rounds go over all cells in turn in one clean process, so that drift of the machine hits them alike.
    """
    program = timed(program)
    before = conditions()
    report = clean.serve(
        out / "work", program, "time", timeout_s=timeout_s, memory_bytes=memory_bytes, cases=str(cases),
        warmup=method.warmup, min_rounds=method.min_rounds, rounds=method.rounds, budget_s=method.budget_s,
        context_tokens=context_tokens, composed=method.composed,
    )
    after = conditions()
    on_processor = program.device.driver == "local-sync"
    facts = {
        "method": asdict(method),
        "cells": [cell(series, report, on_processor=on_processor) for series in report["series"]],
        "load_s": report["load_s"],
        "memory": {key: value for key, value in report.items() if key.endswith("_bytes")},
        "conditions": {**static_conditions(program), "before": before, "after": after, "steal_s": steal(before, after)},
        "dispatches": dispatches.breakdown(program, out / "work", budget_s=method.dispatch_budget_s),
        "peaks": peaks.measure(program, out / "work"),
        "machine": machine.describe().as_json(),
        "measured_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "raw_wall_ms": report["wall_ms"],
    }
    (out / "profile.json").write_text(json.dumps(facts, indent=1, sort_keys=True))
    shutil.rmtree(out / "work")


def timed(program: Program) -> Program:
    """Leave out what only scores: a language model's functions that tell the logits of every position."""
    return replace(
        program, functions=tuple(entry for entry in program.functions if entry.bucket.get("logits", 1) == 1)
    )


def cell(series: Mapping[str, Any], report: Mapping[str, Any], *, on_processor: bool) -> dict[str, Any]:
    """Summarise the latencies of one series of calls; say why it is not to be trusted if it is noisy.

    ``on_processor``: the calls compute in the calling thread, so time off the processor is somebody else's.
    """
    name = series["function"]
    wall: list[float] = report["wall_ms"][name]
    cpu: list[float] = report["cpu_ms"][name]
    summary = summarise(wall)
    reasons = noise(wall, cpu if on_processor else wall)
    return {
        **series,
        "latency_ms": summary,
        "first_ms": report["first_ms"][name],
        "items_per_s": series["batch"] * 1e3 / summary["p50"],
        "valid": not reasons,
        "noise": reasons,
    }


def summarise(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p90, p95, p99, mean, std, ci95 (half-width of the mean's interval), min and n.

    Percentiles are nearest-rank: every figure told is one that was measured. A p99 of fewer than 100 samples is
    the maximum; the reader sees it by ``n``.
    """
    ordered = sorted(values)
    count = len(ordered)

    def rank(share: float) -> float:
        return ordered[max(0, math.ceil(share * count) - 1)]

    std = statistics.stdev(ordered) if count > 1 else 0.0
    return {
        "p50": rank(0.5), "p90": rank(0.9), "p95": rank(0.95), "p99": rank(0.99),
        "mean": statistics.fmean(ordered), "std": std, "ci95": 1.96 * std / math.sqrt(count), "min": ordered[0],
        "n": count,
    }


def noise(wall: Sequence[float], cpu: Sequence[float]) -> list[str]:
    """Return the reasons to distrust a cell: spread, time spent waiting for a processor, drift."""
    reasons = []
    middle = statistics.median(wall)
    spread = statistics.median(abs(value - middle) for value in wall) * 1.4826 / middle
    if spread > NOISY_CV:
        reasons.append(f"robust spread {spread:.0%} of the median")
    waiting = 1 - sum(min(c, w) for c, w in zip(cpu, wall, strict=True)) / sum(wall)
    if waiting > NOISY_WAIT_SHARE:
        reasons.append(f"{waiting:.0%} of the time was spent off the processor")
    half = len(wall) // 2
    if half >= 5:
        drift = statistics.median(wall[half:]) / statistics.median(wall[:half]) - 1
        if abs(drift) > NOISY_DRIFT:
            reasons.append(f"the second half is {drift:+.0%} against the first")
    return reasons


def conditions() -> dict[str, Any]:
    """Return the machine's load, clock and stolen time now."""
    ticks = os.sysconf("SC_CLK_TCK")
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    clocks = [
        float(line.partition(":")[2])
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("cpu MHz")
    ]
    return {
        "load_1min": os.getloadavg()[0],
        "stolen_s": int(fields[8]) / ticks if len(fields) > 8 else 0.0,
        "clock_mhz": max(clocks, default=None),
    }


def steal(before: dict[str, Any], after: dict[str, Any]) -> float:
    """Return the seconds a hypervisor took between two readings."""
    return float(after["stolen_s"] - before["stolen_s"])


def static_conditions(program: Program) -> dict[str, Any]:
    """Return what does not change during a run."""
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "cpu": machine.describe().cpu_model,
        "threads": program.device.threads,
        "driver": program.device.driver,
        "governor": governor.read_text().strip() if governor.is_file() else "unknown",
        "pinning": "none",
        "boundary": "engine: inputs on the device to outputs on the host, no queue, no network",
        "percentiles": "nearest rank over single calls",
    }
