"""Quantise: the weights of a captured model's linears to canonical codes."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwc import onnx_io
from hwc.errors import StepError
from hwc.files import locked
from hwc.formats import from_table
from hwc.quantise import awq, bias, calibrate, keep, progress, residual
from hwc.quantise import codes as canonical
from hwc.quantise.codes import FP8_MAX
from hwc.quantise.finished import Finished, Solved
from hwc.quantise.fit import Fit
from hwc.quantise.linears import Linear, assign, find
from hwc.quantise.scheme import Scheme
from hwc.quantise.segments import cut
from hwc.quantise.sensitivity import SENSITIVITY, choose
from hwc.quantise.weights import Weights

if TYPE_CHECKING:
    import numpy as np
    import onnx

CODES = "codes.safetensors"
LAYERS = "layers.json"
METHOD = "method.json"
OVERRIDES = "overrides.safetensors"
LOCK = "lock"
CALIBRATION_FACTS = "calibration.json"
"""What the calibration data is, told by the step that made it: names and digests."""


def quantise(
    scheme: Scheme, exclude: tuple[str, ...], captured: Path, out: Path, calibration: Path | None = None,
    work: Path | None = None, costs: Path | None = None,
) -> None:
    """Write ``codes.safetensors``, ``layers.json``, ``method.json`` and, if there are any, ``overrides.safetensors``.

    ``calibration`` is a folder of cases (``cases.npz``), with ``calibration.json`` on where they come from; without
    it every scheme rounds to nearest, and ``method.json`` says so. ``costs`` is a folder with ``sensitivity.json``, by
    which a scheme with a budget chooses formats. One segment's weights are in memory at a time, and
    one layer's codes. ``work`` is a folder for what is done so far: another try with it goes on from there; without
    it, nothing outlasts a failure. Raises StepError if the scheme covers nothing or the model cannot run its
    calibration data, and what keep.py says for a scheme that keeps codes.
    """
    model = onnx_io.load_graph(captured / "graph.onnx")
    source = keep.read(captured) if scheme.solver == "keep" else None
    linears = find(model, exclude=exclude)
    linears = keep.assigned(scheme, linears, source) if source else assign(linears, scheme.formats)
    if scheme.budget_bits is not None and costs is not None:
        told = json.loads((costs / SENSITIVITY).read_text())["costs"]
        wide = choose(linears, told, scheme.budget_bits)
        linears = assign(find(model, exclude=exclude), {**scheme.formats, **wide})
    chosen = [linear for linear in linears if linear.format]
    if not scheme.is_float and not any(linear.role == "linear" for linear in chosen):
        raise _covers_nothing(scheme, linears)
    with _folder(work, out) as folder, locked(folder / LOCK):
        finished = Finished(folder / "layers", chosen)
        if scheme.solver == "gptq" and calibration is not None:
            facts, folded = _calibrate(scheme, model, chosen, finished, _Places(captured, calibration, folder / "live"))
        else:
            facts, folded = {"method": scheme.without_data, "calibration": None}, dict[str, Solved]()
            if source is not None:
                keep.take(chosen, source, finished)
                facts["sources"] = keep.told(linears, source)
            _round(chosen, finished, captured)
        finished.join(out / CODES, out / OVERRIDES, folded=folded)
        rows = [_row(linear, finished, folded) for linear in linears]
    (out / LAYERS).write_text(json.dumps(rows, indent=1, sort_keys=True))
    (out / METHOD).write_text(json.dumps(facts, indent=1, sort_keys=True))


@contextmanager
def _folder(work: Path | None, out: Path) -> Iterator[Path]:
    """Yield the folder of what is done so far; one of its own, removed afterwards, if none is given."""
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
        yield work
        return
    with tempfile.TemporaryDirectory(dir=out, prefix=".work") as made:
        yield Path(made)


def _covers_nothing(scheme: Scheme, linears: list[Linear]) -> StepError:
    reasons = sorted({linear.skip for linear in linears if linear.role == "linear"})
    return StepError(
        f"scheme {scheme.name} covers no layer of this model",
        where="; ".join(reasons) or "the graph holds no linear with a weight",
        hint="loosen [quantise] exclude, or build it in fp32",
    )


def _round(chosen: Sequence[Linear], finished: Finished, captured: Path) -> None:
    """Round layers to nearest, one at a time."""
    import numpy as np

    weights = Weights(captured / "weights.safetensors")
    for linear in chosen:
        if finished.has(linear.layer):
            continue
        stored = weights[linear.weight]
        matrix = np.ascontiguousarray(stored if linear.transposed else stored.T, dtype=np.float32)
        assert linear.format is not None
        finished.keep(linear.layer, Solved(codes=canonical.nearest(matrix, linear.format)))


@dataclasses.dataclass(frozen=True, slots=True)
class _Places:
    captured: Path
    calibration: Path
    live: Path


def _calibrate(
    scheme: Scheme, model: onnx.ModelProto, chosen: list[Linear], finished: Finished, at: _Places
) -> tuple[dict[str, Any], dict[str, Solved]]:
    """Fit linears to the data, round embeddings; return what ``method.json`` tells, and the layers a scale changed."""
    progress.log_to_stderr()
    linears = [linear for linear in chosen if linear.role == "linear"]
    _round([linear for linear in chosen if linear.role == "embedding"], finished, at.captured)
    biases = bias.find(model, linears)
    residuals = residual.find(model, linears, biases)
    running = calibrate.prepare(
        model, cut(model, linears), at.captured, at.calibration, finished, at.live, residuals
    )
    groups = [group for segment in running.segments for group in segment.groups]
    places = awq.places(model, groups, biases) if scheme.scaled_inputs else {}
    fit = Fit(weights=running.weights, finished=finished, biases=biases, places=places)
    calibrate.calibrate(running, fit)
    facts = {
        "method": scheme.method,
        "calibration": _told(at.calibration, len(running.cases)),
        "relative_error": {linear.layer: finished.read(linear.layer).relative_error for linear in linears},
        "scaled_inputs": [group.source for group in groups if finished.read(group.linears[0].layer).scale is not None],
    }
    return facts, fit.changed(groups)


def _told(calibration: Path, cases: int) -> dict[str, Any]:
    """Return what is known about the calibration data."""
    path = calibration / CALIBRATION_FACTS
    facts: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return {**facts, "cases": cases}


def _row(linear: Linear, finished: Finished, folded: Mapping[str, Solved]) -> dict[str, Any]:
    if linear.format is None:
        return dataclasses.asdict(linear)
    solved = folded.get(linear.layer) or finished.read(linear.layer)
    scale = solved.largest_input / FP8_MAX if linear.format.activations == "static" else 0.0
    return dataclasses.asdict(
        dataclasses.replace(linear, adjusted=tuple(sorted(solved.changed)), activation_scale=scale)
    )


def read_overrides(folder: Path) -> dict[str, np.ndarray]:
    """Return the float weights that a scheme changed, by the names the scheme's graph gives them."""
    from safetensors.numpy import load_file

    path = folder / OVERRIDES
    return dict(load_file(path)) if path.is_file() else {}


def read_layers(folder: Path) -> list[Linear]:
    """Return the layers that were quantised."""
    return [linear for linear in read_rows(folder) if linear.format]


def read_rows(folder: Path) -> list[Linear]:
    """Return every linear and embedding that was found, quantised or not."""
    rows = json.loads((folder / LAYERS).read_text())
    return [Linear(**{**row, "format": from_table(row["format"]), "adjusted": tuple(row["adjusted"])}) for row in rows]
