"""What the library tells while it works: one narrow seam between the pipeline and a screen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["start", "progress", "done", "hit", "fail", "wait", "note", "warn"]
PROGRESS = "progress: "
"""What begins a line on a step's stderr that tells how far it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened to one step."""

    kind: Kind
    step: str
    text: str = ""
    wall_s: float = 0.0


class Listener(Protocol):
    """Receives events; called from any thread."""

    def __call__(self, event: Event, /) -> None:
        """Take note of one event."""
        ...


def silent(event: Event, /) -> None:
    """Ignore every event."""
