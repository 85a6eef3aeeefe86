"""The quantisation schemes: name to what is stored for each weight, and how its codes are chosen."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from hwc.errors import UsageError
from hwc.formats import BITS, Format, Kind, from_table

Solver = Literal["nearest", "gptq", "keep"]
NEAREST = "round to nearest, scale by mean-squared-error search; no calibration data"
ABSMAX = "round to nearest, scale absmax/127; no calibration data"
GPTQ = (
    "GPTQ (static groups, act-order, damp 0.01) with a Hessian-weighted scale search, errors of earlier layers made up "
    "for, scales refitted, codes descended, biases corrected"
)
KEEP = "codes as they arrived; where they have no form here, round to nearest, scale absmax/127; no calibration data"
EMBEDDINGS: Mapping[str, Format | None] = {
    "float": None,
    "int8": Format(kind="int8", group_size=32),
    "int4": Format(kind="int4", group_size=32),
}
"""What may be stored for tables of embeddings and for the head; rounded to nearest, whatever the scheme."""
MIN_BITS, MAX_BITS = 4.5, 8.5
"""What a budget may ask for: all linears in int4, to all in int8, in groups of 32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """How the weights of a model are stored, and whether activations are rounded where they are multiplied."""

    name: str
    title: str
    linears: Format | None
    """What is stored for linears; None for float."""
    method: str = NEAREST
    """How codes are chosen where there is calibration data."""
    without_data: str = NEAREST
    """How they are chosen where there is none."""
    solver: Solver = "nearest"
    embeddings: str = "model"
    """A key of EMBEDDINGS; ``model``: what the model's [quantise] table says; ``kept``: as they arrived."""
    scaled_inputs: bool = False
    """Whether inputs of int4 linears are scaled where the calibration data is met better so (see awq.py)."""
    budget_bits: float | None = None
    """Bits a weight of linears on average; layers that matter most get int8, the others the scheme's format."""

    @property
    def needs_data(self) -> bool:
        """Whether calibration data is looked at."""
        return self.solver == "gptq"

    @property
    def is_float(self) -> bool:
        """Whether nothing is quantised."""
        return self.linears is None

    @property
    def rounds_activations(self) -> bool:
        """Whether values between layers are rounded too."""
        return self.linears is not None and self.linears.activations != "float"

    @property
    def formats(self) -> dict[str, Format | None]:
        """What is stored by role; where codes are kept, only for layers whose own have no form here.

        Embeddings are float until ``of_model`` has said what the model wants of them.
        """
        if self.solver == "keep":
            return dict.fromkeys(("linear", "embedding"), self.linears)
        return {"linear": self.linears, "embedding": EMBEDDINGS.get(self.embeddings)}

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of codes that may come up."""
        if self.solver == "keep":
            return tuple(sorted(BITS))
        found = {form.kind for form in self.formats.values() if form is not None}
        return tuple(sorted(found | ({"int8"} if self.budget_bits else set())))

    def of_model(self, embeddings: str) -> Scheme:
        """Return the scheme with what the model says of its embeddings, where the scheme leaves it to the model."""
        if self.embeddings != "model":
            return self
        return replace(self, embeddings="float" if self.is_float else embeddings)


def from_params(table: Mapping[str, Any]) -> Scheme:
    """Return the scheme that ``dataclasses.asdict`` made a table of."""
    return Scheme(**{**table, "linears": from_table(table["linears"])})


_W4 = Scheme(
    name="w4a16", title="int4 weights in groups of 32, symmetric", linears=Format(kind="int4", group_size=32),
    method=GPTQ, solver="gptq",
)
_FP8 = Scheme(
    name="fp8", title="FP8 E4M3 weights, one scale an output channel", linears=Format(kind="fp8"), method=GPTQ,
    without_data="absmax/448, clamped; no calibration data", solver="gptq",
)
SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme(
            name="fp32", title="float32, as captured", linears=None, method="none", without_data="none",
            embeddings="float",
        ),
        _FP8,
        Scheme(
            name="w8a16", title="int8 weights in groups of 32, symmetric", linears=Format(kind="int8", group_size=32),
            method=ABSMAX, without_data=ABSMAX,
        ),
        replace(
            _FP8, name="fp8-dynamic", title="FP8 E4M3 weights and activations, one activation scale a token",
            linears=Format(kind="fp8", activations="dynamic"),
        ),
        replace(
            _FP8, name="fp8-static", title="FP8 E4M3 weights and activations, one activation scale a tensor",
            linears=Format(kind="fp8", activations="static"),
        ),
        _W4,
        replace(
            _W4, name="w4a16-asym", title="int4 weights in groups of 32, with zero points",
            linears=Format(kind="int4", group_size=32, zeros="point"),
        ),
        replace(
            _W4, name="w4a16-g128", title="int4 weights in groups of 128, symmetric",
            linears=Format(kind="int4", group_size=128),
        ),
        replace(
            _W4, name="w4a16-rtn", title="int4 weights in groups of 32, symmetric, to compare with", method=NEAREST,
            solver="nearest",
        ),
        replace(
            _W4, name="w4a8", title="int4 weights in groups of 32, symmetric, int8 activations in blocks of 32",
            linears=Format(kind="int4", group_size=32, activations="int8"),
        ),
        Scheme(
            name="keep", title="codes as they arrived; what has none here in int8 groups of 32",
            linears=Format(kind="int8", group_size=32), method=KEEP, without_data=KEEP, solver="keep",
            embeddings="kept",
        ),
    )
}
"""The schemes that are listed; options make more of them, see ``find``."""
_LONG = re.compile(r"(?P<base>[a-z0-9][a-z0-9.-]*)\((?P<options>[^()]*)\)")
OPTIONS: Mapping[str, tuple[str, str]] = {
    "zeros": ("asym", "zero points"),
    "activations": ("dynamic, static", "FP8 activations too, one scale a token or one a tensor; w4a8 has int8 ones"),
    "group": ("g<N>", "weights in a group: 32, 64 or 128"),
    "inputs": ("awq", "inputs of linears scaled channel by channel, where the calibration data is met better so"),
    "nearest": ("rtn", "round to nearest, without calibration data"),
    "embeddings": ("e32, e8, e4", "embeddings and head in float, int8 or int4"),
    "budget_bits": ("b<X>", "bits a weight of linears on average; the layers that matter most get int8"),
}
"""Long name to short form and meaning: ``w4a16(group=128, embeddings=int8)`` is ``w4a16-g128-e8``."""
_EMBEDDING_BITS = {"32": "float", "8": "int8", "4": "int4"}
_ORDER = (
    r"asym", r"dynamic|static", r"g(?P<group>\d+)", r"awq", r"rtn", r"e(?P<embeddings>\d+)",
    r"b(?P<budget>\d+(\.\d+)?)",
)


def find(name: str) -> Scheme:
    """Return a scheme by name: a listed one, or one with options behind it, in short or in long form.

    ``w4a16-e8-b4.6`` is ``w4a16(embeddings=int8, budget_bits=4.6)``. Raises UsageError with the nearest known name.
    """
    if name in SCHEMES:
        return SCHEMES[name]
    long = _LONG.fullmatch(name.replace(" ", ""))
    tokens = [long["base"], *_short(long["options"], name)] if long else name.split("-")
    base = SCHEMES.get(tokens[0])
    if base is None:
        near = difflib.get_close_matches(name, SCHEMES, n=1, cutoff=0.3)
        hint = f"did you mean `{near[0]}`? " if near else ""
        raise UsageError(f"unknown scheme `{name}`", hint=f"{hint}known: {', '.join(SCHEMES)}")
    return _with_options(base, tokens[1:], name)


def _short(options: str, name: str) -> Iterator[str]:
    """Turn ``group=128,nearest`` into the short forms."""
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        embedding = next((bits for bits, told in _EMBEDDING_BITS.items() if told == value), value)
        made = {
            "zeros": "asym", "activations": value, "inputs": value, "nearest": "rtn", "group": f"g{value}",
            "embeddings": f"e{embedding}", "budget_bits": f"b{value}",
        }  # fmt: skip
        if key not in made:
            raise _unfit(name, f"no option `{key}`")
        yield made[key]


def _with_options(base: Scheme, tokens: list[str], name: str) -> Scheme:
    matched = [next((at for at, form in enumerate(_ORDER) if re.fullmatch(form, token)), -1) for token in tokens]
    if -1 in matched:
        raise _unfit(name, f"no option `{tokens[matched.index(-1)]}`")
    if len(set(matched)) < len(matched):
        raise _unfit(name, "an option is told twice")
    if base.is_float or base.solver == "keep":
        raise _unfit(name, f"{base.name} takes no options")
    ordered = [token for _, token in sorted(zip(matched, tokens, strict=True))]
    scheme = base
    for option in ordered:
        scheme = _changed(scheme, option, name)
    if scheme.linears is not None and scheme.linears.activations == "static" and not scheme.needs_data:
        raise _unfit(name, "static activations are scaled by calibration data")
    if scheme.scaled_inputs and not scheme.needs_data:
        raise _unfit(name, "inputs are scaled by calibration data")
    canonical = "-".join([base.name, *ordered])
    return SCHEMES.get(canonical) or replace(scheme, name=canonical)


def _changed(scheme: Scheme, option: str, name: str) -> Scheme:
    """Apply one option in its short form."""
    form = scheme.linears
    assert form is not None
    if option == "rtn":
        return replace(scheme, solver="nearest", method=scheme.without_data, title=f"{scheme.title}, to compare with")
    if option == "awq":
        if form.kind != "int4" or not scheme.needs_data:
            raise _unfit(name, "inputs are scaled for int4 that is fitted to calibration data")
        return replace(
            scheme, scaled_inputs=True, method=f"AWQ where it helps, {scheme.method}",
            title=f"{scheme.title}; inputs scaled",
        )
    if option == "asym":
        if form.kind != "int4":
            raise _unfit(name, "zero points are for int4")
        return replace(scheme, linears=replace(form, zeros="point"), title=scheme.title.replace("symmetric", "asym."))
    if option in ("dynamic", "static"):
        if form.kind != "fp8":
            raise _unfit(name, "activations are rounded for fp8")
        listed = SCHEMES[f"fp8-{option}"]
        return replace(scheme, linears=listed.linears, title=listed.title)
    value = option[1:]
    if option[0] == "g":
        if not form.group_size or value not in ("32", "64", "128"):
            raise _unfit(name, "groups are of 32, 64 or 128 integers")
        title = scheme.title.replace(f"groups of {form.group_size}", f"groups of {value}")
        return replace(scheme, linears=replace(form, group_size=int(value)), title=title)
    if option[0] == "e":
        if value not in _EMBEDDING_BITS:
            raise _unfit(name, "embeddings are told as e32, e8 or e4")
        told = _EMBEDDING_BITS[value]
        return replace(scheme, embeddings=told, title=f"{scheme.title}; embeddings and head in {told}")
    if form.kind != "int4" or not MIN_BITS <= float(value) <= MAX_BITS:
        raise _unfit(name, f"a budget is for int4, from {MIN_BITS:g} to {MAX_BITS:g} bits")
    title = f"{scheme.title}; int8 where it matters most, {value} bits a weight on average"
    return replace(scheme, budget_bits=float(value), title=title)


def _unfit(name: str, why: str) -> UsageError:
    told = "; ".join(f"{key} ({short}): {meaning}" for key, (short, meaning) in OPTIONS.items())
    return UsageError(f"not a scheme: `{name}`: {why}", hint=told)
