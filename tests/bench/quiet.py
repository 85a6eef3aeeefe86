"""Whether the machine has anything else to do: the cores kept busy while this process waits."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import chips

MOST_BUSY_CORES = 0.1
"""What a desktop's own services take; one busy core in two changes times by a third."""
_TICK_HZ = 100


def busy_cores(seconds: float = 3) -> float:
    """Return how many cores were busy on average while this process slept (Linux)."""
    before = _busy_ticks()
    time.sleep(seconds)
    return (_busy_ticks() - before) / _TICK_HZ / seconds


def when() -> dict[str, Any]:
    """Return the machine, the time, and what else it is doing: what heads every page of figures."""
    from hwc import machine

    busy = busy_cores()
    return {
        "measured_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "busy_cores_before": busy,
        "quiet": busy <= MOST_BUSY_CORES, "machine": machine.describe().as_json(),
        "vectors": chips.vectors(machine.cpu_flags()),
    }


def _busy_ticks() -> int:
    user, nice, system, _idle, _iowait, irq, softirq, *_ = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(map(int, (user, nice, system, irq, softirq)))
