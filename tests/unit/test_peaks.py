"""The machine's peaks are measured by a process of its own, and only for a program that uses this CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hwc.measure import peaks
from hwc.program import Device, Program, Slice

PROGRAM = Program(code=Slice(path=Path("m")), parameters=(), functions=(), device=Device(driver="local-sync"))


def test_one_core_tells_both_peaks_with_their_method(tmp_path: Path) -> None:
    told = peaks.measure(PROGRAM, tmp_path)
    assert (told["available"], told["method"], told["threads"]) == (True, "measured", 1)
    for name in ("gflop_per_s", "read_bytes_per_s"):
        assert 0 < told[name]["median"] <= told[name]["best"]
        assert peaks.MIN_REPEATS <= told[name]["n"] <= peaks.MAX_REPEATS


def test_another_device_has_none_and_says_so(tmp_path: Path) -> None:
    told = peaks.measure(replace(PROGRAM, device=Device(driver="vulkan")), tmp_path)
    assert told == {"available": False, "reason": "measured for this machine's CPU alone, not for vulkan"}
