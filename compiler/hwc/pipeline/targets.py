"""Resolve targets for this machine: detect the host CPU, and whether a device to run on is there."""

from __future__ import annotations

import json
import platform
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from hwc import child, digest, machine
from hwc.errors import MachineError
from hwc.files import write_atomic
from hwc.lower import cpu_flags, emulator_tools, iree, tiles
from hwc.lower.flags import HOST_FLAGS, compiler_flags
from hwc.measure.dispatches import tool_path
from hwc.pipeline.plan import ResolvedTarget
from hwc.pipeline.step import tool_version
from hwc.program import Device, EmulatedChip
from hwc.spec.target import TargetSpec


def resolve(target: TargetSpec, home: Path) -> ResolvedTarget:
    """Fill in what is detected; raise MachineError if the host's CPU cannot be told."""
    lowering = target.lowering
    if lowering is not None and lowering.cpu == "host":
        host = host_cpu(home)
        lowering = lowering.model_copy(update={"cpu": host.name, "cpu_features": host.features})
    if lowering is not None:
        lowering = tiles.derived(lowering, target.hardware)
    resolved = target.model_copy(update={"lowering": lowering})
    features = required_features(resolved, home)
    resolved, left_out = cpu_flags.resolved(resolved, architecture(resolved), features)
    device = Device(
        driver=target.execution.driver,
        device_match=target.execution.device_match,
        isa_features=features,
        architecture=architecture(resolved),
        emulator=_emulated(resolved),
    )
    name, reason = available(device)
    return ResolvedTarget(
        spec=resolved, device=device, device_name=name, absent_reason=reason, kernels_left_out=left_out
    )


def architecture(target: TargetSpec) -> str:
    """Return the instruction set CPU code is for: the triple's, or this machine's; empty for other code."""
    if target.lowering is None or target.lowering.backend != "llvm-cpu":
        return ""
    return target.lowering.triple.partition("-")[0] or platform.machine()


def required_features(target: TargetSpec, home: Path) -> tuple[str, ...]:
    """Return the CPU features the code may use: the descriptor's own and those its CPU name implies."""
    lowering = target.lowering
    if lowering is None or lowering.backend != "llvm-cpu":
        return ()
    name = digest.of_json([lowering.cpu, lowering.triple, list(lowering.cpu_features)])
    return _cached(home, name, lambda work: iree.probe_cpu(compiler_flags(lowering), work).features)


def host_cpu(home: Path) -> iree.HostCpu:
    """Return the host CPU's LLVM name and features, asked of the compiler once per CPU and compiler version."""
    name, *features = _cached(home, "host-cpu", lambda work: _listed(iree.probe_cpu(HOST_FLAGS, work)))
    return iree.HostCpu(name=name, features=tuple(features))


def _listed(host: iree.HostCpu) -> tuple[str, ...]:
    return (host.name, *host.features)


def available(device: Device) -> tuple[str, str]:
    """Return the name of a matching device on this machine and ``""``; or ``""`` and why there is none."""
    if device.driver == "none":
        return "", "hwc does not run this target"
    if device.emulator is not None:
        return _emulator(device.emulator)
    if device.driver.startswith("local"):
        try:
            machine.require_cpu(device.architecture, device.isa_features)
        except MachineError as error:
            return "", error.what
        return machine.describe().cpu_model, ""
    names = devices(device.driver)
    chosen = machine.choose_device(names, device.device_match)
    if chosen is None:
        return "", f"no {device.driver} device on this machine matches {device.device_match}"
    return names[chosen], ""


def _emulated(target: TargetSpec) -> EmulatedChip | None:
    told = target.execution.emulator
    if told is None:
        return None
    return EmulatedChip(
        program=told.program, cpu=told.cpu, min_version=told.min_version, format=target.code().format
    )


def _emulator(chip: EmulatedChip) -> tuple[str, str]:
    try:
        _, version = emulator_tools.require(chip)
    except MachineError as error:
        return "", f"{error.what}; {error.hint}"
    return f"{chip.program} {version}, {chip.cpu}", ""


def devices(driver: str) -> list[str]:
    """List the names of a driver's devices, asked in a child process: a broken driver can crash its caller."""
    tool = tool_path("iree-run-module")
    if tool is None:
        return []
    with tempfile.TemporaryDirectory(prefix="hwc-devices-") as work:
        call = child.Call(
            argv=(str(tool), f"--dump_devices={driver}"), cwd=Path(work), timeout_s=30, memory_bytes=4 << 30
        )
        return device_names(child.run(call).stdout)


def device_names(dump: str) -> list[str]:
    """Return the device names in the output of ``iree-run-module --dump_devices``."""
    return [name.strip() for name in re.findall(r"^# --device=\S*\n#\s+(.*)$", dump, re.MULTILINE)]


def _cached(home: Path, name: str, ask: Callable[[Path], tuple[str, ...]]) -> tuple[str, ...]:
    facts = {"flags": machine.describe().fingerprint, "compiler": tool_version("iree-base-compiler"), "name": name}
    file = home / "probes" / f"{digest.short(digest.of_json(facts))}.json"
    try:
        return tuple(json.loads(file.read_text()))
    except (OSError, ValueError):
        pass
    with tempfile.TemporaryDirectory(prefix="hwc-probe-") as work:
        answer = ask(Path(work))
    write_atomic(file, json.dumps(answer).encode())
    return answer
