"""What ``hwc targets check NAME --model MODEL`` does: ask for the coverage, show it, hold it to the gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hwc import render
from hwc.errors import GateError
from hwc.lower.coverage import Blocker, Coverage, Shares
from hwc.pipeline import coverage
from hwc.spec import infer
from hwc.spec.project import open_project

TOLD = 6
"""Blockers, and names of modules or dispatches of each, that a table shows; JSON holds them all."""


def check(target: str, model: str, scheme: str, format: str) -> None:
    """Show how much of a model a target covers; raise GateError where its descriptor asks for more."""
    project = open_project(Path.cwd())
    found = infer.find(project, model)
    with render.Progress() as progress:
        shapes = coverage.of_model(project, found, target, scheme, progress)
    if format == "json":
        render.as_json([{**asdict(shape), "passed": shape.passed} for shape in shapes])
    else:
        _show(f"{found.spec.name} in {scheme} on {target}", shapes)
    _hold(target, shapes)


def _show(title: str, shapes: Sequence[Coverage]) -> None:
    rows = [
        [shape.bucket, action, *_shares(shares)] for shape in shapes for action, shares in shape.by_action.items()
    ]
    render.table(title, ("shape", "runs as", "arithmetic", "bytes", "dispatches", "predicted time"), rows)
    found = [(shape.bucket, blocker) for shape in shapes for blocker in shape.blockers[:TOLD]]
    if found:
        columns = ("shape", "operation", "becomes", "arithmetic", "bytes", "predicted time", "reason", "modules")
        render.table("what the chip does not run itself", columns, [_row(*entry) for entry in found])
    for shape in shapes:
        told = "covers" if shape.passed else "does not cover"
        render.note(
            f"{told} {shape.bucket}: on the chip {shape.covered.flops:.2%} of arithmetic, "
            f"{shape.covered.traffic_bytes:.2%} of bytes, {shape.covered.dispatches:.2%} of dispatches; "
            f"the gate is {shape.gate:.0%} of arithmetic"
        )
    if unpriced := shapes[0].unpriced:
        what = "leave out" if shapes[0].covered.predicted_time is not None else "are not told"
        render.note(f"predicted times {what}: {unpriced}")


def _shares(shares: Shares) -> list[str]:
    told = [f"{share:.2%}" for share in (shares.flops, shares.traffic_bytes, shares.dispatches)]
    return [*told, _time(shares)]


def _time(shares: Shares) -> str:
    return "–" if shares.predicted_time is None else f"{shares.predicted_time:.2%}"


def _row(bucket: str, blocker: Blocker) -> list[str]:
    return [
        bucket, f"{blocker.op} {blocker.types}", blocker.action, f"{blocker.shares.flops:.2%}",
        f"{blocker.shares.traffic_bytes:.2%}", _time(blocker.shares), blocker.reason, _names(blocker),
    ]


def _names(blocker: Blocker) -> str:
    names = blocker.modules or blocker.dispatches
    more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
    return ", ".join(names[:TOLD]) + more


def _hold(target: str, shapes: Sequence[Coverage]) -> None:
    failed = [shape for shape in shapes if not shape.passed]
    if not failed:
        return
    worst = min(failed, key=lambda shape: shape.covered.flops)
    first = next(iter(worst.rejected or worst.blockers), None)
    rejected = f", and {first.op} of {first.types} is run by nothing" if worst.rejected and first else ""
    raise GateError(
        f"`{target}` runs {worst.covered.flops:.2%} of the arithmetic itself; its gate is {worst.gate:.0%}{rejected}",
        where=f"bucket {worst.bucket}, {_names(first)}" if first else f"bucket {worst.bucket}",
        hint=f"{first.reason}" if first and first.reason else "see [[legality]] and [placement] of the descriptor",
    )
