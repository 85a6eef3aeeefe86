"""hwc's own artefacts, opened as `hwc run` opens them, on a number of threads."""

from __future__ import annotations

from pathlib import Path

from hwc.api import find_variant
from hwc.bundle.program import program_of
from hwc.program import Program, on_threads


def program(bundle: str, store: Path, threads: int) -> Program:
    """Return a bundle's variant on a number of threads."""
    return on_threads(program_of(find_variant(bundle, store=store)), threads)
