"""Why a step is to run: its key's ingredients against those of the last time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hwc.errors import UsageError
from hwc.pipeline import stages
from hwc.pipeline.plan import Plan
from hwc.pipeline.step import Step
from hwc.pipeline.store import Store


def known_stages(names: Sequence[str]) -> frozenset[str]:
    """Return stage names unchanged; raise UsageError for one that is no stage."""
    for name in names:
        if name not in stages.STAGES:
            raise UsageError(f"unknown stage `{name}`", hint=f"stages: {', '.join(stages.STAGES)}")
    return frozenset(names)


def reasons(plan: Plan, store: Store) -> list[dict[str, str]]:
    """Return, for every step that is to run, the ingredient of its key that changed since the last build."""
    rows = []
    for step in plan.steps():
        if store.lookup(step.stage.name, step.key) is not None:
            continue
        last = store.recall(step.label)
        rows.append({"step": step.label, "because": _because(step, last)})
    return rows


def _because(step: Step, last: str | None) -> str:
    if last is None:
        return "it never ran here"
    before: dict[str, Any] = json.loads(last)
    now = step.ingredients()
    if before["key"] == step.key:
        return "its output was removed from the cache"
    changed = [
        f"{name} changed: {', '.join(differing(before.get(name), now[name]))}"
        for name in ("version", "tools", "params", "inputs")
        if before.get(name) != json.loads(json.dumps(now[name]))
    ]
    return "; ".join(changed) or "it never ran here"


def differing(before: Any, now: Any, prefix: str = "") -> list[str]:
    """Return the dotted names at which two JSON values differ, with both values where they are short."""
    now = json.loads(json.dumps(now))
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        found: list[str] = []
        for key in sorted({*before, *now}):
            if before.get(key) != now.get(key):
                found += differing(before.get(key), now.get(key), f"{prefix}.{key}" if prefix else str(key))
        return found
    told = f"{json.dumps(before)} → {json.dumps(now)}"
    return [f"{prefix} {told}" if len(told) < 80 else prefix or "value"]
