"""Errors and warnings across a process boundary: a child tells them in a file, the parent raises or shows them."""

from __future__ import annotations

import json
from pathlib import Path

from hwc.errors import BY_NAME, HwcError, InternalError

FILE_NAME = "error.json"
WARNINGS = "warnings.txt"
"""One a line; kept with what the child made."""


def tell(folder: Path, error: HwcError) -> None:
    """Write an error for the parent."""
    payload = {"type": type(error).__name__, "what": error.what, "where": error.where, "hint": error.hint}
    for known in BY_NAME.values():
        if isinstance(error, known) and payload["type"] not in BY_NAME:
            payload["type"] = known.__name__
    (folder / FILE_NAME).write_text(json.dumps(payload))


def raise_told(folder: Path) -> None:
    """Raise the error a child wrote, if it wrote one."""
    file = folder / FILE_NAME
    if not file.is_file():
        return
    try:
        payload = json.loads(file.read_text())
    except ValueError:  # the child was killed while it wrote: how it ended tells more
        return
    cls = BY_NAME.get(payload["type"], InternalError)
    raise cls(payload["what"], where=payload["where"], hint=payload["hint"])


def warn(folder: Path, text: str) -> None:
    """Tell the parent what its user ought to know, though the work goes on."""
    with (folder / WARNINGS).open("a", encoding="utf-8") as stream:
        stream.write(" ".join(text.split()) + "\n")


def warnings(folder: Path) -> list[str]:
    """Return what was told with ``warn``."""
    file = folder / WARNINGS
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
