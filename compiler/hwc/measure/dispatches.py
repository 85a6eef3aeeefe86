"""Per-dispatch times, from the profiler in IREE's own benchmark tool."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hwc import child
from hwc.program import Function, Port, Program

_TYPES = {"float32": "f32", "float16": "f16", "int64": "i64", "int32": "i32", "bool": "i8"}


def tool_path(name: str) -> Path | None:
    """Return the path of one of the runtime wheel's tools, or None."""
    spec = importlib.util.find_spec("iree._runtime_libs")
    for location in list(spec.submodule_search_locations or []) if spec else []:
        if (Path(location) / name).is_file():
            return Path(location) / name
    return None


def breakdown(program: Program, work: Path, *, budget_s: float) -> dict[str, Any]:
    """Return, per function, its dispatches with count and ns, largest share first; or why there is none."""
    benchmark, reader = tool_path("iree-benchmark-module"), tool_path("iree-profile")
    whole = all(part.offset == 0 and part.length is None for part in (program.code, *program.parameters))
    if benchmark is None or reader is None or not whole:
        return {"available": False, "reason": "needs the runtime wheel's tools and unpacked files"}
    per_call = budget_s / max(1, len(program.functions))
    functions = {}
    for function in program.functions:
        rows = _one(program, function, benchmark, reader, work, per_call)
        if isinstance(rows, str):
            return {"available": False, "reason": rows}
        functions[function.name] = rows
    return {"available": True, "functions": functions}


def _one(
    program: Program, function: Function, benchmark: Path, reader: Path, work: Path, budget_s: float
) -> list[dict[str, Any]] | str:
    recording = work / f"{function.name}.ireeprof"
    argv = [
        *(str(benchmark), f"--module={program.code.path}", f"--function={function.name}"),
        *(f"--parameters=model={part.path}" for part in program.parameters),
        *(f"--input={_literal(port)}" for port in function.inputs),
        *(f"--device={device.driver}" for device in (program.device, *program.beside)), "--benchmark_min_time=3x",
        *("--device_profiling_mode=dispatch-events,executable-metadata", f"--device_profiling_output={recording}"),
    ]
    if program.device.driver.startswith("local"):
        argv[-2] = "--device_profiling_mode=host-execution,queue-events,executable-metadata"
    timed = child.run(child.Call(argv=argv, cwd=work, timeout_s=budget_s + 60, memory_bytes=8 << 30))
    if timed.returncode != 0 or not recording.is_file():
        return f"iree-benchmark-module {timed.describe()}"
    read = child.run(
        child.Call(
            argv=(str(reader), "dispatch", "--format=jsonl", str(recording)),
            cwd=work, timeout_s=60, memory_bytes=4 << 30,
        )
    )
    if read.returncode != 0:
        return f"iree-profile {read.describe()}"
    return summarise(read.stdout.splitlines())


def _literal(port: Port) -> str:
    shape = "x".join(str(size) for size in port.shape)
    value = "1" if port.dtype.startswith("int") or port.dtype == "bool" else "0.5"
    return f"{shape}x{_TYPES[port.dtype]}={value}"


def summarise(lines: Sequence[str]) -> list[dict[str, Any]]:
    """Turn the profiler's JSON lines into one row a dispatch kind, by share of the whole call's time.

    Layers with equal shapes share one piece of code and so one row; ``count`` is how often it ran while profiled.
    """
    entries = [json.loads(line) for line in lines]
    groups = [entry for entry in entries if "dispatch" in str(entry.get("type", "")) and "key" in entry]
    total_ns = sum(entry["total_ns"] for entry in groups) or 1
    rows = [
        {
            "dispatch": entry["key"].partition("$")[2] or entry["key"],
            "count": entry["count"],
            "mean_us": entry["avg_ns"] / 1e3,
            "min_us": entry["min_ns"] / 1e3,
            "max_us": entry["max_ns"] / 1e3,
            "std_us": entry["stddev_ns"] / 1e3,
            "share": entry["total_ns"] / total_ns,
        }
        for entry in groups
    ]
    return sorted(rows, key=lambda row: -float(row["share"]))
