"""hwc's own artefacts, opened as `hwc run` opens them, on a number of threads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hwc.api import find_variant
from hwc.bundle.program import program_of
from hwc.program import Device, Program

ONE_THREAD = "local-sync"
"""The runtime's device that makes one dispatch after another in the caller's thread."""


def why_not(device: Device, threads: int) -> str:
    """Return why a device does not run on so many threads; empty if it does."""
    if threads > 1 and device.driver == ONE_THREAD:
        return f"its target asks for the runtime's device `{ONE_THREAD}`, which has one thread"
    return ""


def program(bundle: str, store: Path, threads: int) -> Program:
    """Return a bundle's variant with as many threads as its device is to have; exits with the reason if it cannot."""
    found = program_of(find_variant(bundle, store=store))
    if why := why_not(found.device, threads):
        raise SystemExit(why)
    return replace(found, device=replace(found.device, threads=threads))
