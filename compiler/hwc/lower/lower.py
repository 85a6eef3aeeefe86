"""Lower: the static graphs of one model, in one scheme, to one code module for one target."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwc import onnx_io, told
from hwc.capture import state
from hwc.errors import InternalError, StepError
from hwc.formats import Kind
from hwc.lower import attention, exact, hand_over, iree, isa, links
from hwc.lower.dispatch_work import stored_types
from hwc.lower.flags import compiler_flags
from hwc.lower.opened import Opened
from hwc.lower.passes.devices import declare_devices, write_parts
from hwc.lower.passes.executable_target import name_executables, named
from hwc.lower.passes.kept_state import KeptTensor, keep_state
from hwc.lower.passes.linears import generated, rewrite_linears
from hwc.lower.passes.merge import merge_buckets
from hwc.lower.passes.tiled_floats import rewrite_tiled
from hwc.lower.passes.widen_halves import widen_halves
from hwc.lower.placing import Compilation, Placing
from hwc.lower.placing import placed as place_work
from hwc.lower.sharding import Sharded, shard
from hwc.lower.tiles import product_flags, rows_at_once
from hwc.lower.vendor import Door
from hwc.program import Function, Port
from hwc.quantise import graph as quantised_graph
from hwc.quantise.quantise import read_layers, read_rows
from hwc.quantise.tiles import tiled
from hwc.spec.model import Bucket, ModelSpec, bucket_id
from hwc.spec.target import Lowering

if TYPE_CHECKING:
    import onnx

SCOPE = "model"
_NUMPY_DTYPES = {1: "float32", 6: "int32", 7: "int64", 9: "bool", 10: "float16"}


def lower(
    spec: ModelSpec,
    lowering: Lowering,
    encodings: Mapping[Kind, str],
    *,
    buckets: tuple[Bucket, ...],
    graphs: Path,
    quantised: Path,
    limits: iree.Limits,
    out: Path,
    door: Door | None = None,
    placing: Placing | None = None,
    chip: Mapping[str, Any] | None = None,
    left_out: str = "",
    tiles: bool = False,
) -> None:
    """Write ``module.vmfb``, ``lower.json`` and ``iree-compile.log``; what ``door`` has takes part.

    ``chip`` is the device, as JSON values, that each of several chips is; ``left_out`` says why kernels are not here.
    ``tiles`` says that float weights of linears are stored in tiles.
    With ``placing``, every dispatch is held to the descriptor's rules, and goes to the host where they say so.

    Raises StepError naming the ONNX node and its source module if the compiler refuses it.
    """
    work = out / "work"
    work.mkdir()
    opened = Opened(door, lowering, work) if door is not None else None
    models = {bucket_id(bucket): reference_graph(graphs, quantised, bucket) for bucket in buckets}
    split = {name: shard(model, lowering.shards) for name, model in models.items() if lowering.shards > 1}
    if len({frozenset(one.states) for one in split.values()}) > 1:
        raise InternalError("the buckets of a model keep their state on different chips", where="[lowering] shards")
    texts: dict[str, str] = {}
    matched: dict[str, int] = {}
    in_tiles = tiled(read_rows(quantised)) if tiles else {}
    for name, model in models.items():
        texts[name], matched[name] = static_text(
            model, lowering, encodings, name=name, quantised=quantised, work=work, limits=limits, opened=opened,
            states=split[name].states if split else None, tiled=in_tiles,
        )
    flags = compiler_flags(lowering, quantised=bool(read_layers(quantised)))
    flags = (*flags, *product_flags(lowering)) if in_tiles else flags
    module = _for_chip(merge_buckets(texts), lowering, flags, work)
    programs: tuple[Path, ...] = ()
    if opened is not None:
        opened.complete()
        module, flags, programs = opened.declared(module), (*flags, *opened.flags), opened.programs
    handed = door is not None and door.vendor.hand_over
    parts: Mapping[str, Any] = {}
    try:
        if placing is not None:
            how = Compilation(
                lowering=lowering, flags=flags, work=work, limits=limits, programs=programs,
                stored=stored_types(read_layers(quantised)),
            )
            placed = place_work(module, placing, how, models)
            module, flags, parts = placed.mlir, placed.flags, placed.facts
        if split and "beside" in parts:
            raise StepError(
                "work cannot fall back to the host from a model that is split over chips", where="[lowering] shards",
                hint="set `shards = 1`, or let [[legality]] keep the work on the chip",
            )
        flags = (*flags, hand_over.FLAG) if handed else flags
        artefact, outcome = iree.compile_module(module, flags, work=work, limits=limits, programs=programs)
    except iree.CompileFailed as failure:
        if opened is not None:
            opened.failed(failure.outcome.stderr)
        raise _explain(failure, models) from failure
    finally:
        if opened is not None:
            opened.keep_log(out)
        if (work / "iree-compile.log").is_file():
            shutil.copyfile(work / "iree-compile.log", out / "iree-compile.log")
    if handed:
        made = _sources(artefact, module, door, spec.name, models, out)
    else:
        made = _code(artefact, lowering, opened, out)
    functions = [asdict(_function(spec, bucket, models[bucket_id(bucket)])) for bucket in buckets]
    facts = {
        "functions": functions,
        "flags": list(flags),
        "encodings": dict(encodings),
        "rewritten_linears": matched,
        "parameters": sorted(set(re.findall(rf'parameter\.named<"{SCOPE}"::"([^"]+)">', module))),
        **parts,
        **({"kernels_left_out": left_out} if left_out else {}),
        **(_sharding(split, texts, lowering.shards, chip or {}) if split else {}),
        **made,
    }
    (out / "lower.json").write_text(json.dumps(facts, indent=1, sort_keys=True))
    volatile = {"compile_wall_s": outcome.wall_s, "compile_peak_rss_bytes": outcome.peak_rss_bytes}
    (out / "timing.json").write_text(json.dumps(volatile))
    if left_out:
        told.warn(out, left_out)
    shutil.rmtree(work)


def _code(artefact: Path, lowering: Lowering, opened: Opened | None, out: Path) -> dict[str, Any]:
    """Keep the code module, once what it says of itself is what was asked for; return its facts."""
    made = isa.executables(artefact.read_bytes(), where=lowering.triple)
    isa.require_vlen(made, lowering.vlen_bits)
    shutil.move(artefact, out / "module.vmfb")
    linked = opened.facts((out / "module.vmfb").read_bytes(), out) if opened is not None else {}
    return {**({"executables": [isa.facts(one) for one in made]} if made else {}), **linked}


def _sources(
    sources: Path, module: str, door: Door | None, model: str, functions: Iterable[str], out: Path
) -> dict[str, Any]:
    assert door is not None
    told = {"model": model, "functions": list(functions), "descriptor": door.descriptor}
    return hand_over.write(sources, module, told, out)


def reference_graph(graphs: Path, quantised: Path, bucket: Bucket) -> onnx.ModelProto:
    """Return the detached graph of one bucket in its scheme: what ONNX Runtime checks and what is lowered."""
    model = onnx_io.load_graph(graphs / f"{bucket_id(bucket)}.onnx")
    return quantised_graph.apply(read_layers(quantised), model, where=bucket_id(bucket))


def static_text(
    model: onnx.ModelProto, lowering: Lowering, encodings: Mapping[Kind, str], *, name: str, quantised: Path,
    work: Path, limits: iree.Limits, opened: Opened | None = None, states: Mapping[str, int] | None = None,
    tiled: Mapping[str, bool] | None = None,
) -> tuple[str, int]:
    """Return one bucket's module as it is compiled, and how many of its linears were rewritten to their encoding.

    ``model`` is the bucket's reference graph, which is changed; ``name`` that of files in ``work``. With an ``opened``
    door, linears become calls of its kernels.
    """
    model.graph.name = "main_graph"
    exact.spell_out(model)
    if opened is not None and lowering.shards == 1:
        attention.fuse(model, opened.takes)
    onnx_io.save(model, work / f"{name}.onnx")
    weights = len(onnx_io.weight_names(model))
    first_weight = len(model.graph.input) - weights if weights else None
    text = iree.import_graph(work / f"{name}.onnx", inputs=first_weight, work=work, limits=limits)
    text = write_parts(text, SCOPE) if lowering.shards > 1 else text
    text, matched = _rewritten(keep_state(text, _kept(model, states)), encodings, quantised, name, opened)
    text = opened.plain(name, text) if opened is not None else text
    if tiled:
        choose = opened.door.chosen if opened is not None else None
        text, seen = rewrite_tiled(text, tiled, rows_at_once(lowering), choose)
        if opened is not None:
            opened.note(name, seen)
    return widen_halves(text) if lowering.widen_halves else text, matched


def _for_chip(module: str, lowering: Lowering, flags: tuple[str, ...], work: Path) -> str:
    """Name the chip's own format and facts where its descriptor has them, and each of several chips."""
    if not lowering.format and lowering.shards == 1:
        return module
    target = iree.probe_target(flags, work)
    if lowering.shards == 1:
        return name_executables(module, target, lowering.format, lowering.attributes)
    if lowering.format:
        target = named(target, lowering.format, lowering.attributes)
    return declare_devices(module, target, lowering.shards)


def _sharding(
    split: Mapping[str, Sharded], texts: Mapping[str, str], shards: int, chip: Mapping[str, Any]
) -> dict[str, Any]:
    """Tell how a model was split, and what passes between the chips in one call of each function."""
    return {
        "beside": [dict(chip)] * (shards - 1),
        "sharding": {
            "chips": shards,
            "functions": {
                name: {**asdict(split[name]), **links.count(text.splitlines())} for name, text in texts.items()
            },
        },
    }


def _rewritten(
    text: str, encodings: Mapping[Kind, str], quantised: Path, function: str, opened: Opened | None
) -> tuple[str, int]:
    expected = {linear.layer for linear in read_layers(quantised)}
    if not expected:
        return text, 0
    told = ", ".join(encodings.values())
    try:
        choose = opened.door.chosen if opened is not None else generated
        result = rewrite_linears(text, encodings=encodings, scope=SCOPE, choose=choose)
    except ValueError as error:
        raise StepError(
            f"{told} cannot hold this model: {error}",
            hint="choose another encoding in the target's [encoding], or exclude the layer",
        ) from error
    if missing := expected - result.layers:
        raise InternalError(f"{told}: {len(missing)} of {len(expected)} layers were not matched", where=min(missing))
    if opened is not None:
        opened.note(function, result.seen)
    return result.mlir, result.matched


def _kept(model: onnx.ModelProto, devices: Mapping[str, int] | None) -> list[KeptTensor]:
    """Name the state of a static graph by its shape, so that functions of equal batch share it."""
    inputs = [value.name for value in model.graph.input]
    outputs = [value.name for value in model.graph.output]
    return [
        KeptTensor(
            symbol=f"state.{'x'.join(map(str, kept.shape))}.{kept.name}",
            argument=inputs.index(kept.name), result=outputs.index(kept.next), start=inputs.index(state.START),
            device=devices.get(kept.name, 0) if devices is not None else None,
        )
        for kept in state.find(model)
    ]


def _function(spec: ModelSpec, bucket: Bucket, model: onnx.ModelProto) -> Function:
    hidden = {*onnx_io.weight_names(model), *(name for kept in state.find(model) for name in (kept.name, kept.next))}
    inputs = [value for value in model.graph.input if value.name not in hidden]
    return Function(
        name=bucket_id(bucket),
        bucket=dict(bucket),
        inputs=tuple(
            Port(
                name=value.name,
                dtype=spec.inputs[value.name].dtype,
                shape=spec.static_shape(spec.inputs[value.name], bucket),
            )
            for value in inputs
        ),
        outputs=tuple(
            Port(
                name=value.name,
                dtype=_NUMPY_DTYPES[value.type.tensor_type.elem_type],
                shape=tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim),
            )
            for value in model.graph.output
            if value.name not in hidden
        ),
    )


def _explain(failure: iree.CompileFailed, models: dict[str, Any]) -> StepError:
    """Name the ONNX node and source module behind a compiler error."""
    found = failure.onnx_op()
    if found is None:
        hint = "the whole diagnostic is in the step's log"
        if failure.outcome.crashed:
            hint = "the compiler crashed, which is a bug in it; the log and the module that did it are kept"
        return StepError(failure.what, hint=hint)
    function, op, occurrence = found
    model = models.get(function) or next(iter(models.values()))
    nodes = [node for node in model.graph.node if node.op_type == op]
    node = nodes[occurrence] if occurrence < len(nodes) else None
    named = f"ONNX node {node.name or node.output[0]!r} ({op})" if node is not None else f"an ONNX {op} node"
    module = (node.name.strip("/").rpartition("/")[0].replace("/", ".") if node is not None else "") or "the graph"
    return StepError(
        f"IREE cannot lower {named}: {failure.what.partition(': ')[2]}",
        where=f"module {module}, bucket {function}",
        hint=f"try another opt_level in the target's [lowering], or replace {op} in the model by ops that IREE lowers",
    )
