"""What a session needs to know about an artefact: its files, its functions and the device it asks for."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


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
class Device:
    """The device an artefact runs on, and what it asks of it."""

    driver: str
    device_match: str = ""
    isa_features: tuple[str, ...] = ()
    """CPU features the code uses; a CPU without one of them is refused."""
    architecture: str = ""
    """``x86_64``, ``aarch64``, … for CPU code; empty otherwise."""
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Everything needed to load an artefact."""

    code: Slice
    parameters: tuple[Slice, ...]
    functions: tuple[Function, ...]
    device: Device


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
        device=Device(**{**raw["device"], "isa_features": tuple(raw["device"]["isa_features"])}),
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
