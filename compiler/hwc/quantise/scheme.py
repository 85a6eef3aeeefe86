"""The quantisation schemes: name to what is stored for a linear's weight."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from hwc.errors import UsageError

WeightKind = Literal["float", "fp8", "int4"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """How the weights of linears are stored; activations stay in float."""

    name: str
    kind: WeightKind
    title: str
    method: str
    group_size: int = 0
    """Weights along K that share a scale; 0 means one scale for each output channel."""
    symmetric: bool = True


SCHEMES: dict[str, Scheme] = {
    "fp32": Scheme(name="fp32", kind="float", title="float32, as captured", method="none"),
    "fp8": Scheme(
        name="fp8", kind="fp8", title="FP8 E4M3 weights, one scale an output channel", method="absmax/448, clamped"
    ),
    "w4a16": Scheme(
        name="w4a16",
        kind="int4",
        title="int4 weights in groups of 32, symmetric",
        method="round to nearest, scale by mean-squared-error search",
        group_size=32,
    ),
    "w4a16-asym": Scheme(
        name="w4a16-asym",
        kind="int4",
        title="int4 weights in groups of 32, with zero points",
        method="round to nearest, scale by mean-squared-error search",
        group_size=32,
        symmetric=False,
    ),
}


def find(name: str) -> Scheme:
    """Return a scheme by name; raise UsageError with the nearest known name."""
    if name in SCHEMES:
        return SCHEMES[name]
    near = difflib.get_close_matches(name, SCHEMES, n=1, cutoff=0.3)
    hint = f"did you mean `{near[0]}`? " if near else ""
    raise UsageError(f"unknown scheme `{name}`", hint=f"{hint}known: {', '.join(SCHEMES)}")
