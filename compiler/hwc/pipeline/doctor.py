"""What this machine can build and run, and what to install for the rest."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from hwc.capture.source import locate
from hwc.errors import HwcError
from hwc.lower import iree
from hwc.measure.dispatches import tool_path
from hwc.pipeline import targets
from hwc.pipeline.step import tool_version
from hwc.pipeline.store import Store
from hwc.spec.project import Project, find_model, find_target, names_on
from hwc.spec.target import TargetSpec

TOOLS = (
    "torch", "transformers", "optimum-onnx", "onnx", "onnxsim", "onnxruntime", "iree-base-compiler",
    "iree-base-runtime", "safetensors", "tokenizers",
)
DRIVER_ADVICE = {
    "vulkan": "needs such a GPU and its Vulkan driver",
    "cuda": "needs an NVIDIA GPU and its driver (libcuda.so)",
    "hip": "needs an AMD GPU and ROCm",
    "emulated": "tools/install-debian.sh installs the emulator",
    "none": "hwc has no runtime for it: hwc export dir, and run it on its own machine",
    "local-sync": "hwc check and hwc profile verify it on a machine that has it",
    "local-task": "hwc check and hwc profile verify it on a machine that has it",
}


def examine(project: Project) -> dict[str, Any]:
    """Return tools, targets, models, cache and disk as JSON values; raises nothing a missing part would cause."""
    entries = list(Store(project.home).entries())
    total = sum(row[2] for row in entries)
    place = project.home
    while not place.exists():
        place = place.parent
    return {
        "tools": [_tool(name) for name in TOOLS],
        "targets": [_target(project, name) for name in names_on(project.targets_path)],
        "models": [_model(project, name) for name in names_on(project.models_path)],
        "home": str(project.home),
        "cache": f"{len(entries)} stage outputs, {total / 2**20:.0f} MiB",
        "free_gib": shutil.disk_usage(place).free / 2**30,
    }


def _tool(name: str) -> dict[str, str]:
    version = tool_version(name)
    return {"name": name, "version": version, "advice": f"pip install {name}" if version == "absent" else ""}


def _target(project: Project, name: str) -> dict[str, str]:
    try:
        spec = find_target(project, name)
        iree.compiler_path()
        resolved = targets.resolve(spec, project.home)
    except HwcError as error:
        return {"name": name, "builds": "no", "runs": "no", "advice": f"{error.what} {error.hint}".strip()}
    advice = ""
    if not resolved.device_name:
        advice = f"{resolved.absent_reason}; {_advice(spec)}"
    runs = f"yes: {resolved.device_name}" if resolved.device_name else "no"
    if resolved.device_name and tool_path("iree-run-module") is None:
        runs, advice = "no", "pip install iree-base-runtime"
    if spec.made != "build":
        builds = "no" if spec.lowering is None else spec.made
        return {"name": name, "builds": builds, "runs": "no", "advice": f"{spec.made} alone: {spec.not_built}"}
    return {"name": name, "builds": "yes", "runs": runs, "advice": advice}


def _advice(spec: TargetSpec) -> str:
    if spec.execution.driver == "vulkan" and spec.hardware_status == "software":
        return "install it (Debian: libvulkan1 mesa-vulkan-drivers)"
    return DRIVER_ADVICE.get(spec.execution.driver, "")


def _model(project: Project, name: str) -> dict[str, str]:
    try:
        found = find_model(project, name)
        located = locate(found.spec.source, found.folder)
    except HwcError as error:
        return {"name": name, "ready": "no", "advice": f"{error.what}; {error.hint}".strip("; ")}
    return {"name": name, "ready": f"yes: {Path(located.path).name}", "advice": ""}
