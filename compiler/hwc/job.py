"""One run of one stage: its frozen parameters, its input folders and its empty output folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a stage function receives; it reads nothing else and writes only into ``out`` and ``work``."""

    params: Mapping[str, Any]
    """Part of the step's key."""
    local: Mapping[str, str]
    """Paths on this machine, which are not part of the key: what they hold is, through its digest in ``params``."""
    inputs: Mapping[str, Path]
    """Role to the output folder of an earlier step."""
    out: Path
    work: Path
    """A folder, there once the stage makes it, that outlasts a failure or a kill: the same step may go on from it."""
