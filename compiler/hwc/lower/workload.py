"""The work of a model, dispatch by dispatch, as IREE's compiler divides it: the records that prediction reads."""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hwc import child
from hwc.errors import StepError
from hwc.formats import Kind
from hwc.lower import iree, lower, sources
from hwc.lower.flags import compiler_flags
from hwc.lower.passes.merge import merge_buckets
from hwc.predict.operation import Operation
from hwc.quantise.linears import Linear
from hwc.quantise.quantise import read_layers
from hwc.spec.hardware import Element
from hwc.spec.model import Bucket, bucket_id
from hwc.spec.target import Lowering

READER_LIMITS = iree.Limits(timeout_s=120, memory_bytes=4 << 30)
Workload = Mapping[str, tuple[Operation, ...]]
"""Function (a bucket's name) to its operations, equal ones as one with their count, in the order of their first run."""


def of_module(mlir: str, flags: tuple[str, ...], *, work: Path, limits: iree.Limits) -> Workload:
    """Return the work of a static module under a target's flags; raises as the compiler and :func:`read` do."""
    return read(iree.flow_text(mlir, flags, work=work, limits=limits))


def of_model(
    buckets: Sequence[Bucket], lowering: Lowering, encodings: Mapping[Kind, str], *, graphs: Path, quantised: Path,
    limits: iree.Limits,
) -> Workload:
    """Return the work of a model's static buckets as they are lowered to a target in a scheme.

    ``graphs`` and ``quantised`` are outputs of the stages simplify and quantise. Raises StepError as lowering does.
    """
    return traced(buckets, lowering, encodings, graphs=graphs, quantised=quantised, limits=limits).workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """The work of a model, and where it comes from."""

    workload: Workload
    modules: Mapping[str, Mapping[str, tuple[str, ...]]]
    """Function to a dispatch's name to the modules of the source model whose work it does."""


def traced(
    buckets: Sequence[Bucket], lowering: Lowering, encodings: Mapping[Kind, str], *, graphs: Path, quantised: Path,
    limits: iree.Limits,
) -> Traced:
    """Return the work of a model's static buckets with the modules it comes from; as :func:`of_model` otherwise."""
    layers = read_layers(quantised)
    with tempfile.TemporaryDirectory(prefix="hwc-workload-") as folder:
        work = Path(folder)
        texts, models = {}, {}
        for bucket in buckets:
            name = bucket_id(bucket)
            models[name] = lower.reference_graph(graphs, quantised, bucket)
            texts[name], _ = lower.static_text(
                models[name], lowering, encodings, name=name, quantised=quantised, work=work, limits=limits
            )
        flags = (*compiler_flags(lowering, quantised=bool(layers)), sources.LOCATIONS)
        module = merge_buckets(texts)
        flow = iree.flow_text(module, flags, work=work, limits=limits)
        return Traced(workload=read(flow, stored_types(layers)), modules=sources.modules_of(module, flow, models))


def stored_types(layers: Iterable[Linear]) -> dict[str, Element]:
    """Return the element type of packed weights whose bits lie in another type, by the tensor's name."""
    return {
        f"packed.{linear.layer}.codes": "float8_e4m3fn"
        for linear in layers
        if linear.format is not None and linear.format.kind == "fp8"
    }


def operations(flow: str) -> tuple[Operation, ...]:
    """Return the operations of every function of a module in flow IR; raises as :func:`read` does."""
    return tuple(operation for found in read(flow).values() for operation in found)


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
