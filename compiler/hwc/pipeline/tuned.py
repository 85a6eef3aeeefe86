"""The file that keeps tuned choices: written by `--tune --tuned FILE`, and obeyed by `--tuned FILE` alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hwc.errors import UsageError
from hwc.files import write_atomic

SCHEMA = 1
MAX_BYTES = 1 << 20


def read(path: Path, model: str) -> dict[str, str]:
    """Return a model's choices, a candidate's name by variant; raise UsageError for no such file or another's."""
    return dict(_read(path).get(model, {}))


def write(path: Path, model: str, chosen: Mapping[str, str]) -> None:
    """Keep a model's choices; those of other models and variants in the file stay as they are."""
    kept = _read(path) if path.is_file() else {}
    kept[model] = {**kept.get(model, {}), **chosen}
    told = {"schema": SCHEMA, "choices": kept}
    write_atomic(path, (json.dumps(told, indent=1, sort_keys=True) + "\n").encode())


def _read(path: Path) -> dict[str, dict[str, str]]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("it is larger than 1 MiB")
        told: Any = json.loads(path.read_text(encoding="utf-8"))
        choices: Any = told["choices"] if told.get("schema") == SCHEMA else None
        if not _is_choices(choices):
            raise ValueError("no choices of this version")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UsageError(
            f"not a file of tuned choices: {error}", where=str(path), hint="`hwc build --tune --tuned FILE` writes one"
        ) from error
    return dict(choices)


def _is_choices(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(row, dict) and all(isinstance(name, str) for name in row.values()) for row in value.values()
    )
