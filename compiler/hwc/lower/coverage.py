"""Coverage: how much of a model a chip runs itself, and what stands in the way; pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from hwc.lower.legality import Verdict, told_types
from hwc.spec.legality import Action, OpClass

Price = Callable[[Verdict], float | None]
"""Predicted seconds of all runs of an operation, as placed, in one call of the model; None: it cannot be told."""
Sources = Mapping[str, tuple[str, ...]]
"""Name of a dispatch to the modules whose work it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Parts of a whole between 0 and 1; of nothing, 0."""

    flops: float
    traffic_bytes: float
    dispatches: float
    predicted_time: float | None
    """None where the descriptor does not tell enough to predict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocker:
    """Work of one kind that the chip does not do itself, for one reason."""

    op: OpClass
    types: str
    action: Action
    reason: str
    shares: Shares
    dispatches: tuple[str, ...]
    """Names in the compiler's IR."""
    modules: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What becomes of one static shape of a model on one chip."""

    bucket: str
    covered: Shares
    """What runs on the chip itself: natively or by a kernel."""
    by_action: dict[Action, Shares]
    blockers: tuple[Blocker, ...]
    """Largest first: by arithmetic, then traffic."""
    gate: float
    unpriced: str = ""
    """What predicted times leave out, or why there are none."""

    @property
    def passed(self) -> bool:
        """Whether enough of the arithmetic runs on the chip, and nothing is rejected."""
        return self.covered.flops >= self.gate and not self.rejected

    @property
    def rejected(self) -> tuple[Blocker, ...]:
        """What no device runs."""
        return tuple(blocker for blocker in self.blockers if blocker.action == "reject")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Totals:
    flops: float
    traffic_bytes: float
    dispatches: float
    seconds: float | None

    def share_of(self, whole: _Totals) -> Shares:
        priced = self.seconds is not None and whole.seconds is not None
        return Shares(
            flops=_ratio(self.flops, whole.flops), traffic_bytes=_ratio(self.traffic_bytes, whole.traffic_bytes),
            dispatches=_ratio(self.dispatches, whole.dispatches),
            predicted_time=_ratio(self.seconds or 0.0, whole.seconds or 0.0) if priced else None,
        )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def cover(
    bucket: str, verdicts: Sequence[Verdict], *, gate: float, sources: Sources, price: Price | None = None,
    unpriced: str = "",
) -> Coverage:
    """Return the coverage of one static shape.

    A model without any arithmetic is covered by the share of its traffic: there is nothing else to hold to the gate.
    """
    whole = _total(verdicts, price)
    covered = _total([verdict for verdict in verdicts if verdict.on_chip], price).share_of(whole)
    if not whole.flops:
        covered = Shares(
            flops=covered.traffic_bytes, traffic_bytes=covered.traffic_bytes, dispatches=covered.dispatches,
            predicted_time=covered.predicted_time,
        )
    by_action: dict[Action, Shares] = {}
    for action in get_args(Action):
        if of_action := [verdict for verdict in verdicts if verdict.action == action]:
            by_action[action] = _total(of_action, price).share_of(whole)
    groups: dict[tuple[OpClass, str, Action, str], list[Verdict]] = {}
    for verdict in verdicts:
        if not verdict.on_chip:
            key = (verdict.operation.op, told_types(verdict.operation), verdict.action, verdict.reason)
            groups.setdefault(key, []).append(verdict)
    blockers = [_blocker(key, group, whole, sources, price) for key, group in groups.items()]
    blockers.sort(key=lambda blocker: (blocker.shares.flops, blocker.shares.traffic_bytes), reverse=True)
    return Coverage(
        bucket=bucket, covered=covered, by_action=by_action, blockers=tuple(blockers), gate=gate, unpriced=unpriced
    )


def _blocker(
    key: tuple[OpClass, str, Action, str], group: Sequence[Verdict], whole: _Totals, sources: Sources,
    price: Price | None,
) -> Blocker:
    op, types, action, reason = key
    names = tuple(dict.fromkeys(verdict.operation.name for verdict in group))
    modules = tuple(dict.fromkeys(module for name in names for module in sources.get(name, ())))
    return Blocker(
        op=op, types=types, action=action, reason=reason, shares=_total(group, price).share_of(whole),
        dispatches=names, modules=modules,
    )


def _total(verdicts: Sequence[Verdict], price: Price | None) -> _Totals:
    runs = [verdict.operation for verdict in verdicts]
    return _Totals(
        flops=sum(run.flops * run.count for run in runs),
        traffic_bytes=sum(run.traffic_bytes * run.count for run in runs),
        dispatches=sum(run.count for run in runs),
        seconds=_sum([price(verdict) for verdict in verdicts]) if price is not None else None,
    )


def _sum(told: Sequence[float | None]) -> float | None:
    """Return the sum; None if a part of it cannot be told."""
    known = [seconds for seconds in told if seconds is not None]
    return sum(known) if len(known) == len(told) else None
