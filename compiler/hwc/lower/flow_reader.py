"""Reads the dispatches of each function out of IREE's flow IR; run as a child process, for its parser is native code.

    python -m hwc.lower.flow_reader FLOW.mlir OUT.json

OUT.json maps a function's name to rows of the fields of an Operation, ``weight`` (the stored tensor's name) beside
them, in the order in which they run. Work of initialisers, which run once when a module is loaded, is left out.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from hwc.lower import flow_body
from hwc.lower.flow_body import Body
from hwc.lower.passes.kernel_call import CALL_ATTRIBUTE
from hwc.lower.vendor import PATTERN_OPS, PATTERN_TYPES

_PASSES = ("flow.tensor.reshape", "flow.tensor.bitcast", "flow.tensor.transfer", "flow.tensor.barrier")
"""Operations that hand on what they are given."""


def main(argv: list[str]) -> int:
    """Read one file, write the other; the message of what cannot be read goes to stderr."""
    try:
        rows = functions(Path(argv[0]).read_text())
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    Path(argv[1]).write_text(json.dumps(rows))
    return 0


def functions(text: str) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of every function that dispatches something."""
    from iree.compiler import ir

    with ir.Context() as context:
        context.allow_unregistered_dialects = True
        module = ir.Module.parse(text)
        top = [view.operation for view in module.body.operations]
        mutable = {_symbol(op) for op in top if op.name == "util.global" and "is_mutable" in op.attributes}
        reader = _Reader(_executables(top), mutable)
        found = {_symbol(op): reader.rows(op) for op in top if op.name == "util.func" and op.regions[0].blocks}
    return {name.removesuffix("$async"): rows for name, rows in found.items() if rows}


def _symbol(op: Any) -> str:
    return str(op.attributes["sym_name"].value)


def _executables(top: list[Any]) -> dict[tuple[str, str], Any]:
    """Return every dispatch function by (executable, export)."""
    found = {}
    for op in top:
        if op.name != "flow.executable":
            continue
        for view in op.regions[0].blocks[0].operations:
            if view.operation.name == "builtin.module":
                for inner in view.operation.regions[0].blocks[0].operations:
                    if inner.operation.name == "func.func":
                        found[_symbol(op), _symbol(inner.operation)] = inner.operation
    return found


class _Reader:
    def __init__(self, executables: dict[tuple[str, str], Any], mutable: set[str]) -> None:
        self._executables, self._mutable = executables, mutable
        self._bodies: dict[tuple[str, str, frozenset[int]], Body] = {}

    def rows(self, function: Any) -> list[dict[str, Any]]:
        ops = [view.operation for block in function.regions[0].blocks for view in block.operations]
        return [self._row(op) for op in ops if op.name == "flow.dispatch"]

    def _row(self, op: Any) -> dict[str, Any]:
        executable, export = _entry(op)
        names = [self._stored(value) for value in _arguments(op)]
        if CALL_ATTRIBUTE in op.attributes:
            return _called(op.attributes[CALL_ATTRIBUTE], export, names)
        weights = frozenset(place for place, name in enumerate(names) if name)
        key = (executable, export, weights)
        if key not in self._bodies:
            self._bodies[key] = flow_body.read(self._executables[executable, export], weights)
        return _told(self._bodies[key], export, names)

    def _stored(self, value: Any) -> str:
        """Return the name of the stored tensor a value is, or an empty string."""
        op = getattr(value.owner, "operation", None)
        while op is not None and op.name in _PASSES:
            op = getattr(op.operands[0].owner, "operation", None)
        if op is None or op.name != "util.global.load":
            return ""
        name = str(op.attributes["global"].value)
        return "" if name in self._mutable else name


def _called(told: Any, export: str, names: list[str]) -> dict[str, Any]:
    """Return the row of a vendor kernel's call, which tells of itself."""
    activations, weights = PATTERN_TYPES[told["pattern"].value]
    op = PATTERN_OPS.get(told["pattern"].value, "matmul")
    size = {name: int(told[name].value) for name in ("m", "n", "k", "read", "weight", "write")}
    batch = int(told["batch"].value) if "batch" in told else 1
    products = 2 if op == "attention" else 1  # scores, then their product with the values
    return {
        "op": op, "name": export, "batch": batch, "m": size["m"], "n": size["n"], "k": size["k"],
        "points": batch * size["m"] * (size["k"] if op == "attention" else size["n"]),
        "rank": 2 if batch == 1 else 3, "activations": activations, "weights": weights,
        "weight": names[1] if weights else "", "accumulator": "float32",
        "flops": 2.0 * products * batch * size["m"] * size["n"] * size["k"],
        "read_bytes": size["read"], "weight_bytes": size["weight"], "write_bytes": size["write"],
    }


def _entry(op: Any) -> tuple[str, str]:
    """Return a dispatch's executable and export; of several variants the first."""
    points = op.attributes["entry_points"]
    executable, export = next(iter(points)).value
    return str(executable), str(export)


def _arguments(op: Any) -> list[Any]:
    """Return what a dispatch hands to its function, without its workload and sizes."""
    sizes = [int(size) for size in op.attributes["operandSegmentSizes"]]
    return list(op.operands)[sizes[0] : sizes[0] + sizes[1]]


def _told(body: Body, export: str, names: list[str]) -> dict[str, Any]:
    root = body.root
    stored = [place for place in body.loaded_bytes if place < len(names) and names[place]]
    other = [place for place in body.loaded_bytes if place not in stored]
    weight = max(stored, key=lambda place: body.loaded_bytes[place], default=None)
    streamed = [place for place in (root.left or other) if place in body.elements]
    main = max(streamed, key=lambda place: body.loaded_bytes[place], default=None)
    activations = body.elements[main] if main is not None else body.result
    if activations == "int64":  # indices choose what is worked on, they are not it
        activations = body.result
    return {
        "op": root.kind, "name": export.partition("$")[2] or export, "batch": root.batch, "m": root.m, "n": root.n,
        "k": root.k, "points": math.prod(body.shape), "rank": len(body.shape), "activations": activations,
        "weights": body.elements[weight] if weight is not None else None,
        "weight": names[weight] if weight is not None else "",
        "accumulator": root.accumulator or body.result, "flops": sum(part.flops for part in body.parts),
        "read_bytes": sum(body.loaded_bytes[place] for place in other),
        "weight_bytes": sum(body.loaded_bytes[place] for place in stored), "write_bytes": body.written_bytes,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
