"""What the language bench works on: the outputs of a build's own steps, and the figures of its quantisation."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import command_line
from measured import run

from hwc import digest
from hwc.capture.source import locate
from hwc.pipeline.build import Request, plan_build
from hwc.pipeline.step import Step
from hwc.pipeline.store import Store
from hwc.spec import infer
from hwc.spec.model import GgufSource, ModelSpec
from hwc.spec.project import open_project

TARGET = "llvm-cpu-host"
FLOAT = "fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantised:
    """One scheme's codes, and what it took to find them."""

    folder: Path
    key: str
    reference: Path
    """Folder of what ONNX Runtime answers on the quantised graph, as the bundle holds it."""
    cost: Mapping[str, float]
    """``wall_s``, ``cpu_s`` and ``peak_rss_bytes`` of the quantise step."""
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """One model's built steps."""

    spec: ModelSpec
    gguf: tuple[Path, ...]
    """Parts of the GGUF file that the model came from."""
    capture: Path
    cases: Path
    calibration: Path
    inputs_key: str
    """Digest of the model, the evaluation and the calibration: figures with the same key are of the same task."""
    quantised: Mapping[str, Quantised]
    store: Path
    home: Path

    def bundle(self, scheme: str) -> str:
        """Return the reference of a scheme's variant."""
        return f"{self.spec.name}:bench#{TARGET}/{scheme}"


def build(model: str, schemes: Sequence[str], store: Path) -> Built:
    """Build a model in float and some schemes, as far as that is not done already, and return where everything lies."""
    names = [FLOAT, *schemes]
    options = [part for name in names for part in ("-q", name)]
    argv = (str(command_line.HWC), "--store", str(store), "build", model, "-t", TARGET, *options, "--smoke", "--tag")
    print(f"hwc build {model}: {', '.join(names)}", file=sys.stderr, flush=True)
    store.parent.mkdir(parents=True, exist_ok=True)
    run((*argv, "bench"), log=store.with_name(f"build-{model}.log"))
    project = open_project(Path.cwd(), store=store)
    found = infer.find(project, model)
    if not isinstance(found.spec.source, GgufSource):
        raise SystemExit(f"{model} does not come from a GGUF file, which llama.cpp would need")
    request = Request(found=found, targets=(TARGET,), schemes=tuple(names), jobs=1, smoke=True)
    cache = Store(project.home)
    variants = {variant.scheme.name: variant for variant in plan_build(project, request).variants}
    floats = variants[FLOAT]
    calibration = next(
        step for variant in variants.values() if (step := variant.quantise.inputs.get("calibration")) is not None
    )
    return Built(
        spec=found.spec, gguf=locate(found.spec.source, found.folder).parts,
        capture=_path(cache, floats.capture), cases=_path(cache, floats.cases),
        calibration=_path(cache, calibration),
        inputs_key=digest.short(digest.of_json([floats.capture.key, floats.cases.key, calibration.key])),
        quantised={name: _quantised(cache, variants[name]) for name in schemes},
        store=store, home=project.home,
    )


def _path(cache: Store, step: Step) -> Path:
    found = cache.lookup(step.stage.name, step.key)
    if found is None:
        raise SystemExit(f"{step.label} is not built")
    return found.path


def _quantised(cache: Store, variant: Any) -> Quantised:
    folder = _path(cache, variant.quantise)
    method = json.loads((folder / "method.json").read_text())["method"]
    return Quantised(
        folder=folder, key=variant.quantise.key, reference=_path(cache, variant.reference),
        cost=json.loads((folder / "usage.json").read_text()), method=method,
    )
