"""Calibrate a target on the machine at hand, and find a descriptor's calibration again."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

from hwc import machine
from hwc.errors import MachineError
from hwc.formats import Kind
from hwc.lower import iree
from hwc.measure.calibrate import calibrate
from hwc.measure.probing import Place
from hwc.pipeline.dispatches import recipe_of
from hwc.pipeline.plan import stored_as
from hwc.pipeline.targets import resolve
from hwc.predict.efficiency import Calibration, load
from hwc.spec.project import Project, locate_target, names_on
from hwc.spec.target import TargetSpec

FOLDER = "calibration"
"""Beside the descriptors that name it."""


def run(project: Project, target_name: str, *, budget_s: float, tell: Callable[[str], None]) -> Calibration:
    """Measure and fit; raises MachineError where the target does not run here, StepError as lowering does."""
    found = locate_target(project, target_name)
    resolved = replace(resolve(found.spec, project.home), folder=found.folder)
    if not resolved.device_name:
        raise MachineError(f"`{target_name}` does not run here: {resolved.absent_reason}")
    kinds: tuple[Kind, ...] = get_args(Kind)
    encodings = {kind: stored_as(resolved.spec, kind) for kind in kinds if kind in resolved.spec.encoding}
    place = Place(
        recipe=recipe_of(resolved, encodings), device=resolved.device,
        limits=iree.Limits(timeout_s=project.spec.step_timeout_s, memory_bytes=project.spec.step_memory_bytes),
    )
    with tempfile.TemporaryDirectory(prefix="hwc-calibrate-") as work:
        return calibrate(target_name, place, budget_s=budget_s, work=Path(work), tell=tell)


def default_path(project: Project, target_name: str) -> Path:
    """Return where a calibration is written unless the user says otherwise."""
    return project.root / project.spec.targets_dir / FOLDER / f"{target_name}.json"


def of_target(project: Project, target: TargetSpec) -> Calibration | None:
    """Return the calibration that a descriptor names; None where it names none.

    None, too, for the CPU of the machine at hand (``cpu = "host"``) where the file is of another machine, or not there
    yet. Raises as predict.efficiency.load does otherwise.
    """
    if not target.calibration:
        return None
    path = names_on(project.targets_path)[target.name].parent / target.calibration
    own = target.lowering is not None and target.lowering.cpu == "host"
    if own and not path.is_file():
        return None
    found = load(path)
    return found if not own or measured_here(found) else None


def measured_here(calibration: Calibration) -> bool:
    """Return whether a calibration is of a machine like this one."""
    return calibration.machine.get("fingerprint") == machine.describe().fingerprint
