"""How a target has models lowered, as far as the work of a dispatch depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hwc.formats import Kind
from hwc.lower.vendor import Door
from hwc.spec.target import Lowering


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What turns a graph into dispatches on one target in one scheme."""

    lowering: Lowering
    encodings: Mapping[Kind, str]
    """How codes of each kind are stored."""
    door: Door | None = None
    """Kernels that take linears, attentions and convolutions from the compiler; None: it makes code of everything."""
    tiles: bool = False
    """Whether float weights of linears lie in tiles."""
