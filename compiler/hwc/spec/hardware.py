"""What a chip is made of: its control core, arithmetic units, memories, links, overheads and power.

Every figure is the whole chip's unless its key says otherwise. What nobody has disclosed is absent; whoever needs it
says so by name.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import Field, model_validator

from hwc.spec.figure import Count, Figure, spread
from hwc.spec.strict import Record

Element = Literal[
    "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float4_e2m1fn",
    "int64", "int32", "int16", "int8", "int4", "bool",
]  # fmt: skip
BITS: dict[str, int] = {
    "float64": 64, "float32": 32, "float16": 16, "bfloat16": 16, "float8_e4m3fn": 8, "float8_e5m2": 8,
    "float4_e2m1fn": 4, "int64": 64, "int32": 32, "int16": 16, "int8": 8, "int4": 4, "bool": 8,
}  # fmt: skip
FULL_WIDTH_BITS = 32
"""An array's cell does one multiply-add a cycle on operands this wide, at most 32/b on operands of b bits."""


ROUNDED = 1.01
"""Data sheets round: 273 GB/s for 273.06."""


class Core(Record):
    """The control core: what runs the code that is compiled, if the chip has one."""

    isa: str
    """As the vendor names it: ``rv64gcv``."""
    count: Count = 1
    clock_hz: Figure | None = None
    vlen_bits: Count | None = None
    """Length of a vector register, where the instruction set leaves it open."""


class Rate(Record):
    """Peak dense arithmetic for one triple of element types; a multiply-add counts as two operations."""

    activations: Element
    weights: Element
    accumulator: Element
    flop_per_s: Figure
    pj_per_flop: Figure | None = None


class Unit(Record):
    """One kind of arithmetic unit."""

    kind: Literal["matrix", "vector"]
    count: Count = 1
    clock_hz: Figure | None = None
    rows: Count | None = None
    """Cells along the reduction of a matrix array: weights stay in its rows × columns cells while inputs stream."""
    columns: Count | None = None
    rates: tuple[Rate, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _geometry(self) -> Unit:
        if (self.rows is None) != (self.columns is None):
            raise ValueError("`rows` and `columns` belong together")
        for rate in self.rates:
            most = self.most_flop_per_s(rate.activations)
            if most is not None and spread(rate.flop_per_s).low > most * ROUNDED:
                raise ValueError(
                    f"{spread(rate.flop_per_s).low:.3g} flop/s in {rate.activations} is more than {self.count} × "
                    f"{self.rows}×{self.columns} cells can do at this clock ({most:.3g})"
                )
        return self

    def most_flop_per_s(self, element: Element) -> float | None:
        """Return what the array's cells can do at the highest clock; None where geometry or clock is not told."""
        if self.rows is None or self.columns is None or self.clock_hz is None:
            return None
        packed = FULL_WIDTH_BITS / min(BITS[element], FULL_WIDTH_BITS)
        return 2 * self.rows * self.columns * self.count * spread(self.clock_hz).high * packed


class Memory(Record):
    """One level of the memory hierarchy."""

    level: Count
    """1 is nearest to the units."""
    size_bytes: Figure
    read_bytes_per_s: Figure | None = None
    write_bytes_per_s: Figure | None = None
    """Absent where reads and writes share ``read_bytes_per_s``."""
    bus_bits: Count | None = None
    """Data pins of its interface."""
    bus_transfers_per_s: Figure | None = None
    """Bits a second of each pin; with ``bus_bits`` it bounds the bandwidth."""
    via: str = ""
    """Entry of [links] it is reached through, where it is not the chip's own: a host's memory, a pool."""
    read_pj_per_byte: Figure | None = None
    write_pj_per_byte: Figure | None = None


class Link(Record):
    """A way out of the chip."""

    peer: Literal["chip", "host", "network"]
    bytes_per_s: Figure
    """Of one chip, in each direction."""
    latency_s: Figure | None = None
    pj_per_byte: Figure | None = None


class Overheads(Record):
    """Time that is neither arithmetic nor traffic."""

    dispatch_s: Figure | None = None
    """From the end of one dispatch to the start of the next one's work."""
    invocation_s: Figure | None = None
    """Of one call of a model: submission and completion."""
    dma_setup_s: Figure | None = None
    transfers_overlap: bool = True
    """Whether operands of the next tile are brought while this one is computed."""


class Power(Record):
    """What one chip draws."""

    tdp_w: Figure | None = None
    idle_w: Figure | None = None


class System(Record):
    """How many chips stand together."""

    chips: Count = 1
    """Chips that the links of ``peer = "chip"`` join."""


class Hardware(Record):
    """The tables of a descriptor that hold figures; each figure has a source."""

    core: Core | None = None
    units: dict[str, Unit] = Field(default_factory=dict)
    memories: dict[str, Memory] = Field(default_factory=dict)
    links: dict[str, Link] = Field(default_factory=dict)
    overheads: Overheads = Overheads()
    power: Power = Power()
    system: System = System()

    @model_validator(mode="after")
    def _ordered_levels(self) -> Hardware:
        levels = sorted((memory.level, name) for name, memory in self.memories.items())
        for (level, name), (next_level, other) in pairwise(levels):
            if level == next_level:
                raise ValueError(f"memories `{name}` and `{other}` are both level {level}")
        return self

    @model_validator(mode="after")
    def _known_links(self) -> Hardware:
        for name, memory in self.memories.items():
            if memory.via and memory.via not in self.links:
                raise ValueError(f"`memories.{name}.via` = {memory.via!r} is no entry of [hardware.links]")
        return self

    @property
    def by_level(self) -> tuple[tuple[str, Memory], ...]:
        """Memories with their names, from the one nearest to the units outwards."""
        return tuple(sorted(self.memories.items(), key=lambda entry: entry[1].level))
