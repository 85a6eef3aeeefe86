"""What a session needs to know about an artefact: its files, its functions and the device it asks for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hwc.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Bytes of a file: a whole file, or one that lies inside a tar blob."""

    path: Path
    offset: int = 0
    length: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """One static input or output of a function."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One exported function: the model at one static shape."""

    name: str
    bucket: dict[str, int]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatedChip:
    """A chip whose code an emulator executes, instruction by instruction."""

    program: str
    """User-mode emulator: ``qemu-riscv64``."""
    cpu: str
    """The emulator's model of the chip's core: ``rv64,v=true,vlen=256``."""
    min_version: str = ""
    format: str = ""
    """The chip's own name for its executables; empty: the compiler's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The device an artefact runs on, and what it asks of it."""

    driver: str
    device_match: str = ""
    isa_features: tuple[str, ...] = ()
    """CPU features the code uses; a CPU without one of them is refused."""
    architecture: str = ""
    """``x86_64``, ``aarch64``, … for CPU code; empty otherwise."""
    threads: int = 1
    emulator: EmulatedChip | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Everything needed to load an artefact."""

    code: Slice
    parameters: tuple[Slice, ...]
    functions: tuple[Function, ...]
    device: Device
    beside: tuple[Device, ...] = ()
    """Further devices the code runs on, in the order of their ordinals: the host of a chip, or other chips."""


ONE_THREAD, WORKERS = "local-sync", "local-task"
"""The runtime's two devices for CPU code, which is the same for both: one dispatch after another in the caller's
thread, or parts of dispatches on threads of its own."""


def on_threads(program: Program, threads: int) -> Program:
    """Return a program of CPU code that runs on so many threads.

    Raises UsageError for fewer than one, and for several on a device that is no CPU of this machine.
    """
    if threads < 1:
        raise UsageError(f"not a number of threads: {threads}", hint="1, or as many as there are cores to use")
    device = program.device
    if device.driver not in (ONE_THREAD, WORKERS):
        if threads == device.threads:
            return program
        raise UsageError(
            f"threads are for CPU code; this artefact runs on a device of the driver `{device.driver}`",
            hint="leave the number of threads out",
        )
    driver = WORKERS if threads > 1 else device.driver
    return replace(program, device=replace(device, driver=driver, threads=threads))


def to_json(program: Program) -> str:
    """Serialise a program for a child process."""
    return json.dumps(asdict(program), default=str)


def from_json(text: str) -> Program:
    """Read a program back."""
    raw = json.loads(text)
    return Program(
        code=_slice(raw["code"]),
        parameters=tuple(_slice(entry) for entry in raw["parameters"]),
        functions=functions_from(raw["functions"]),
        device=device_from(raw["device"]),
        beside=tuple(device_from(entry) for entry in raw.get("beside", ())),
    )


def device_facts(device: Device) -> dict[str, Any]:
    """Return a device as JSON values; what only an emulated chip has is left out of any other's."""
    facts = {**asdict(device), "isa_features": list(device.isa_features)}
    if device.emulator is None:
        del facts["emulator"]
    return facts


def device_from(raw: Mapping[str, Any]) -> Device:
    """Read a device from its JSON form; raise KeyError or TypeError if it is not one."""
    emulator = raw.get("emulator")
    return Device(
        **{
            **raw, "isa_features": tuple(raw["isa_features"]),
            "emulator": EmulatedChip(**emulator) if emulator is not None else None,
        }
    )


def functions_from(rows: list[dict[str, Any]]) -> tuple[Function, ...]:
    """Read functions from their JSON form."""
    return tuple(
        Function(
            name=row["name"],
            bucket=row["bucket"],
            inputs=tuple(Port(**{**port, "shape": tuple(port["shape"])}) for port in row["inputs"]),
            outputs=tuple(Port(**{**port, "shape": tuple(port["shape"])}) for port in row["outputs"]),
        )
        for row in rows
    )


def _slice(raw: dict[str, Any]) -> Slice:
    return Slice(path=Path(raw["path"]), offset=raw["offset"], length=raw["length"])
