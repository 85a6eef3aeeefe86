"""What a build made, for the bench: bundles in its store, and the outputs of the build's own steps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import command_line
from measured import run

from hwc.api import find_variant
from hwc.bundle.program import program_of
from hwc.pipeline.build import Request, plan_build
from hwc.pipeline.plan import VariantPlan
from hwc.pipeline.step import Step
from hwc.pipeline.store import Store
from hwc.spec import infer
from hwc.spec.model import ModelSpec
from hwc.spec.project import Project, open_project

TARGET = "llvm-cpu-host"
TAG = "bench"
TWIN_PARITY_MAX_ABS = 0.05
"""With AVX-512 one of 3,051 positions of Gemma, rounded to nearest, is 2.04e-2 off; the median is 1.5e-3, p99 7e-3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One model in some schemes, built."""

    spec: ModelSpec
    variants: Mapping[str, VariantPlan]
    """By scheme."""
    store: Path
    project: Project

    def bundle(self, scheme: str) -> str:
        """Return the reference of a scheme's variant."""
        return f"{self.spec.name}:{TAG}#{TARGET}/{scheme}"

    def weight_bytes(self, scheme: str) -> int:
        """Return the bytes of a scheme's stored weights, as its artefact maps them."""
        return weight_bytes(self.bundle(scheme), self.store)

    def kernels(self, scheme: str) -> tuple[str, ...]:
        """Return the names of the kernels that a scheme's artefact holds."""
        lowered = find_variant(self.bundle(scheme), store=self.store).facts["lower"]
        kernels = lowered.get("vendor", {}).get("kernels", {})
        return tuple(name for name, told in kernels.items() if told["linked"])

    def told(self, scheme: str, name: str) -> str:
        """Return what a contestant's artefact is made of, for the page."""
        kernels = ", ".join(self.kernels(scheme)) or "none: the compiler's own code"
        return f"{name} on {self.spec.name}: scheme `{scheme}`, kernels: {kernels}"

    def path(self, step: Step) -> Path:
        """Return a step's output; exits if it is not there."""
        found = Store(self.project.home).lookup(step.stage.name, step.key)
        if found is None:
            raise SystemExit(f"{step.label} is not built")
        return found.path


def weight_bytes(bundle: str, store: Path) -> int:
    """Return the bytes of a variant's stored weights, as its artefact maps them."""
    parameters = program_of(find_variant(bundle, store=store)).parameters
    return sum(one.length or one.path.stat().st_size - one.offset for one in parameters)


def make(model: str, schemes: Sequence[str], store: Path, options: Sequence[str] = ()) -> Made:
    """Build a model in some schemes, as far as that is not done already, into the bench's own store.

    ``options`` are further ones of `hwc build`, such as ``--tune``. Exits if a scheme misses a gate: none is tagged.
    """
    asked = [*(part for name in schemes for part in ("-q", name)), *options]
    argv = (str(command_line.HWC), "--store", str(store), "build", model, "-t", TARGET, *asked, "--smoke", "--tag")
    told = Path(model).stem
    print(f"hwc build {told}: {', '.join(schemes)}", file=sys.stderr, flush=True)
    store.parent.mkdir(parents=True, exist_ok=True)
    run((*argv, TAG), log=store.with_name(f"build-{told}.log"))
    project = open_project(Path.cwd(), store=store)
    found = infer.find(project, model)
    request = Request(found=found, targets=(TARGET,), schemes=tuple(schemes), jobs=1, smoke=True)
    variants = {variant.scheme.name: variant for variant in plan_build(project, request).variants}
    return Made(spec=found.spec, variants=variants, store=store, project=project)


def reshaped(model: str, buckets: Sequence[Mapping[str, int]], items: int, folder: Path) -> str:
    """Write a shipped model's specification with other shapes, and fewer items to judge it by; return the file."""
    shapes = tuple(dict(bucket) for bucket in buckets)

    def changed(spec: ModelSpec) -> dict[str, Any]:
        evaluation = spec.evaluation.model_copy(update={"items": items})
        return {"buckets": shapes, "functional_buckets": shapes[:1], "evaluation": evaluation}

    return _derived(model, "shapes", changed, folder)


def twin(model: str, tokens: int, folder: Path) -> str:
    """Write a shipped language model's specification with another length of cache; return the file.

    Codes that are rounded to nearest, to be timed and not shipped, may be further from ONNX Runtime's answers.
    """

    def changed(spec: ModelSpec) -> dict[str, Any]:
        assert spec.generation is not None, f"{model} is no language model"
        generation = spec.generation.model_copy(update={"context_tokens": tokens})
        return {"generation": generation, "parity_rounded_max_abs": TWIN_PARITY_MAX_ABS}

    return _derived(model, f"cache-{tokens}", changed, folder)


def _derived(model: str, suffix: str, changed: Callable[[ModelSpec], dict[str, Any]], folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    spec = infer.relocated(infer.find(open_project(Path.cwd()), model), folder)
    derived = spec.model_copy(update={"name": f"{spec.name}-{suffix}", **changed(spec)})
    path = folder / f"{derived.name}.toml"
    path.write_text(infer.to_toml(derived))
    return str(path)
