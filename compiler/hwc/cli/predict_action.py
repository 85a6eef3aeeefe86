"""What ``hwc predict`` does: ask for the prediction, show it with its methods and gaps."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from hwc import render
from hwc.lower.coverage import Blocker
from hwc.pipeline import predicting
from hwc.pipeline.predicting import Asked, Told
from hwc.predict.answer import Row
from hwc.spec.figure import Range, Spread
from hwc.spec.project import open_project

__all__ = ["Asked", "predict"]
WORTH_TELLING = 0.005
"""Least share of the arithmetic, or of the bytes that pass."""
COLUMNS = ("call", "batch", "tokens", "ms (low–high)", "per s", "J per unit", "$/M (low–high)", "KV cache", "bound by")


def predict(asked: Asked, target: str, format: str) -> None:
    """Show a prediction as tables, or as JSON."""
    project = open_project(Path.cwd())
    with render.Progress(quiet=format == "json") as progress:
        told = predicting.predict(project, asked, target, progress)
    if format == "json":
        render.as_json(as_table(told))
        return
    found = told.answer
    chips = f" on {found.chips} chips" if found.chips > 1 else ""
    render.table(
        f"{told.model} ({told.scheme}) on {found.title}{chips} · {found.hardware_status} · {found.method}", COLUMNS,
        [_row(row) for row in found.rows],
    )
    render.table(
        "what takes the time, at base figures", ("call", "operations", "bound by", "share"),
        [_top(row) for row in found.rows],
    )
    for line in remarks(told):
        render.note(line)


def as_table(told: Told) -> dict[str, object]:
    """Return a prediction as JSON's plain values."""
    rows = [plain(row) for row in told.answer.rows]
    return {**asdict(told), "answer": {**asdict(told.answer), "rows": rows}}


def plain(row: Row) -> dict[str, object]:
    """Return one call as JSON's plain values."""
    call = {key: value for key, value in asdict(row.call).items() if key != "seconds"}
    spreads = {"seconds": row.seconds, "per_s": row.per_s, "j_per_unit": row.j_per_unit}
    told: dict[str, object] = {key: value and value.model_dump() for key, value in spreads.items()}
    energy = row.call.energy_j
    call["energy_j"] = energy and energy.model_dump()
    told = {**asdict(row), **told}
    return {**told, "usd_per_million": row.usd_per_million and row.usd_per_million.model_dump(), "call": call}


def remarks(told: Told) -> list[str]:
    """Return what limits a prediction, a line each."""
    found = told.answer
    size = f"{found.weight_bytes / 2**20:.1f} MiB of weights"
    kinds = f"activations {told.activations}" + (f", cache {told.kv}" if told.kv else "")
    lines = [f"{size}, {kinds}; work from {told.workload}; method: {found.method}"]
    energy = {row.call.energy_method for row in found.rows} - {None}
    lines += [f"energy: {how}" for how in sorted(filter(None, energy))]
    lines += [f"no rate for these types, so that of wider ones: {text}" for text in found.widened]
    if found.assumed:
        lines.append(f"assumed figures: {', '.join(found.assumed)}")
    if found.missing:
        lines.append(f"not disclosed, and left out: {', '.join(found.missing)}")
    lines += [
        f"`{one.action}`, priced here as the chip's own: {one.op} of {one.types}, {one.shares.flops:.1%} of arithmetic "
        f"and {one.shares.traffic_bytes:.1%} of the traffic: {one.reason}"
        for one in _off_chip(told)
    ]
    if any(row.usd_per_million for row in found.rows):
        lines.append("prices: from the dated table, at its site's utilisation; mostly assumed")
    if found.chips > 1:
        sent = {row.call.link_bytes_per_chip / row.batch for row in found.rows if row.phase == "decode"}
        lines += [f"each chip sends {bytes_ / 1024:.1f} KiB a token" for bytes_ in sorted(sent)]
    return lines


def _off_chip(told: Told) -> list[Blocker]:
    """Return what leaves the chip, where it is worth a line."""
    return [one for one in told.off_chip if max(one.shares.flops, one.shares.traffic_bytes) >= WORTH_TELLING]


def _row(row: Row) -> list[str]:
    name = {"prefill": "prompt (TTFT)", "decode": "token (ITL)"}.get(row.phase, row.phase)
    fits, per_s = "" if row.fits else " (does not fit)", f"{rate(row.per_s.base)} {row.unit}s"
    return [
        name, str(row.batch), str(row.tokens or "–"), interval(row.seconds, 1e3), per_s, interval(row.j_per_unit),
        interval(row.usd_per_million), f"{row.kv_bytes / 2**20:.1f} MiB{fits}", row.call.bound,
    ]


def rate(per_s: float) -> str:
    """Return a rate in plain digits."""
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.3g}"


def interval(value: Spread | Range | None, factor: float = 1.0) -> str:
    """Return a figure as ``base (low–high)``."""
    if value is None:
        return "–"
    base, low, high = (f"{end * factor:.3g}" for end in (value.base, value.low, value.high))
    return f"{base} ({low}–{high})"


def _top(row: Row) -> list[str]:
    name = f"{row.phase} {row.batch}×{row.tokens}" if row.tokens else row.phase
    tops = [f"{one.name} ×{one.count} {one.share:.0%} ({one.bound})" for one in row.call.top[:3]]
    whole = sum(row.call.parts.values()) or 1.0
    parts = [f"{part} {seconds / whole:.0%}" for part, seconds in row.call.parts.items() if seconds]
    return [name, ", ".join(tops), row.call.bound, ", ".join(parts)]
