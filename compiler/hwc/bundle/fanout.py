"""How a variant's calls fan out over devices, and what passes between them, priced by the descriptor's links; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from hwc.bundle.serving_records import Fanout, FanoutCell
from hwc.spec.figure import Range, Spread, spread
from hwc.spec.hardware import Link
from hwc.spec.target import TargetSpec

BATCH_DIM, TOKENS_DIM = "batch", "sequence"


def fanout(target: TargetSpec, lowered: Mapping[str, Any], *, language: bool) -> Fanout | None:
    """Return the fan-out that lowering recorded; None for a variant that runs on one device.

    Bytes are counted on the graph: every value that changes the device in one call. Time is their number by the link's
    latency and their bytes by its rate, as if none overlapped with work.
    """
    if "sharding" in lowered:
        told = {name: (one["transfers"], one["bytes"]) for name, one in lowered["sharding"]["functions"].items()}
        return _fanout(target, lowered, told, "chip", int(lowered["sharding"]["chips"]), language)
    if "placement" in lowered:
        told = {
            name: (one["link_transfers_per_call"], one["link_bytes_per_call"])
            for name, one in lowered["placement"].items()
        }
        return _fanout(target, lowered, told, "host", 1, language)
    return None


def _fanout(
    target: TargetSpec, lowered: Mapping[str, Any], told: Mapping[str, tuple[int, int]],
    peer: Literal["chip", "host"], chips: int, language: bool,
) -> Fanout:
    name, link = next((entry for entry in target.hardware.links.items() if entry[1].peer == peer), (None, None))
    cells = []
    for function in lowered["functions"]:
        transfers, link_bytes = told.get(function["name"], (0, 0))
        bucket = function["bucket"]
        units = bucket.get(BATCH_DIM, 1) * (bucket.get(TOKENS_DIM, 1) if language else 1)
        cells.append(
            FanoutCell(
                bucket=function["name"], transfers=transfers, link_bytes=link_bytes,
                link_bytes_per_unit=link_bytes / units,
                link_s=_seconds(link, transfers, link_bytes) if link is not None else None,
                link_j=_joules(link, link_bytes) if link is not None else None,
            )
        )
    return Fanout(
        chips=chips, peer=peer, link=name, unit="token" if language else "item", cells=tuple(cells), method="estimated"
    )


def _seconds(link: Link, transfers: int, link_bytes: int) -> Range:
    rate = spread(link.bytes_per_s)
    latency = spread(link.latency_s) if link.latency_s is not None else None
    fixed = {"low": 0.0, "base": 0.0, "high": 0.0} if latency is None else latency.model_dump()
    return Range(
        low=link_bytes / rate.high + transfers * fixed["low"], base=link_bytes / rate.base + transfers * fixed["base"],
        high=link_bytes / rate.low + transfers * fixed["high"],
    )


def _joules(link: Link, link_bytes: int) -> Range | None:
    if link.pj_per_byte is None:
        return None
    energy: Spread = spread(link.pj_per_byte)
    low, base, high = (value * 1e-12 * link_bytes for value in (energy.low, energy.base, energy.high))
    return Range(low=low, base=base, high=high)
