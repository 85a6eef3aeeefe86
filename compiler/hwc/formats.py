"""Formats: what is stored for one weight. A scheme gives every layer its format; layers of one model may differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["int4", "int8", "fp8"]
Zeros = Literal["none", "point", "offset"]
Activations = Literal["float", "dynamic", "static", "int8"]
BITS: Mapping[Kind, int] = {"int4": 4, "int8": 8, "fp8": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How one weight W[N, K] is stored."""

    kind: Kind
    group_size: int = 0
    """Weights along K that share a float16 scale; 0 means one float32 scale for each output channel."""
    zeros: Zeros = "none"
    """``none``: symmetric; ``point``: an integer zero point a group; ``offset``: a float16 added to each group."""
    activations: Activations = "float"
    """What the weight is multiplied by: float; E4M3 with one scale a token (``dynamic``), taken from the token as it
    comes, or one scale a tensor (``static``), taken from calibration; or ``int8`` with one scale for 32 values of a
    token, taken as they come."""

    @property
    def symmetric(self) -> bool:
        """Whether zero lies at the middle code."""
        return self.zeros == "none"

    @property
    def bits(self) -> float:
        """Bits stored for one weight of a long row, scales and zero points included."""
        return BITS[self.kind] + self._overhead_bits / self.group_size if self.group_size else float(BITS[self.kind])

    @property
    def _overhead_bits(self) -> int:
        return 16 + {"none": 0, "point": 8, "offset": 16}[self.zeros]

    def told(self) -> str:
        """Name the format in a few characters, as ``int4 g32 zero points``."""
        group = f" g{self.group_size}" if self.group_size else ""
        zeros = {"none": "", "point": " zero points", "offset": " offsets"}[self.zeros]
        return self.kind + group + zeros + ("" if self.activations == "float" else f", {self.activations} activations")


def from_table(table: Mapping[str, Any] | None) -> Format | None:
    """Return the format that ``dataclasses.asdict`` made a table of."""
    return None if table is None else Format(**table)
