"""Merge the modules of several buckets into one, with one exported function each and every weight declared once."""

from __future__ import annotations

import re
from collections.abc import Mapping

_GLOBAL = re.compile(r'^\s*util\.global private (?:mutable )?@("?[^ ]+"?) (?:\{[^}]*\} )?= ')
_RESOURCE_LINE = re.compile(r"^\s*([A-Za-z0-9_.$-]+): (\"0x[0-9A-Fa-f]*\",?)\s*$")


def merge_buckets(modules: Mapping[str, str]) -> str:
    """Return one module: every bucket's ``@main_graph`` under the bucket's name, equal globals once."""
    globals_seen: dict[str, str] = {}
    functions: list[str] = []
    resources: list[str] = []
    for bucket, text in modules.items():
        body, blobs = _split(text, bucket)
        for line in body:
            found = _GLOBAL.match(line)
            if found is None:
                functions.append(line)
            elif globals_seen.setdefault(found[1], line) != line:
                raise ValueError(f"buckets declare {found[1]} differently")
        resources += blobs
    merged = ["module {", *globals_seen.values(), *functions, "}"]
    if resources:
        merged += ["{-#", "  dialect_resources: {", "    builtin: {"]
        merged += [line.rstrip(",") + ("," if line is not resources[-1] else "") for line in resources]
        merged += ["    }", "  }", "#-}"]
    return "\n".join(merged) + "\n"


def _split(text: str, bucket: str) -> tuple[list[str], list[str]]:
    head, _, tail = text.partition("{-#")
    lines = head.splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("module"))
    last = max(index for index, line in enumerate(lines) if line.startswith("}"))
    body = [
        re.sub(r"dense_resource<([^>]+)>", rf"dense_resource<{bucket}.\1>", line).replace("@main_graph", f"@{bucket}")
        for line in lines[first + 1 : last]
    ]
    blobs = [f"      {bucket}.{m[1]}: {m[2]}" for m in map(_RESOURCE_LINE.match, tail.splitlines()) if m]
    return body, blobs
