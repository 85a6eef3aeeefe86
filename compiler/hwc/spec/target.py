"""A target descriptor: what one device is, how code is lowered to it, how it runs and what it costs."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from hwc.errors import UsageError
from hwc.spec.figure import Spread, covered, leaves
from hwc.spec.hardware import Hardware
from hwc.spec.legality import Emulator, FormatRule, LegalityRule, Placement, Vendor, VendorKernel
from hwc.spec.model import Name
from hwc.spec.strict import Record
from hwc.spec.tuning import Candidates


def _compiled(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return text


Pattern = Annotated[str, AfterValidator(_compiled)]
OptLevel = Literal["O0", "O1", "O2", "O3"]
SourceKind = Literal["datasheet", "measured", "estimated", "assumed"]
Made = Literal["build", "hand-over", "prediction"]
"""``build``: an artefact; ``hand-over``: sources for a compiler that is elsewhere; ``prediction``: figures alone."""


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
    abi: str = ""
    """Calling convention of a bare triple: ``lp64d``."""
    vlen_bits: Annotated[int, Field(ge=32)] | None = None
    """Length of a vector register the code is made for; other lengths compute wrongly, without a fault."""
    format: Annotated[str, Field(pattern=r"^$|^[a-z0-9][a-z0-9._-]{0,63}$")] = ""
    """The chip's own name for its executables; a runtime that does not know it refuses them by this name."""
    attributes: dict[Annotated[str, Field(pattern=r"^[a-z0-9_]{1,63}$")], int | str] = Field(default_factory=dict)
    """Facts for the vendor's compiler, which executables carry as ``hwc.KEY``."""
    distribution_tile: Annotated[int, Field(ge=1)] | None = None
    """Most points of a dispatch that one core takes at a time; derived from the hardware where absent."""
    matmul_tile_bytes: Annotated[int, Field(ge=64)] | None = None
    """Most bytes of the tiles a matmul works on; derived from the hardware where absent."""
    shards: Annotated[int, Field(ge=1)] = 1
    """Chips that one artefact runs on, side by side: its linears are split over them."""
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

    driver: Literal["local-sync", "local-task", "vulkan", "cuda", "hip", "emulated", "none"]
    device_match: Pattern = ""
    """Regular expression that the runtime device's name must match."""
    functional_only: bool = False
    """The device is a software stand-in: checked on few items, never a source of latency claims about a GPU."""
    speaks_for: str = ""
    """What a latency measured here is a latency of, where that is not the device's title."""
    emulator: Emulator | None = None

    @model_validator(mode="after")
    def _emulated(self) -> Execution:
        if (self.driver == "emulated") != (self.emulator is not None):
            raise ValueError('`driver = "emulated"` and [execution.emulator] belong together')
        return self


UNNAMED = "(unnamed)"
"""A unit that its kernels stand in for without telling its name."""


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
    lowering: Lowering | None = None
    """Absent where no compiler here makes code for the device: hwc then predicts for it, and builds nothing."""
    not_built: str = ""
    """Why nothing is built for it; needed where [lowering] is absent or ``vendor.hand_over`` is set."""
    execution: Execution
    encoding: dict[str, str] = Field(default_factory=dict)
    """Quantised kind (``int4``, ``fp8``) to the encoding of its packed weights; see quantise/encodings.py."""
    formats: dict[Literal["int4", "int8", "fp8"], FormatRule] = Field(default_factory=dict)
    """Which forms of a quantised kind the packing holds; a kind without an entry may have any."""
    hardware: Hardware = Hardware()
    legality: tuple[LegalityRule, ...] = ()
    placement: Placement = Placement()
    kernels: dict[Name, VendorKernel] = Field(default_factory=dict)
    vendor: Vendor = Vendor()
    tune: Candidates = ()
    """Other ways to make code, which ``hwc build --tune`` measures beside [lowering]; of equals the first is taken."""
    calibration: str = ""
    """JSON file of efficiencies fitted on real hardware, beside the descriptor; ``hwc targets calibrate`` writes it."""
    price: str = ""
    """Entry in the price table; empty means that no cost is told."""
    sources: dict[str, FigureSource] = Field(default_factory=dict)
    """Dotted key of a figure, or of a table above it, to where it comes from."""

    @property
    def made(self) -> Made:
        """Return what hwc makes for the device: a build, sources for its vendor's compiler, or a prediction alone."""
        if self.lowering is None:
            return "prediction"
        return "hand-over" if self.vendor.hand_over else "build"

    @property
    def modelled(self) -> dict[str, tuple[str, ...]]:
        """Return units in whose place code on the cores computes, each with the kernels that do so.

        Their results are right; no instruction that is executed and no time that passes is theirs. An emulator plays
        cores alone: a matrix unit is not executed by it, unless a kernel drives it.
        """
        emulated, driven = self.execution.emulator is not None, {kernel.unit for kernel in self.kernels.values()}
        units: dict[str, tuple[str, ...]] = {
            name: () for name, unit in self.hardware.units.items()
            if emulated and unit.kind == "matrix" and name not in driven
        }
        for name, kernel in self.kernels.items():
            if kernel.executes == "model":
                unit = kernel.unit or UNNAMED
                units[unit] = (*units.get(unit, ()), name)
        return units

    def code(self) -> Lowering:
        """Return how code is made for the device; raise UsageError where nothing here makes any."""
        if self.lowering is None:
            raise UsageError(
                f"nothing can be compiled for `{self.name}`: {self.not_built}",
                where=f"targets/{self.name}.toml has no [lowering]",
                hint=f"`hwc targets show {self.name}` shows what is known of it; predictions need no compiler",
            )
        return self.lowering

    @model_validator(mode="after")
    def _buildable(self) -> TargetSpec:
        """Hold a device to either a way to make code for it, or the reason why there is none."""
        if self.made != "build" and not self.not_built:
            missing = "[lowering]" if self.lowering is None else "the vendor's compiler (`vendor.hand_over`)"
            raise ValueError(f"`not_built` has to say why nothing is built without {missing}")
        if self.made == "build" and self.not_built:
            raise ValueError("`not_built` is for a device without [lowering], or with `vendor.hand_over`")
        if self.lowering is None and self.execution.driver != "none":
            raise ValueError(f"`execution.driver` = {self.execution.driver!r} has nothing to run without [lowering]")
        return self

    @model_validator(mode="after")
    def _open_door(self) -> TargetSpec:
        """Hold kernels and a compiler hook to the one backend that links them, and to something to link them into."""
        named = "kernels" if self.kernels else "vendor.executable_hook" if self.vendor.executable_hook else ""
        if named and self.made == "hand-over":
            raise ValueError(f"`{named}` and `vendor.hand_over` exclude each other: a hand-over links nothing")
        if named and self.lowering is not None and self.lowering.backend != "llvm-cpu":
            raise ValueError(f"`{named}` needs `lowering.backend` = \"llvm-cpu\", which links objects")
        symbols = [kernel.symbol for kernel in self.kernels.values()]
        if twice := sorted({symbol for symbol in symbols if symbols.count(symbol) > 1}):
            raise ValueError(f"two kernels have the symbol `{twice[0]}`: which one is linked?")
        return self

    @model_validator(mode="after")
    def _sourced(self) -> TargetSpec:
        figures = dict(leaves(self.hardware, "hardware"))
        for key, figure in figures.items():
            if not covered(key, self.sources):
                told = figure.base if isinstance(figure, Spread) else figure
                raise ValueError(f"`{key}` = {told} has no entry in [sources]")
        tables = {key[:end] for key in figures for end in range(len(key) + 1) if end == len(key) or key[end] == "."}
        if stray := sorted(set(self.sources) - tables):
            raise ValueError(f"[sources] names no figure: `{stray[0]}`")
        return self

    @model_validator(mode="after")
    def _guesses_are_spreads(self) -> TargetSpec:
        """Hold a chip that nobody has seen to low, base and high: a single number would pass for a fact."""
        if self.hardware_status != "hypothetical":
            return self
        for key, figure in leaves(self.hardware, "hardware"):
            measurable = not isinstance(figure, int)  # counts are the design that is assumed
            if measurable and not isinstance(figure, Spread):
                raise ValueError(f"`{key}` of a hypothetical chip has to be {{ low, base, high }}, not {figure}")
            source = self.sources[covered(key, self.sources)]
            if source.kind != "assumed":
                raise ValueError(f"`{key}` of a hypothetical chip is assumed; its source says {source.kind}")
        return self

    @model_validator(mode="after")
    def _enough_chips(self) -> TargetSpec:
        if self.lowering is None or self.lowering.shards == 1:
            return self
        told, chips = f"`lowering.shards` = {self.lowering.shards}", self.hardware.system.chips
        if self.lowering.shards > chips:
            raise ValueError(f"{told}, but `hardware.system.chips` = {chips}")
        if self.lowering.backend not in ("llvm-cpu", "vmvx"):
            raise ValueError(f"{told} needs a backend of local devices, not {self.lowering.backend}")
        return self

    @model_validator(mode="after")
    def _named_parts(self) -> TargetSpec:
        units = self.hardware.units
        for number, rule in enumerate(self.legality):
            if rule.kernel and rule.kernel not in self.kernels:
                raise ValueError(f"`legality[{number}].kernel` = {rule.kernel!r} is no entry of [kernels]")
            if rule.unit and rule.unit not in units:
                raise ValueError(f"`legality[{number}].unit` = {rule.unit!r} is no entry of [hardware.units]")
        for name, kernel in self.kernels.items():
            if kernel.unit and kernel.unit not in units:
                raise ValueError(f"`kernels.{name}.unit` = {kernel.unit!r} is no entry of [hardware.units]")
        return self
