"""What is stored and computed in: element types and bytes of weights, activations and the KV cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hwc.formats import Format, Kind
from hwc.predict.chip import Chip, holds
from hwc.quantise.scheme import Scheme
from hwc.spec.hardware import BITS, Element

ELEMENTS: Mapping[Kind, Element] = {"int4": "int4", "int8": "int8", "fp8": "float8_e4m3fn"}
_FLOATS: tuple[Element, ...] = ("bfloat16", "float16", "float32")
"""What activations are kept in, the first that a chip's matrix units have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """How one role's weights are stored."""

    element: Element
    bits: float
    """Of one weight, with its share of scales and zero points."""
    rounded: Element | None = None
    """What activations are rounded to before they are multiplied; None: nothing."""

    def stored_bytes(self, count: float) -> float:
        """Return the bytes of some weights."""
        return count * self.bits / 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """Types of one prediction."""

    linears: Weight
    tables: Weight
    """Embeddings and the head."""
    activations: Element
    kv: Element

    @property
    def activation_bytes(self) -> float:
        """Of one activation."""
        return BITS[self.activations] / 8

    @property
    def kv_bytes(self) -> float:
        """Of one key's or value's element."""
        return BITS[self.kv] / 8


def storage(scheme: Scheme | None, activations: Element, kv: Element | None = None) -> Storage:
    """Return what a scheme stores; None: weights in the activations' type. Embeddings are told, or stay in float.

    An average budget of bits has no types and counts as its int4 and int8 mixed by bits.
    """
    plain = Weight(element=activations, bits=BITS[activations])
    if scheme is None:
        return Storage(linears=plain, tables=plain, activations=activations, kv=kv or activations)
    if scheme.is_float:
        full = Weight(element="float32", bits=32)
        return Storage(linears=full, tables=full, activations="float32", kv=kv or "float32")
    linears = _weight(scheme.formats["linear"], plain)
    if scheme.budget_bits is not None:
        linears = Weight(element=linears.element, bits=scheme.budget_bits, rounded=linears.rounded)
    return Storage(
        linears=linears, tables=_weight(scheme.formats["embedding"], plain), activations=activations,
        kv=kv or activations,
    )


def _weight(form: Format | None, plain: Weight) -> Weight:
    if form is None:
        return plain
    return Weight(element=ELEMENTS[form.kind], bits=form.bits, rounded=_rounded(form))


def _rounded(form: Format) -> Element | None:
    return {"float": None, "int8": "int8"}.get(form.activations, ELEMENTS[form.kind])


def usual_activations(chip: Chip) -> Element:
    """Return the narrowest float of at least 16 bits that a chip's matrix units have, else float32."""
    have = [peak.activations for peak in chip.peaks if peak.matrix]
    return next((element for element in _FLOATS if element in have), "float32")


def supported(chip: Chip, activations: Element) -> bool:
    """Tell whether some unit holds a type of activations."""
    return any(holds(peak.activations, activations) for peak in chip.peaks)
