"""The records of a plan: a stage, and one step of one build."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

from hwc import digest
from hwc.job import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One kind of work: a name, a version to bump when its output bytes may change, its tools, its function."""

    name: str
    version: int
    tools: tuple[str, ...]
    """Distributions whose version is part of the key."""
    function: Callable[[Job], None]
    volatile: bool = False
    """Measures the machine: runs alone, after everything else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One stage with its parameters and the steps it reads."""

    stage: Stage
    label: str
    params: Mapping[str, Any]
    local: Mapping[str, str]
    inputs: Mapping[str, Step]
    key: str

    def ingredients(self) -> dict[str, Any]:
        """Return what the key is the digest of."""
        return _ingredients(self.stage, self.params, self.inputs)


def make_step(
    stage: Stage,
    label: str,
    params: Mapping[str, Any],
    inputs: Mapping[str, Step] | None = None,
    local: Mapping[str, str] | None = None,
) -> Step:
    """Make a step; its key is the digest of stage, version, tools, parameters and input keys, and of nothing else."""
    inputs = inputs or {}
    key = digest.of_json(_ingredients(stage, params, inputs))
    return Step(stage=stage, label=label, params=params, local=local or {}, inputs=inputs, key=key)


def _ingredients(stage: Stage, params: Mapping[str, Any], inputs: Mapping[str, Step]) -> dict[str, Any]:
    return {
        "stage": stage.name,
        "version": stage.version,
        "tools": {tool: tool_version(tool) for tool in stage.tools},
        "params": dict(params),
        "inputs": {role: step.key for role, step in sorted(inputs.items())},
    }


@cache
def tool_version(distribution: str) -> str:
    """Return the installed version of a distribution, or ``absent``."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "absent"
