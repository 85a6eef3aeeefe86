"""The work of a model's static shapes, divided as the compiler divides it for a target; nothing is built or run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hwc import digest
from hwc.errors import GateError, StepError
from hwc.events import Listener
from hwc.formats import Kind
from hwc.lower import iree, legality, vendor, workload
from hwc.lower.recipe import Recipe
from hwc.lower.workload import Traced
from hwc.pipeline.build import Request, plan_build
from hwc.pipeline.plan import ResolvedTarget, VariantPlan, encodings_of, floats_of, walk
from hwc.pipeline.run import run_steps
from hwc.pipeline.step import Step, tool_version
from hwc.pipeline.store import Artifact, Store
from hwc.predict.operation import Operation
from hwc.quantise import scheme as schemes
from hwc.spec.project import Found, Project, find_target
from hwc.spec.target import TargetSpec

READER_VERSION = 2
"""To be raised when the same IR is read otherwise: notes of older readers are not looked at then."""


def of_model(project: Project, found: Found, target_name: str, scheme_name: str, listen: Listener) -> Traced:
    """Return the work of each static shape of a model in a scheme, asked of the compiler once and noted.

    It is divided for the target, or for its host where nothing here makes code for the target. Raises GateError for a
    scheme in a form the chip's packing does not hold, StepError as lowering does.
    """
    target = find_target(project, target_name)
    scheme = schemes.find(scheme_name).of_model(found.spec.quantise.embeddings)
    if refused := legality.refused_scheme(scheme.formats.values(), target.formats):
        raise GateError(
            f"`{target.name}` does not hold {scheme.name}: {refused}", where=f"targets/{target.name}.toml [formats]",
            hint="`hwc schemes list` shows the schemes and their options",
        )
    variant = _planned(project, found, _coder(project, target), scheme_name)
    coder = variant.target.spec
    encodings = encodings_of(coder.model_copy(update={"encoding": {**coder.encoding, **target.encoding}}), scheme)
    recipe = recipe_of(variant.target, encodings)
    store, label = Store(project.home), _label(variant, recipe)
    if (noted := store.recall(label)) is not None:
        return from_json(noted)
    done = _run(project, variant, listen)
    traced = workload.traced(
        variant.buckets, recipe, graphs=done[variant.simplify.key].path, quantised=done[variant.quantise.key].path,
        limits=iree.Limits(timeout_s=project.spec.step_timeout_s, memory_bytes=project.spec.step_memory_bytes),
    )
    if not traced.workload:
        raise StepError("the compiler makes no dispatches of this model: it does no work", where=found.spec.name)
    store.note(label, to_json(traced))
    return traced


def recipe_of(target: ResolvedTarget, encodings: Mapping[Kind, str]) -> Recipe:
    """Return how a target has models lowered whose codes are stored in these encodings.

    Kernels that belong to the target's code, as the CPU's own do, are in it. Those of a chip's vendor are not: rules
    are asked about operators, and units are what is priced.
    """
    spec = target.spec
    return Recipe(
        lowering=spec.code(), encodings=encodings, tiles=bool(floats_of(spec)),
        door=vendor.door(_own_kernels(target), target.folder or Path(), spec.vendor.timeout_s, whole=False),
    )


def _own_kernels(target: ResolvedTarget) -> dict[str, Any]:
    return vendor.params(target.spec, target.folder) if target.spec.vendor.optional else {}


def _label(variant: VariantPlan, recipe: Recipe) -> str:
    """Name everything the answer depends on."""
    facts = {
        "simplify": variant.simplify.key, "quantise": variant.quantise.key,
        "lowering": recipe.lowering.model_dump(mode="json"), "encodings": dict(recipe.encodings),
        "kernels": _own_kernels(variant.target),
        "tiles": recipe.tiles, "buckets": [dict(bucket) for bucket in variant.buckets],
        "compiler": tool_version("iree-base-compiler"), "reader": READER_VERSION,
    }
    return f"work of {digest.of_json(facts)}"


def to_json(traced: Traced) -> str:
    """Serialise a workload."""
    work = {name: [asdict(operation) for operation in found] for name, found in traced.workload.items()}
    return json.dumps({"workload": work, "modules": traced.modules})


def from_json(text: str) -> Traced:
    """Read what :func:`to_json` wrote."""
    told = json.loads(text)
    return Traced(
        workload={name: tuple(Operation(**row) for row in rows) for name, rows in told["workload"].items()},
        modules={
            function: {name: tuple(found) for name, found in modules.items()}
            for function, modules in told["modules"].items()
        },
    )


def _coder(project: Project, target: TargetSpec) -> TargetSpec:
    """Return the target by which work is divided: its own, or its host's where nothing here makes code for it."""
    return target if target.lowering is not None else find_target(project, target.placement.host)


def _planned(project: Project, found: Found, coder: TargetSpec, scheme_name: str) -> VariantPlan:
    """Plan the graphs of all the model's shapes, and of none but the small ones on no device."""
    whole = replace(found, spec=found.spec.model_copy(update={"functional_buckets": found.spec.buckets}))
    request = Request(found=whole, targets=(coder.name,), schemes=(scheme_name,), jobs=1, smoke=True)
    return plan_build(project, request).variants[0]


def _run(project: Project, variant: VariantPlan, listen: Listener) -> dict[str, Artifact]:
    store = Store(project.home)
    store.repair()
    steps = {step.key: step for last in (variant.simplify, variant.quantise) for step in _ordered(last)}
    return run_steps(
        list(steps.values()), store, listen, jobs=1, timeout_s=project.spec.step_timeout_s,
        memory_bytes=project.spec.step_memory_bytes,
    )


def _ordered(last: Step) -> list[Step]:
    """Return a step after everything it depends on."""
    return list(walk(last))[::-1]
