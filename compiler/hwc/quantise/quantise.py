"""Quantise: the weights of a captured model's linears to canonical codes."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwc import onnx_io
from hwc.errors import StepError
from hwc.quantise import bias, calibrate
from hwc.quantise import codes as canonical
from hwc.quantise.codes import Codes
from hwc.quantise.fit import Fit
from hwc.quantise.linears import ADJUSTED, Linear, find
from hwc.quantise.scheme import Scheme
from hwc.quantise.segments import cut
from hwc.quantise.weights import Weights

if TYPE_CHECKING:
    import numpy as np
    import onnx

CODES = "codes.safetensors"
LAYERS = "layers.json"
METHOD = "method.json"
OVERRIDES = "overrides.safetensors"
CALIBRATION_FACTS = "calibration.json"
"""What the calibration data is, told by the step that made it: names and digests."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What quantising yields beside the list of layers."""

    codes: dict[str, Codes]
    overrides: dict[str, tuple[str, np.ndarray]] = dataclasses.field(default_factory=dict)
    """Float weights that change with the codes: the bias's name and value, by layer."""
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


def quantise(
    scheme: Scheme, exclude: tuple[str, ...], captured: Path, out: Path, calibration: Path | None = None
) -> None:
    """Write ``codes.safetensors``, ``layers.json``, ``method.json`` and, if there are any, ``overrides.safetensors``.

    ``calibration`` is a folder of cases (``cases.npz``), with ``calibration.json`` on where they come from; without
    it every scheme rounds to nearest, and ``method.json`` says so. One segment's weights are in memory at a time
    beside the codes. Raises StepError if the scheme covers nothing or the model cannot run its calibration data.
    """
    model = onnx_io.load_graph(captured / "graph.onnx")
    linears = find(model, exclude=exclude, group_size=scheme.group_size)
    chosen = [linear for linear in linears if scheme.kind != "float" and not linear.skip]
    if scheme.kind != "float" and not chosen:
        raise _covers_nothing(scheme, linears)
    if scheme.solver == "gptq" and calibration is not None:
        made = _calibrated(scheme, model, chosen, captured, calibration, out)
    else:
        made = _nearest(scheme, chosen, captured)
    canonical.save(made.codes, out / CODES)
    _save_overrides(made, out)
    rows = [_row(linear, made) for linear in linears]
    (out / LAYERS).write_text(json.dumps(rows, indent=1, sort_keys=True))
    (out / METHOD).write_text(json.dumps(made.facts, indent=1, sort_keys=True))


def _covers_nothing(scheme: Scheme, linears: list[Linear]) -> StepError:
    reasons = sorted({linear.skip for linear in linears}) or ["the graph holds no linear with a weight"]
    return StepError(
        f"scheme {scheme.name} covers no layer of this model",
        where="; ".join(reasons),
        hint="loosen [quantise] exclude, or build it in fp32",
    )


def _nearest(scheme: Scheme, chosen: list[Linear], captured: Path) -> Made:
    import numpy as np

    weights, made = Weights(captured / "weights.safetensors"), {}
    for linear in chosen:
        stored = weights[linear.weight]
        matrix = np.ascontiguousarray(stored if linear.transposed else stored.T, dtype=np.float32)
        if scheme.kind == "fp8":
            made[linear.layer] = canonical.fp8(matrix)
        else:
            made[linear.layer] = canonical.int4(matrix, group_size=scheme.group_size, symmetric=scheme.symmetric)
    return Made(codes=made, facts={"method": scheme.without_data, "calibration": None})


def _calibrated(
    scheme: Scheme, model: onnx.ModelProto, chosen: list[Linear], captured: Path, calibration: Path, out: Path
) -> Made:
    calibrate.log_to_stderr()
    made = Made(codes={})
    errors: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=out, prefix=".live") as work:
        running = calibrate.prepare(model, cut(model, chosen), captured, calibration, Path(work))
        fit = Fit(scheme=scheme, weights=running.weights, biases=bias.find(model, chosen))
        for linear, solved in calibrate.calibrate(running, fit):
            made.codes[linear.layer] = solved.codes
            errors[linear.layer] = solved.relative_error
            if solved.bias:
                made.overrides[linear.layer] = solved.bias
        made.facts.update(method=scheme.method, calibration=_told(calibration, len(running.cases)))
    made.facts["relative_error"] = errors
    return made


def _told(calibration: Path, cases: int) -> dict[str, Any]:
    """Return what is known about the calibration data."""
    path = calibration / CALIBRATION_FACTS
    facts: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return {**facts, "cases": cases}


def _row(linear: Linear, made: Made) -> dict[str, Any]:
    named = made.overrides.get(linear.layer)
    row = dataclasses.asdict(dataclasses.replace(linear, adjusted=named[0] if named else ""))
    return {**row, "quantised": linear.layer in made.codes}


def _save_overrides(made: Made, out: Path) -> None:
    from safetensors.numpy import save_file

    if made.overrides:
        save_file({name + ADJUSTED: value for name, value in sorted(made.overrides.values())}, out / OVERRIDES)


def read_overrides(folder: Path) -> dict[str, np.ndarray]:
    """Return the float weights that a scheme changed, by the names the scheme's graph gives them."""
    from safetensors.numpy import load_file

    path = folder / OVERRIDES
    return dict(load_file(path)) if path.is_file() else {}


def read_layers(folder: Path) -> list[Linear]:
    """Return the linears that were quantised."""
    rows = json.loads((folder / LAYERS).read_text())
    return [
        Linear(**{key: value for key, value in row.items() if key != "quantised"}) for row in rows if row["quantised"]
    ]
