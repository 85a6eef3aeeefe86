"""What a process cost: wall and CPU time and peak memory, read from the kernel when it ends."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one process took, with the children it waited for."""

    wall_s: float
    cpu_s: float
    peak_rss_bytes: int
    stderr: str


def run(argv: Sequence[str], *, log: Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Cost:
    """Run a command to its end and return its cost; raise SystemExit with its last words if it fails."""
    with log.open("w+") as out:
        started = time.perf_counter()
        process = subprocess.Popen(argv, cwd=cwd, env={**os.environ, **(env or {})}, stdout=out, stderr=out)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    said = log.read_text(errors="replace")
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(argv)} exited {process.returncode}\n{said[-2000:]}")
    return Cost(
        wall_s=wall_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_rss_bytes=usage.ru_maxrss * 1024,
        stderr=said,
    )


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return median, min, max and n of some repeats."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return least, tenth percentile, median, ninetieth percentile and count."""
    low, high = values[0], values[0]
    if len(values) > 1:
        deciles = statistics.quantiles(values, n=10, method="inclusive")
        low, high = deciles[0], deciles[-1]
    return {"min": min(values), "p10": low, "median": statistics.median(values), "p90": high, "n": len(values)}
