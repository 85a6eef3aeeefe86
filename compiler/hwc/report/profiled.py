"""Read ``profile.json`` of an untrusted bundle: what has the right form is taken, what has not is left out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hwc.predict.dispatch_names import estimate
from hwc.report.records import Dispatch, Peaks, Profiled

MAX_ROWS = 400
"""Dispatches of a function that are read."""
_MACHINE = ("cpu_model", "architecture", "cpu_count", "memory_gib", "system", "fingerprint")
_CONDITIONS = ("driver", "threads", "governor", "pinning", "steal_s")


def figure(value: Any) -> float | None:
    """Return a finite number of at least zero, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) and found >= 0 else None


def part(document: Any, key: str) -> Mapping[str, Any]:
    """Return an object inside an object, empty if it is none."""
    value = document.get(key) if isinstance(document, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def word(value: Any) -> str:
    """Return a string or a number as text, anything else as nothing."""
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def read_profile(document: Mapping[str, Any], *, weight_bits: float | None) -> Profiled:
    """Return what the page takes from a profile; ``weight_bits`` are those of a stored weight of the scheme."""
    told = part(document, "dispatches")
    functions = {
        name: tuple(row for entry in rows[:MAX_ROWS] if (row := _dispatch(entry, weight_bits)) is not None)
        for name, rows in part(told, "functions").items()
        if isinstance(rows, list)
    }
    functions = {name: rows for name, rows in functions.items() if rows}
    peaks = part(document, "peaks")
    return Profiled(
        functions=functions,
        no_dispatches="" if functions else word(told.get("reason")) or "the profile holds none that this hwc can read",
        peaks=_peaks(peaks),
        no_peaks=word(peaks.get("reason")) or "the profile was made before hwc measured the machine's peaks",
        memory_bytes=_memory(part(document, "memory")),
        noise=_noise(document.get("cells")),
        conditions=_conditions(document),
    )


def _dispatch(entry: Any, weight_bits: float | None) -> Dispatch | None:
    name = entry.get("dispatch") if isinstance(entry, Mapping) else None
    if not isinstance(name, str):
        return None
    count, best, mean, share = (figure(entry.get(key)) for key in ("count", "min_us", "mean_us", "share"))
    if not count or not best or not mean or share is None:
        return None
    work = estimate(name, weight_bits=weight_bits)
    return Dispatch(name=name, count=int(count), best_us=best, mean_us=mean, share=share, work=work)


def _peaks(told: Mapping[str, Any]) -> Peaks | None:
    gemm, read = figure(part(told, "gflop_per_s").get("best")), figure(part(told, "read_bytes_per_s").get("best"))
    if not gemm or not read:
        return None
    return Peaks(gflop_per_s=gemm, read_bytes_per_s=read, how=word(told.get("how")))


def _memory(told: Mapping[str, Any]) -> dict[str, float]:
    """Return what loading and running took: the process's own pages, its resident growth, its peak."""
    read = {key: value for key in told if (value := figure(told.get(key))) is not None}
    steps = {
        "load": ("private_before_load_bytes", "private_after_load_bytes"),
        "run": ("private_after_load_bytes", "private_after_run_bytes"),
        "resident": ("rss_before_load_bytes", "rss_after_run_bytes"),
    }
    grown = {
        name: read[after] - read[before] for name, (before, after) in steps.items() if before in read and after in read
    }
    return grown | ({"peak": read["peak_rss_bytes"]} if "peak_rss_bytes" in read else {})


def _noise(cells: Any) -> dict[str, str]:
    rows = [cell for cell in cells if isinstance(cell, Mapping)] if isinstance(cells, list) else []
    told = {word(row.get("function")): row.get("noise") for row in rows}
    return {name: "; ".join(map(word, reasons)) for name, reasons in told.items() if isinstance(reasons, list)}


def _conditions(document: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    machine, conditions = part(document, "machine"), part(document, "conditions")
    rows = [(key, word(machine.get(key))) for key in _MACHINE]
    rows += [(key, word(conditions.get(key))) for key in _CONDITIONS]
    for moment in ("before", "after"):
        found = part(conditions, moment)
        load, clock = figure(found.get("load_1min")), figure(found.get("clock_mhz"))
        rows.append((f"load {moment}", "" if load is None else f"{load:.2f} (1-minute average)"))
        rows.append((f"clock {moment}", "" if clock is None else f"{clock:.0f} MHz"))
    rows.append(("measured", word(document.get("measured_utc"))))
    return tuple((name.replace("_", " "), value) for name, value in rows if value)


def weight_bits(facts: Mapping[str, Any]) -> float | None:
    """Return the bits of a stored weight of a variant's scheme, shares of scales not counted; None for float32."""
    kind = word(part(facts, "scheme").get("kind"))
    return {"fp8": 8.0, "int4": 4.0}.get(kind)


def audit_line(facts: Mapping[str, Any]) -> str:
    """Say how much of the model the scheme covers."""
    audit = part(facts, "audit")
    keys = ("layers", "layers_quantised", "parameters_quantised_share")
    layers, covered, share = (figure(audit.get(key)) for key in keys)
    if layers is None or covered is None or share is None:
        return ""
    return f"{covered:.0f} of {layers:.0f} linear layers, {share:.0%} of the parameters, by {word(audit.get('method'))}"
