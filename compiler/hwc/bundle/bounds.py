"""One judged bound: the gate's name, its outcome, and the figure and the bound in words."""

from __future__ import annotations

from typing import Literal

Outcome = Literal["passed", "missed", "unjudged"]
Row = tuple[str, Outcome, str]


def judge(ok: bool) -> Outcome:
    """Return the outcome of a bound that was measured."""
    return "passed" if ok else "missed"
