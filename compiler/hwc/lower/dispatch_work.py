"""What each dispatch of a module in IREE's flow IR does, as records; read in a child process."""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hwc import child
from hwc.errors import StepError
from hwc.lower import iree
from hwc.predict.operation import Operation
from hwc.quantise.linears import Linear
from hwc.spec.hardware import Element

READER_LIMITS = iree.Limits(timeout_s=120, memory_bytes=4 << 30)
Workload = Mapping[str, tuple[Operation, ...]]
"""Function (a bucket's name) to its operations, equal ones as one with their count, in the order of their first run."""


def read(flow: str, stored: Mapping[str, Element] | None = None) -> Workload:
    """Read a module in flow IR, in a child process: what parses it is native code.

    ``stored`` gives the element type of weights whose bits are kept in another one, by the tensor's name. Raises
    StepError for a shape that is not static or an element type there is no name for.
    """
    with tempfile.TemporaryDirectory(prefix="hwc-flow-") as folder:
        work = Path(folder)
        (work / "flow.mlir").write_text(flow)
        argv = (sys.executable, "-m", "hwc.lower.flow_reader", "flow.mlir", "flow.json")
        outcome = child.run(
            child.Call(
                argv=argv, cwd=work, timeout_s=READER_LIMITS.timeout_s, memory_bytes=READER_LIMITS.memory_bytes
            )
        )
        if outcome.returncode != 0 or not (work / "flow.json").is_file():
            last = (outcome.stderr.strip().splitlines() or ["no output"])[-1]
            raise StepError(f"the compiler's dispatches cannot be read: {last} ({outcome.describe()})")
        rows: dict[str, list[dict[str, Any]]] = json.loads((work / "flow.json").read_text())
    return {name: counted(_operation(row, stored or {}) for row in found) for name, found in rows.items()}


def _operation(row: dict[str, Any], stored: Mapping[str, Element]) -> Operation:
    name = row.pop("weight")
    return Operation(**{**row, "weights": stored.get(name, row["weights"])})


def counted(found: Iterable[Operation]) -> tuple[Operation, ...]:
    """Return each operation once, with how often it runs."""
    counts: Counter[Operation] = Counter()
    for operation in found:
        counts[replace(operation, count=1)] += operation.count
    return tuple(replace(operation, count=count) for operation, count in counts.items())


def stored_types(layers: Iterable[Linear]) -> dict[str, Element]:
    """Return the element type of packed weights whose bits lie in another type, by the tensor's name."""
    return {
        f"packed.{linear.layer}.codes": "float8_e4m3fn"
        for linear in layers
        if linear.format is not None and linear.format.kind == "fp8"
    }
