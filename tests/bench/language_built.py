"""What the language bench works on: the outputs of a build's own steps, and the figures of its quantisation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from built import Made, make

from hwc import digest
from hwc.capture.source import locate
from hwc.pipeline.plan import VariantPlan
from hwc.spec import infer
from hwc.spec.model import GgufSource, ModelSpec

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
    made: Made


def build(model: str, schemes: Sequence[str], store: Path, options: Sequence[str] = ()) -> Built:
    """Build a model in float and some schemes, as far as that is not done already, and return where everything lies."""
    made = make(model, [FLOAT, *schemes], store, options)
    found = infer.find(made.project, model)
    if not isinstance(found.spec.source, GgufSource):
        raise SystemExit(f"{model} does not come from a GGUF file, which llama.cpp would need")
    floats = made.variants[FLOAT]
    calibration = next(
        step for one in made.variants.values() if (step := one.quantise.inputs.get("calibration")) is not None
    )
    return Built(
        spec=made.spec, gguf=locate(found.spec.source, found.folder).parts,
        capture=made.path(floats.capture), cases=made.path(floats.cases), calibration=made.path(calibration),
        inputs_key=digest.short(digest.of_json([floats.capture.key, floats.cases.key, calibration.key])),
        quantised={name: _quantised(made, made.variants[name]) for name in schemes},
        made=made,
    )


def _quantised(made: Made, variant: VariantPlan) -> Quantised:
    assert variant.reference is not None, "a scheme that is not float has a reference"
    folder = made.path(variant.quantise)
    method = json.loads((folder / "method.json").read_text())["method"]
    return Quantised(
        folder=folder, key=variant.quantise.key, reference=made.path(variant.reference),
        cost=json.loads((folder / "usage.json").read_text()), method=method,
    )
