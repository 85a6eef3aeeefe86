"""The quantisation schemes: name to what is stored for a linear's weight."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from hwc.errors import UsageError

WeightKind = Literal["float", "fp8", "int4"]
Solver = Literal["nearest", "gptq"]
NEAREST = "round to nearest, scale by mean-squared-error search; no calibration data"
GPTQ = (
    "GPTQ (static groups, act-order, damp 0.01) with a Hessian-weighted scale search, errors of earlier layers made up "
    "for, scales refitted, codes descended, biases corrected"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """How the weights of linears are stored; activations stay in float."""

    name: str
    kind: WeightKind
    title: str
    method: str
    """How codes are chosen where there is calibration data."""
    without_data: str = ""
    """How they are chosen where there is none."""
    solver: Solver = "nearest"
    group_size: int = 0
    """Weights along K that share a scale; 0 means one scale for each output channel."""
    symmetric: bool = True

    @property
    def needs_data(self) -> bool:
        """Whether calibration data is looked at."""
        return self.solver == "gptq"


def _int4(name: str, title: str, *, group_size: int, symmetric: bool = True, solver: Solver = "gptq") -> Scheme:
    return Scheme(
        name=name, kind="int4", title=title, method=NEAREST if solver == "nearest" else GPTQ, without_data=NEAREST,
        solver=solver, group_size=group_size, symmetric=symmetric,
    )


SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme(name="fp32", kind="float", title="float32, as captured", method="none", without_data="none"),
        Scheme(
            name="fp8", kind="fp8", title="FP8 E4M3 weights, one scale an output channel", method=GPTQ,
            without_data="absmax/448, clamped; no calibration data", solver="gptq",
        ),
        _int4("w4a16", "int4 weights in groups of 32, symmetric", group_size=32),
        _int4("w4a16-asym", "int4 weights in groups of 32, with zero points", group_size=32, symmetric=False),
        _int4("w4a16-g128", "int4 weights in groups of 128, symmetric", group_size=128),
        _int4("w4a16-rtn", "int4 weights in groups of 32, symmetric, to compare with", group_size=32, solver="nearest"),
    )
}


def find(name: str) -> Scheme:
    """Return a scheme by name; raise UsageError with the nearest known name."""
    if name in SCHEMES:
        return SCHEMES[name]
    near = difflib.get_close_matches(name, SCHEMES, n=1, cutoff=0.3)
    hint = f"did you mean `{near[0]}`? " if near else ""
    raise UsageError(f"unknown scheme `{name}`", hint=f"{hint}known: {', '.join(SCHEMES)}")
