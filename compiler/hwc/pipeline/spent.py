"""Spent: where the time of a build went, step by step, as their processes were measured."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwc.pipeline.step import Step
from hwc.pipeline.store import Artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What one step of a build took: its process with everything that it started."""

    step: str
    stage: str
    wall_s: float
    cpu_s: float
    peak_rss_bytes: int
    compiler_s: float | None
    """Wall time of the compiler alone, within ``wall_s``; None where none ran."""


def spent(steps: Sequence[Step], done: Mapping[str, Artifact], made: Collection[str]) -> tuple[Spent, ...]:
    """Return what the steps took whose labels are in ``made``, in the plan's order; one that was reused took nothing.

    A step whose figures are not there any more is left out.
    """
    found = (_one(step, done[step.key].path) for step in steps if step.label in made and step.key in done)
    return tuple(one for one in found if one is not None)


def _one(step: Step, folder: Path) -> Spent | None:
    usage = _read(folder / "usage.json")
    if usage is None:
        return None
    compiler = (_read(folder / "timing.json") or {}).get("compile_wall_s")
    return Spent(step=step.label, stage=step.stage.name, compiler_s=compiler, **usage)


def _read(file: Path) -> dict[str, Any] | None:
    try:
        told: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return told
