"""Bytes that pass between the devices of one artefact in one call, read off the transfers in its flow IR; pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from hwc.lower.flow_lines import function_at

_TRANSFER = re.compile(r"= flow\.tensor\.transfer %[^ ]+ : (tensor<[^>]*>)")
_TENSOR = re.compile(r"tensor<((?:\d+x)*)[a-z]+(\d+)")


def transfers(flow: str) -> dict[str, dict[str, int]]:
    """Return, for every function with any, how many tensors change the device in one call, and their bytes."""
    bodies: dict[str, list[str]] = {}
    function = ""
    for line in flow.splitlines():
        if (opened := function_at(line)) is not None:
            function = opened
        elif function:
            bodies.setdefault(function, []).append(line)
    return {name: told for name, body in bodies.items() if (told := count(body))["transfers"]}


def count(lines: Iterable[str]) -> dict[str, int]:
    """Return how many tensors the lines of one function move to another device, and their bytes."""
    moved = [tensor_bytes(found[1]) for found in map(_TRANSFER.search, lines) if found]
    return {"transfers": len(moved), "bytes": sum(moved)}


def tensor_bytes(kind: str) -> int:
    """Return the bytes of a static tensor type; elements of less than a byte take a whole one."""
    found = _TENSOR.match(kind)
    if found is None:
        raise ValueError(f"not a static tensor of numbers: {kind}")
    return math.prod(map(int, filter(None, found[1].split("x")))) * max(1, int(found[2]) // 8)
