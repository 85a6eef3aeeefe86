"""How functions and dispatches are named in the lines of IREE's flow IR."""

from __future__ import annotations

import re

_FUNCTION = re.compile(r'^\s*util\.(?:func|initializer)\b(?: public| private)?(?: @"?([A-Za-z0-9_.$-]+))?')


def function_at(line: str) -> str | None:
    """Return the function a line opens, as it was called before lowering; empty for what runs at load; else None."""
    found = _FUNCTION.match(line)
    return None if found is None else (found[1] or "").removesuffix("$async")


def short(export: str) -> str:
    """Return a dispatch's name without its function's."""
    return export.partition("$")[2] or export
