"""What a conformance check says: its verdict, about which key of a descriptor, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from hwc.spec.target import TargetSpec

Verdict = Literal["ok", "warning", "fails", "not applicable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One verdict."""

    check: str = ""
    verdict: Verdict
    key: str = ""
    """Dotted key of the descriptor it is about."""
    reason: str
    missing_tool: bool = False
    """The descriptor may be right: what would show it is not installed here."""


Check = Callable[[TargetSpec], Iterator[Finding]]


def ok(reason: str, key: str = "") -> Finding:
    """Return that all is well."""
    return Finding(verdict="ok", reason=reason, key=key)


def warning(key: str, reason: str) -> Finding:
    """Return what may be wrong."""
    return Finding(verdict="warning", reason=reason, key=key)


def fails(key: str, reason: str) -> Finding:
    """Return what cannot be right."""
    return Finding(verdict="fails", reason=reason, key=key)


def idle(reason: str) -> Finding:
    """Return that there is nothing to check, and why."""
    return Finding(verdict="not applicable", reason=reason)
