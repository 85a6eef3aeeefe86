"""Compile a suite of probes as hwc lowers any model, and time its dispatches, each against what it does."""

from __future__ import annotations

import json
import shutil
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwc import onnx_io
from hwc.capture import golden
from hwc.errors import StepError
from hwc.formats import Format, Kind
from hwc.lower import iree, lower, workload
from hwc.lower.flags import compiler_flags
from hwc.lower.opened import Opened
from hwc.lower.passes.merge import merge_buckets
from hwc.lower.recipe import Recipe
from hwc.lower.tiles import product_flags
from hwc.measure import dispatches, probes
from hwc.measure.suites import Suite
from hwc.predict.class_fit import Sample
from hwc.predict.operation import Operation
from hwc.predict.quarantine import spread
from hwc.program import Device, Function, Port, Program, Slice
from hwc.quantise import codes
from hwc.quantise import graph as quantised_graph
from hwc.quantise import linears as layers_of
from hwc.quantise.encode import float_entry, write_archive
from hwc.quantise.encodings import Packed, pack
from hwc.quantise.linears import Linear
from hwc.quantise.quantise import LAYERS
from hwc.quantise.tiles import tiled
from hwc.runtime import clean

if TYPE_CHECKING:
    import numpy as np
    import onnx

EMPTY = "empty"
"""A function that adds eight numbers: what a call costs that does nothing."""
EMBEDDINGS = Format(kind="int8", group_size=32)
"""How tables and heads are stored in a quantised suite, as the shipped models have it."""
CHAIN, CHAIN_LENGTH = "chain", 48
"""A function of that many dispatches of next to no work."""
_DTYPES = {1: "float32", 7: "int64"}
_PROBE = "probe"
LEAST_ROUNDS, MOST_ROUNDS = 3, 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where and for what probes are built."""

    recipe: Recipe
    device: Device
    limits: iree.Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A suite that is ready to be timed."""

    suite: Suite
    program: Program
    operations: Mapping[str, Operation]
    """Dispatch's name to what it does; ``count`` is how often it runs in a call."""
    cases: Path
    compile_wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """What the rounds over one suite found."""

    samples: tuple[Sample, ...]
    call_s: float
    """Least time of one call of all probes."""
    empty_s: float
    """Least time of a call that does nothing."""
    chain_s: float
    """Least time of a call of the chain."""
    in_dispatches_s: float
    """Sum of the dispatches' own least times: what the call should take."""

    @property
    def dispatch_s(self) -> float:
        """What one more dispatch costs before it works."""
        return max(0.0, self.chain_s - self.empty_s) / CHAIN_LENGTH


def build(suite: Suite, place: Place, work: Path) -> Built:
    """Lower a suite in its format to a module, write its weights, and read from the compiler what it does."""
    work.mkdir(parents=True)
    recipe = place.recipe
    opened = Opened(recipe.door, recipe.lowering, work) if recipe.door is not None else None
    names: dict[str, tuple[probes.Probe, ...]] = {
        suite.name: suite.probes, EMPTY: (probes.Rows(kind="add", rows=1, width=8),),
        CHAIN: (probes.Chain(length=CHAIN_LENGTH),),
    }
    texts: dict[str, str] = {}
    entries: dict[str, Packed] = {}
    functions, found = [], []
    for index, (name, members) in enumerate(names.items()):
        folder = work / name
        folder.mkdir()
        model = probes.graph(name, members)
        weights = onnx_io.detach(model)
        linears = _formats(model, suite.form if name == suite.name else None)
        (folder / LAYERS).write_text(json.dumps([asdict(linear) for linear in linears]))
        quantised = [linear for linear in linears if linear.format]
        model = quantised_graph.apply(quantised, model, where=name)
        in_tiles = tiled(linears) if recipe.tiles else {}
        functions.append(_function(name, index, model))
        texts[name], _ = lower.static_text(
            model, recipe.lowering, recipe.encodings, name=name, quantised=folder, work=folder, limits=place.limits,
            opened=opened, tiled=in_tiles,
        )
        entries |= _entries(weights, quantised, recipe.encodings, in_tiles)
        found += quantised
    module, flags = merge_buckets(texts), compiler_flags(recipe.lowering, quantised=suite.form is not None)
    flags = (*flags, *product_flags(recipe.lowering)) if recipe.tiles else flags
    if opened is not None:
        opened.complete()
        module, flags = opened.declared(module), (*flags, *opened.flags)
    flow = iree.flow_text(module, flags, work=work, limits=place.limits)
    work_of = workload.read(flow, workload.stored_types(found))[suite.name]
    artefact, outcome = iree.compile_module(module, flags, work=work, limits=place.limits)
    shutil.move(artefact, work / "probes.vmfb")
    write_archive(entries, work / "probes.irpa")
    golden.save_cases([_case(function) for function in functions], work)
    program = Program(
        code=Slice(path=work / "probes.vmfb"), parameters=(Slice(path=work / "probes.irpa"),),
        functions=tuple(functions), device=place.device,
    )
    return Built(
        suite=suite, program=program, operations={one.name: one for one in work_of}, cases=work,
        compile_wall_s=outcome.wall_s,
    )


def _formats(model: onnx.ModelProto, form: Format | None) -> list[Linear]:
    found = layers_of.find(model)
    embeddings = EMBEDDINGS if form is not None else None
    return layers_of.assign(found, {"linear": form, "embedding": embeddings})


def _entries(
    weights: Mapping[str, np.ndarray], quantised: Sequence[Linear], encodings: Mapping[Kind, str],
    in_tiles: Mapping[str, bool],
) -> dict[str, Packed]:
    """Return what the archive holds: float weights as they are or in tiles, others rounded to nearest and packed."""
    packed = {linear.weight for linear in quantised}
    found = dict(float_entry(name, value, in_tiles) for name, value in weights.items() if name not in packed)
    for linear in quantised:
        assert linear.format is not None  # those without were left out
        value = weights[linear.weight]
        rounded = codes.nearest(value if linear.transposed else value.T, linear.format)
        found |= pack(linear.layer, rounded, encodings[linear.format.kind])
    return found


def _function(name: str, index: int, model: onnx.ModelProto) -> Function:
    weights = set(onnx_io.weight_names(model))

    def port(value: onnx.ValueInfoProto) -> Port:
        kind = value.type.tensor_type
        shape = tuple(dim.dim_value for dim in kind.shape.dim)
        return Port(name=value.name, dtype=_DTYPES[kind.elem_type], shape=shape)

    return Function(
        name=name, bucket={_PROBE: index},
        inputs=tuple(port(value) for value in model.graph.input if value.name not in weights),
        outputs=tuple(port(value) for value in model.graph.output),
    )


def _case(function: Function) -> golden.Case:
    import numpy as np

    feeds = {port.name: np.full(port.shape, 0.5 if port.dtype == "float32" else 1, port.dtype) for port in
             function.inputs}
    return golden.Case(bucket=function.bucket, items=(0,), feeds=feeds, batched=False)


def time_suites(built: Sequence[Built], *, budget_s: float, work: Path) -> tuple[list[Timed], int]:
    """Time all suites in turn, round by round, until the budget is spent; return what was found and how many rounds.

    Other work on the machine only adds: the least time of each dispatch is kept, and how the rounds differ. Raises
    StepError where the runtime's profiler tells nothing.
    """
    minima: dict[str, dict[str, list[float]]] = {one.suite.name: defaultdict(list) for one in built}
    calls: dict[str, list[dict[str, float]]] = {one.suite.name: [] for one in built}
    deadline, rounds = time.monotonic() + budget_s, 0
    while rounds < LEAST_ROUNDS or (rounds < MOST_ROUNDS and time.monotonic() < deadline):
        for one in built:
            folder = work / f"{one.suite.name}-{rounds}"
            folder.mkdir(parents=True)
            for name, seconds in _dispatches(one, folder).items():
                minima[one.suite.name][name].append(seconds)
            calls[one.suite.name].append(_calls(one, folder / "calls"))
            shutil.rmtree(folder)
        rounds += 1
    return [_timed(one, minima[one.suite.name], calls[one.suite.name]) for one in built], rounds


def _dispatches(one: Built, work: Path) -> dict[str, float]:
    """Return each dispatch's least seconds of a few calls in one process."""
    only = replace(one.program, functions=one.program.functions[:1])
    told = dispatches.breakdown(only, work, budget_s=60)
    if not told["available"]:
        raise StepError(f"the probes' dispatches cannot be timed: {told['reason']}", where=one.suite.name)
    return {row["dispatch"]: row["min_us"] / 1e6 for row in told["functions"][one.suite.name]}


def _calls(one: Built, work: Path) -> dict[str, float]:
    """Return the least seconds of a call of each function, as a model's latency is measured."""
    report: dict[str, Any] = clean.serve(
        work, one.program, "time", timeout_s=120, memory_bytes=8 << 30, cases=str(one.cases), warmup=2, min_rounds=3,
        rounds=5, budget_s=1.0, context_tokens=None, composed=False,
    )
    return {name: min(values) / 1e3 for name, values in report["wall_ms"].items()}


def _timed(one: Built, minima: Mapping[str, list[float]], calls: Sequence[Mapping[str, float]]) -> Timed:
    samples = tuple(
        Sample(
            operation=replace(operation, count=1), quantised=one.suite.form is not None,
            resident=one.suite.resident, seconds=min(minima[name]), spread=spread(minima[name]),
        )
        for name, operation in one.operations.items()
        if name in minima
    )
    counts = {name: operation.count for name, operation in one.operations.items() if name in minima}
    least = {name: min(call[name] for call in calls) for name in (one.suite.name, EMPTY, CHAIN)}
    return Timed(
        samples=samples, call_s=least[one.suite.name], empty_s=least[EMPTY], chain_s=least[CHAIN],
        in_dispatches_s=sum(min(minima[name]) * count for name, count in counts.items()),
    )
