"""The work of a model's static shapes, divided as the compiler divides it for a target; nothing is built or run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from hwc import digest
from hwc.errors import GateError, StepError
from hwc.events import Listener
from hwc.lower import iree, legality, workload
from hwc.lower.workload import Traced
from hwc.pipeline.build import Request, plan_build
from hwc.pipeline.plan import VariantPlan, encodings_of, walk
from hwc.pipeline.run import run_steps
from hwc.pipeline.step import Step, tool_version
from hwc.pipeline.store import Artifact, Store
from hwc.pipeline.targets import resolve
from hwc.predict.operation import Operation
from hwc.quantise import scheme as schemes
from hwc.spec.project import Found, Project, find_target
from hwc.spec.target import TargetSpec

READER_VERSION = 1
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
    coder = resolve(_coder(project, target), project.home).spec
    variant = _planned(project, found, coder, scheme_name)
    encodings = encodings_of(coder.model_copy(update={"encoding": {**coder.encoding, **target.encoding}}), scheme)
    store, label = Store(project.home), _label(variant, coder, encodings)
    if (noted := store.recall(label)) is not None:
        return from_json(noted)
    done = _run(project, variant, listen)
    traced = workload.traced(
        variant.buckets, coder.code(), encodings, graphs=done[variant.simplify.key].path,
        quantised=done[variant.quantise.key].path,
        limits=iree.Limits(timeout_s=project.spec.step_timeout_s, memory_bytes=project.spec.step_memory_bytes),
    )
    if not traced.workload:
        raise StepError("the compiler makes no dispatches of this model: it does no work", where=found.spec.name)
    store.note(label, to_json(traced))
    return traced


def _label(variant: VariantPlan, coder: TargetSpec, encodings: Mapping[Any, str]) -> str:
    """Name everything the answer depends on."""
    lowering = coder.code().model_dump(mode="json")
    facts = {
        "simplify": variant.simplify.key, "quantise": variant.quantise.key, "lowering": lowering,
        "encodings": dict(encodings), "buckets": [dict(bucket) for bucket in variant.buckets],
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
