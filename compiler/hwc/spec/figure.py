"""A figure of a descriptor: one number, or a low, base and high one where nobody knows it exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, Discriminator, Field, Tag, model_validator

from hwc.spec.strict import Record

NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Range(Record):
    """A figure that is not known exactly: low ≤ base ≤ high, none of them negative."""

    low: NonNegative
    base: NonNegative
    high: NonNegative

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.base <= self.high:
            raise ValueError(f"low ≤ base ≤ high does not hold: {self.low}, {self.base}, {self.high}")
        return self


class Spread(Range):
    """A positive figure that is assumed or reported differently."""

    low: Positive
    base: Positive
    high: Positive


def _form(written: object) -> str:
    return SPREAD if isinstance(written, (Mapping, Spread)) else NUMBER


NUMBER, SPREAD = "<number>", "<spread>"
"""How pydantic tells the forms apart; :mod:`hwc.spec.strict` leaves such marks out of keys."""
Figure = Annotated[Annotated[Positive, Tag(NUMBER)] | Annotated[Spread, Tag(SPREAD)], Discriminator(_form)]


def spread(figure: float | Spread) -> Spread:
    """Return a figure as low, base and high, which are equal where it is one number."""
    return figure if isinstance(figure, Spread) else Spread(low=figure, base=figure, high=figure)


def told(figure: float | Spread) -> str:
    """Write a figure for people: ``2.73e+11``, or ``7.5e+13 (7.5e+13 to 8e+13)``."""
    if isinstance(figure, Spread):
        return f"{figure.base:.6g} ({figure.low:.6g} to {figure.high:.6g})"
    return f"{figure:.6g}"


ORDER_KEYS = {"level"}
"""Keys whose numbers order a table and state nothing about the chip."""


def leaves(value: object, path: str) -> Iterator[tuple[str, float | Spread]]:
    """Yield every figure that a table states, with its dotted key; entries of a list share the list's key.

    What a key is when it is left out states nothing, though it be written, as in a descriptor that was dumped whole.
    """
    if isinstance(value, Spread):
        yield path, value
    elif isinstance(value, BaseModel):
        for key, field in type(value).model_fields.items():
            if key not in ORDER_KEYS and getattr(value, key) != field.get_default(call_default_factory=True):
                yield from leaves(getattr(value, key), f"{path}.{key}")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}")
    elif isinstance(value, tuple):
        for inner in value:
            yield from leaves(inner, path)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, value


def covered(path: str, sources: Mapping[str, Any]) -> str:
    """Return the longest key of [sources] that is a figure's or a table's above it; empty if there is none."""
    parts = path.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((name for name in names if name in sources), "")
