"""The work of a model, dispatch by dispatch, as IREE's compiler divides it: the records that prediction reads."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hwc.lower import iree, lower, sources
from hwc.lower.dispatch_work import Workload, read, stored_types
from hwc.lower.flags import compiler_flags
from hwc.lower.opened import Opened
from hwc.lower.passes.merge import merge_buckets
from hwc.lower.recipe import Recipe
from hwc.predict.operation import Operation
from hwc.quantise.quantise import read_layers, read_rows
from hwc.quantise.tiles import tiled
from hwc.spec.model import Bucket, bucket_id

__all__ = ["Traced", "Workload", "of_model", "of_module", "operations", "read", "stored_types", "traced"]


def of_module(mlir: str, flags: tuple[str, ...], *, work: Path, limits: iree.Limits) -> Workload:
    """Return the work of a static module under a target's flags; raises as the compiler and :func:`read` do."""
    return read(iree.flow_text(mlir, flags, work=work, limits=limits))


def of_model(
    buckets: Sequence[Bucket], recipe: Recipe, *, graphs: Path, quantised: Path, limits: iree.Limits
) -> Workload:
    """Return the work of a model's static buckets as they are lowered to a target in a scheme.

    ``graphs`` and ``quantised`` are outputs of the stages simplify and quantise. Raises StepError as lowering does.
    """
    return traced(buckets, recipe, graphs=graphs, quantised=quantised, limits=limits).workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """The work of a model, and where it comes from."""

    workload: Workload
    modules: Mapping[str, Mapping[str, tuple[str, ...]]]
    """Function to a dispatch's name to the modules of the source model whose work it does."""


def traced(
    buckets: Sequence[Bucket], recipe: Recipe, *, graphs: Path, quantised: Path, limits: iree.Limits
) -> Traced:
    """Return the work of a model's static buckets with the modules it comes from; as :func:`of_model` otherwise."""
    layers, lowering = read_layers(quantised), recipe.lowering
    in_tiles = tiled(read_rows(quantised)) if recipe.tiles else {}
    with tempfile.TemporaryDirectory(prefix="hwc-workload-") as folder:
        work = Path(folder)
        opened = Opened(recipe.door, lowering, work) if recipe.door is not None else None
        texts, models = {}, {}
        for bucket in buckets:
            name = bucket_id(bucket)
            models[name] = lower.reference_graph(graphs, quantised, bucket)
            texts[name], _ = lower.static_text(
                models[name], lowering, recipe.encodings, name=name, quantised=quantised, work=work, limits=limits,
                opened=opened, tiled=in_tiles,
            )
        flags = (*compiler_flags(lowering, quantised=bool(layers)), sources.LOCATIONS)
        module = merge_buckets(texts)
        module = opened.declared(module) if opened is not None else module
        flow = iree.flow_text(module, flags, work=work, limits=limits)
        return Traced(workload=read(flow, stored_types(layers)), modules=sources.modules_of(module, flow, models))


def operations(flow: str) -> tuple[Operation, ...]:
    """Return the operations of every function of a module in flow IR; raises as :func:`read` does."""
    return tuple(operation for found in read(flow).values() for operation in found)
