"""A target descriptor: what one device is, how code is lowered to it, how it runs and what it costs."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from hwc.spec.model import Name
from hwc.spec.strict import Record

Positive = Annotated[float, Field(gt=0)]


def _compiled(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return text


Pattern = Annotated[str, AfterValidator(_compiled)]
OptLevel = Literal["O0", "O1", "O2", "O3"]
SourceKind = Literal["datasheet", "measured", "estimated", "assumed"]


class Lowering(Record):
    """How IREE is told to make code for the device."""

    backend: Literal["llvm-cpu", "vulkan-spirv", "cuda", "rocm", "vmvx"]
    opt_level: OptLevel = "O3"
    float_opt_level: OptLevel | None = None
    """Level for a variant whose weights all stay in float, where another one is faster."""
    cpu: str = ""
    """LLVM CPU name; ``host`` is resolved to a name and features when the build is planned."""
    cpu_features: tuple[Annotated[str, Field(pattern=r"^[+-][A-Za-z0-9._-]+$")], ...] = ()
    """LLVM features, as ``+avx2``; with ``cpu = "host"`` they are detected."""
    triple: str = ""
    gpu: str = ""
    """Value of ``--iree-vulkan-target`` or ``--iree-cuda-target``."""
    stack_limit_bytes: Annotated[int, Field(ge=1024)] | None = None
    widen_halves: bool = False
    """The backend cannot convert float16, in which scales are stored: they are widened by integer arithmetic."""
    flags: tuple[str, ...] = ()
    """Further compiler flags."""

    @model_validator(mode="after")
    def _named_device(self) -> Lowering:
        if self.backend in ("vulkan-spirv", "cuda", "rocm") and not self.gpu:
            raise ValueError(f"`lowering.gpu` is needed with {self.backend}: without it the compiler guesses")
        if self.backend == "llvm-cpu" and not self.cpu:
            raise ValueError("`lowering.cpu` is needed with llvm-cpu")
        return self


class Execution(Record):
    """How an artefact for the device is run, if it can be run at all."""

    driver: Literal["local-sync", "local-task", "vulkan", "cuda", "hip", "none"]
    device_match: Pattern = ""
    """Regular expression that the runtime device's name must match."""
    functional_only: bool = False
    """The device is a software stand-in: checked on few items, never a source of latency claims about a GPU."""
    speaks_for: str = ""
    """What a latency measured here is a latency of, where that is not the device's title."""


class Figures(Record):
    """Facts about the device; an undisclosed one is absent."""

    cores: Annotated[int, Field(ge=1)] | None = None
    clock_hz: Positive | None = None
    memory_bytes: Positive | None = None
    memory_read_bytes_per_s: Positive | None = None
    peak_f32_flop_per_s: Positive | None = None
    tdp_w: Positive | None = None


class FigureSource(Record):
    """Where a figure comes from."""

    kind: SourceKind
    where: str = ""
    as_of: str = ""

    @model_validator(mode="after")
    def _traceable(self) -> FigureSource:
        if self.kind in ("datasheet", "measured") and not self.where:
            raise ValueError(f"a {self.kind} figure needs `where`: the document, or the machine and method")
        return self


class TargetSpec(Record):
    """One device: everything hwc needs to know about it."""

    schema_version: Literal[1] = 1
    name: Name
    title: str
    kind: Literal["cpu", "gpu", "asic"]
    hardware_status: Literal["available", "software", "emulated", "hypothetical"]
    lowering: Lowering
    execution: Execution
    encoding: dict[str, str]
    """Quantised kind (``int4``, ``fp8``) to the encoding of its packed weights; see quantise/encodings.py."""
    figures: Figures = Figures()
    price: str = ""
    """Entry in the price table; empty means that no cost is told."""
    sources: dict[str, FigureSource] = Field(default_factory=dict)
    """Dotted key, or table, to where its figures come from."""

    @model_validator(mode="after")
    def _sourced(self) -> TargetSpec:
        for key, figure in self.figures.model_dump(exclude_none=True).items():
            if f"figures.{key}" not in self.sources and "figures" not in self.sources:
                raise ValueError(f"`figures.{key}` = {figure} has no entry in [sources]")
        known = {"figures", *(f"figures.{key}" for key in Figures.model_fields)}
        if stray := sorted(set(self.sources) - known):
            raise ValueError(f"[sources] names no figure: `{stray[0]}`")
        return self
