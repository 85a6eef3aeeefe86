"""What a descriptor lets `hwc build --tune` try instead of its own way to make code: named, declared, never guessed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, model_validator

from hwc.spec.model import Name
from hwc.spec.strict import Record

DEFAULT = "default"
"""What a report calls the descriptor's own way."""


class Candidate(Record):
    """One other way to make code for a target."""

    name: Name
    why: str = ""
    """What it may be better at, and what it costs."""
    opt_level: Literal["O0", "O1", "O2", "O3"] | None = None
    """For every variant, in float or not; the descriptor's own where absent."""
    flags: tuple[str, ...] = ()
    """Compiler flags after the descriptor's own; the compiler takes the last of two."""
    kernels: bool = True
    """Whether the vendor's kernels are called; without, the compiler makes all code."""

    @model_validator(mode="after")
    def _different(self) -> Candidate:
        if self.name == DEFAULT:
            raise ValueError(f"`{DEFAULT}` is the descriptor's own way: name the candidate otherwise")
        if self.opt_level is None and not self.flags and self.kernels:
            raise ValueError(f"candidate `{self.name}` changes nothing: give it `opt_level`, `flags` or `kernels`")
        return self


def _told_apart(candidates: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
    names = [candidate.name for candidate in candidates]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two candidates have the name `{twice[0]}`")
    return candidates


Candidates = Annotated[tuple[Candidate, ...], AfterValidator(_told_apart)]
