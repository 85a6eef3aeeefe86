"""What one core of this machine does at best: float32 multiply-adds, and bytes read from memory past the caches.

Measured in a process of its own, whose BLAS is told to use one thread before numpy is imported:
``python -m hwc.measure.peaks`` prints the figures as JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hwc import child
from hwc.program import Program

BUDGET_S = 0.25
"""Time after which no further repeat of either measurement starts, once three are done."""
MIN_REPEATS, MAX_REPEATS = 3, 9
GEMM_SIZE = 512
READ_BYTES, MAX_READ_BYTES = 256 << 20, 768 << 20
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_TIMEOUT_S = 60.0
_MEMORY_BYTES = 4 << 30


def measure(program: Program, work: Path) -> dict[str, Any]:
    """Return the peaks of one core for a program that computes on this machine's CPU, or why there are none."""
    if not program.device.driver.startswith("local"):
        return {"available": False, "reason": f"measured for this machine's CPU alone, not for {program.device.driver}"}
    done = child.run(
        child.Call(
            argv=(sys.executable, "-m", "hwc.measure.peaks"), cwd=work, timeout_s=_TIMEOUT_S,
            memory_bytes=_MEMORY_BYTES, env=dict.fromkeys(_ONE_THREAD, "1"),
        )
    )
    if done.returncode != 0:
        return {"available": False, "reason": f"the process that measures them {done.describe()}"}
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def figures() -> dict[str, Any]:
    """Measure both peaks in this process; numpy's BLAS must have been told its number of threads before."""
    import numpy as np

    left = np.ones((GEMM_SIZE, GEMM_SIZE), np.float32)
    product = np.empty_like(left)
    read_bytes = _read_bytes(_last_cache_bytes())
    gemm = _rates(lambda: np.matmul(left, left, out=product), work=2.0 * GEMM_SIZE**3 / 1e9)
    array = np.ones(read_bytes // 4, np.float32)  # written: untouched pages would all be one page of zeros
    read = _rates(lambda: array.max(), work=float(array.nbytes))
    return {
        "available": True,
        "method": "measured",
        "threads": 1,
        "gflop_per_s": gemm,
        "read_bytes_per_s": read,
        "how": f"float32 matrix product of {GEMM_SIZE}³ and largest of {read_bytes >> 20} MiB, numpy {np.__version__}",
        "last_cache_bytes": _last_cache_bytes(),
    }


def _read_bytes(last_cache_bytes: int | None) -> int:
    return min(MAX_READ_BYTES, max(READ_BYTES, 2 * (last_cache_bytes or 0)))


def _rates(call: Callable[[], Any], *, work: float) -> dict[str, float]:
    """Return median and best of work done a second, after one call that is not counted."""
    call()
    rates: list[float] = []
    deadline = time.perf_counter() + BUDGET_S
    while len(rates) < MIN_REPEATS or (len(rates) < MAX_REPEATS and time.perf_counter() < deadline):
        started = time.perf_counter()
        call()
        rates.append(work / (time.perf_counter() - started))
    return {"median": statistics.median(rates), "best": max(rates), "n": len(rates)}


def _last_cache_bytes() -> int | None:
    """Return the size of the largest cache Linux tells of, or None."""
    sizes = [path.read_text().strip() for path in _CACHES.glob("index*/size")] if _CACHES.is_dir() else []
    return max((int(size[:-1]) << 10 for size in sizes if size.endswith("K") and size[:-1].isdecimal()), default=None)


if __name__ == "__main__":
    print(json.dumps(figures()))  # noqa: T201
