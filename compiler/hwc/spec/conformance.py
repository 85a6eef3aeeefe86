"""The conformance kit's pure part: every check of a descriptor by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hwc.spec import consistent, plausible, plausible_memory
from hwc.spec.finding import Check, Finding
from hwc.spec.target import TargetSpec

CHECKS: Mapping[str, Check] = {
    "sources": consistent.sources,
    "figures": consistent.needed,
    "magnitudes": plausible.magnitudes,
    "peak-rates": plausible.peak_rates,
    "memory-order": plausible_memory.memory_order,
    "bandwidth": plausible_memory.bandwidth_sources,
    "links": plausible_memory.links,
    "tiles": plausible_memory.tiles,
    "power": plausible.power,
    "ridge": plausible.ridge,
    "vector-length": consistent.vector_length,
    "legality": consistent.legality,
}


def examine(target: TargetSpec) -> tuple[Finding, ...]:
    """Return every check's findings, in order."""
    return tuple(replace(finding, check=name) for name, check in CHECKS.items() for finding in check(target))


def contradictions(target: TargetSpec) -> tuple[Finding, ...]:
    """Return what cannot be right about a descriptor; nothing is made from one that has any."""
    return tuple(finding for finding in examine(target) if finding.verdict == "fails")
