"""What a chip can run, by which means: rules by operation, type and shape; its vendor's kernels and tools."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hwc.spec.figure import Count, Positive
from hwc.spec.hardware import Element
from hwc.spec.strict import Record

OpClass = Literal[
    "matmul", "conv", "attention", "softmax", "normalisation", "reduction", "elementwise", "transpose", "gather",
    "scatter", "pooling", "copy", "sort", "other",
]  # fmt: skip
"""Kinds of work a dispatch is of; ``matmul`` takes batched ones and vectors too, ``copy`` pads, slices and fills."""
Action = Literal["native", "kernel", "host", "emulate", "reject"]
"""``native``: the chip's own units; ``kernel``: a kernel of the vendor; ``host``: on the host beside it; ``emulate``:
on the control core, in a type the units do not have; ``reject``: not at all."""
ShapeDim = Literal["batch", "m", "n", "k", "points", "rank"]
"""Extents a rule may ask for: batch, m, n, k of a matmul; points: elements of a result; rank of the result."""
PatternName = Literal[
    "matmul_f32", "matmul_f32_tiles", "matmul_f16", "dequantise_matmul_int4", "dequantise_matmul_int8", "matmul_fp8",
    "attention_f32", "conv2d_f32", "rounded_matmul_int4",
]  # fmt: skip
Symbol = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]


class LegalityRule(Record):
    """Operations of some types and shapes, and what becomes of them; the first rule that fits decides."""

    ops: tuple[OpClass, ...] = ()
    """Kinds of work it is about; none: all."""
    elements: tuple[Element, ...] = ()
    """It fits where every operand's type is one of these; none: any types."""
    weights: tuple[Element, ...] = ()
    """It fits where stored weights are of one of these types; none: any, or no weights."""
    at_least: dict[ShapeDim, Count] = Field(default_factory=dict)
    at_most: dict[ShapeDim, Count] = Field(default_factory=dict)
    multiple_of: dict[ShapeDim, Count] = Field(default_factory=dict)
    action: Action
    kernel: str = ""
    """Entry of [kernels], with ``action = "kernel"``."""
    unit: str = ""
    """Entry of [units] that does it, where more than one could."""
    reason: str = ""

    @model_validator(mode="after")
    def _complete(self) -> LegalityRule:
        if (self.action == "kernel") != bool(self.kernel):
            raise ValueError('`action = "kernel"` and `kernel` belong together')
        if self.action in ("host", "emulate", "reject") and not self.reason:
            raise ValueError(f"`action = \"{self.action}\"` needs a `reason`: it is what the user is told")
        return self


class Placement(Record):
    """What becomes of work that no rule fits, and where work goes that leaves the chip."""

    otherwise: Action = "native"
    otherwise_reason: str = ""
    coverage_gate: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Least share of a model's arithmetic that has to run on the chip itself: natively or by a kernel."""
    host: str = "llvm-cpu-host"
    """Target whose device takes what falls back."""

    @model_validator(mode="after")
    def _possible(self) -> Placement:
        if self.otherwise == "kernel":
            raise ValueError("`otherwise` cannot be a kernel: kernels are for what a rule fits")
        return self


class FormatRule(Record):
    """Which forms of a quantised kind the chip's packing holds."""

    group_sizes: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """0 is one scale a row; none: any."""
    zeros: tuple[Literal["none", "point", "offset"], ...] = ()
    """None: any."""


COLUMNS_OF_A_TILE = 16
"""Columns of a call are whole tiles: ``HWC_TILE``."""


class VendorKernel(Record):
    """A kernel of the vendor's: C source or an object, linked into the artefact where its pattern matches."""

    pattern: PatternName
    symbol: Symbol
    source: str = ""
    """C file, beside the descriptor."""
    object: str = ""
    """Object file for the descriptor's triple, beside the descriptor."""
    compiler_flags: tuple[str, ...] = ()
    columns_per_call: Count = 128
    """Most columns of the result that one call computes; calls may run at once, on several threads."""
    least_calls: Count = 1
    """Calls that a product is cut into at least, where each has 64 columns: as many threads can share it."""
    encoding: str = ""
    """Encoding it wants its weights in, instead of the target's for their kind; it reads the target's too."""
    activation_bits: Annotated[int, Field(ge=2, le=24)] | None = None
    """Bits it keeps of an activation, beside a scale that several share; None: all of its type."""
    at_least: dict[ShapeDim, Count] = Field(default_factory=dict)
    """Least extents of what it takes: smaller work is left to generated code."""
    at_most: dict[ShapeDim, Count] = Field(default_factory=dict)
    unit: str = ""
    """Entry of [units] it drives, by which it is priced."""
    executes: Literal["unit", "model"] = "unit"
    """``model``: portable code stands in for the unit; what it computes is right, its time says nothing."""

    @model_validator(mode="after")
    def _one_form(self) -> VendorKernel:
        if bool(self.source) == bool(self.object):
            raise ValueError("give either `source` or `object`")
        if self.encoding and self.columns_per_call % COLUMNS_OF_A_TILE:
            raise ValueError(f"`columns_per_call` of a kernel with an `encoding` is a multiple of {COLUMNS_OF_A_TILE}")
        return self


class Vendor(Record):
    """The vendor's own tools."""

    compiler: tuple[str, ...] = ()
    """Command that compiles C to an object for the chip: the program and its first arguments."""
    cpu_flags: bool = False
    """Whether the compiler gets a flag for each CPU feature the artefact asks for, and none beyond."""
    optional: bool = False
    """Without the compiler the target is built all the same, by generated code instead of [kernels]; that is told."""
    executable_hook: tuple[str, ...] = ()
    """Command each executable passes through: MLIR in on stdin, MLIR that calls the vendor's object out on stdout."""
    timeout_s: Positive = 120.0
    hand_over: bool = False
    """The vendor's compiler is elsewhere: a build stops at executable sources, weights and golden vectors."""


class Emulator(Record):
    """What executes the chip's code, instruction by instruction, on a machine without the chip."""

    program: str
    """User-mode emulator: ``qemu-riscv64``."""
    cpu: str
    """Its model of the CPU, as ``rv64,v=true,vlen=256``."""
    min_version: str = ""
