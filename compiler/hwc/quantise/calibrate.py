"""Calibrate: run cases through a model segment by segment, quantising each linear as it is reached.

Two streams of the same cases go through the graph: the float model's, and that of the model quantised so far, so
that each linear is fitted to the inputs it will really get, and to the outputs it ought to give. Weights are mapped
and live values lie on disk: memory holds one segment's weights, one case and one Hessian, whatever the depth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hwc.errors import IntegrityError, StepError
from hwc.quantise.codes import dequantise
from hwc.quantise.finished import Finished, Solved
from hwc.quantise.hessian import Moments
from hwc.quantise.linears import Linear
from hwc.quantise.live import STREAMS, Cases, LiveValues, Stream
from hwc.quantise.progress import Progress
from hwc.quantise.segments import Group, Segment, subgraph
from hwc.quantise.together import together
from hwc.quantise.weights import Weights

if TYPE_CHECKING:
    import numpy as np
    import onnx

ROW_MASK = "attention_mask"
"""The input that tells padded rows apart, int [batch, sequence]: padding must not shape a Hessian."""


class Solver(Protocol):
    """Chooses the codes of linears from their weights, float32 [N, K], and their inputs' moments."""

    def scale(self, group: Group, weights: Sequence[np.ndarray], moments: Moments) -> np.ndarray | None:
        """Return a scale [K] for the inputs of a group, or None."""

    def __call__(self, linear: Linear, weight: np.ndarray, moments: Moments, scale: np.ndarray | None) -> Solved:
        """Return codes, for a weight times a scale and for inputs over it, and the float weights that change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A detached graph, its weights, the cases that run through it, and what is done so far."""

    model: onnx.ModelProto
    segments: list[Segment]
    weights: Weights
    cases: Cases
    live: LiveValues
    finished: Finished
    residuals: Mapping[str, str] = field(default_factory=dict)
    """By layer, the value that its output is added to; see residual.py."""
    ran: int = 0
    """Segments that an earlier process has run the cases through."""
    replaced: dict[str, np.ndarray] = field(default_factory=dict)
    """Weights of the current segment as the quantised model has them, in the graph's own layout."""


def calibrate(calibration: Calibration, solve: Solver) -> None:
    """Solve every linear, in the order in which the graph reaches them, and keep it; go on where it was left."""
    progress = Progress(calibration.segments)
    last = _last_segments(calibration.segments)
    for number, segment in enumerate(calibration.segments):
        if number < calibration.ran:
            progress.skip(segment)
            continue
        calibration.replaced.clear()
        for group in segment.groups:
            _solve_group(calibration, group, solve, progress)
        if segment.outputs:
            _run(calibration, segment)
        gone = [name for name, final in last.items() if final == number]
        kept = {key: entry for key, entry in calibration.live.index.items() if key.partition("/")[2] not in gone}
        calibration.finished.ran(number + 1, kept)
        for name in gone:
            calibration.live.drop(name)


def _last_segments(segments: list[Segment]) -> dict[str, int]:
    """Return the last segment that reads each value which a segment makes."""
    last: dict[str, int] = {}
    for number, segment in enumerate(segments):
        for name in (*segment.inputs, *(group.source for group in segment.groups)):
            last[name] = number
    return last


def _solve_group(calibration: Calibration, group: Group, solve: Solver, progress: Progress) -> None:
    """Solve the linears of one group that were not kept, and put all of them in the float weights' place."""
    import numpy as np

    finished = calibration.finished
    kept = [finished.read(linear.layer) for linear in group.linears if finished.has(linear.layer)]
    if len(kept) < len(group.linears):
        moments, weights = _moments(calibration, group), [_matrix(calibration, linear) for linear in group.linears]
        scale = kept[0].scale if kept else solve.scale(group, weights, moments)
        if scale is not None:
            moments, weights = moments.scaled(scale), [weight * scale for weight in weights]
    for number, linear in enumerate(group.linears):
        if number < len(kept):
            solved = kept[number]
            progress.skipped(linear)
        else:
            solved = solve(linear, weights[number], moments, scale)
            finished.keep(linear.layer, solved)
            progress.solved(linear, solved)
        decoded = dequantise(solved.codes)
        if solved.scale is not None:
            decoded /= solved.scale
        back = decoded if linear.transposed else decoded.T
        calibration.replaced[linear.weight] = np.ascontiguousarray(back, calibration.weights[linear.weight].dtype)
        calibration.replaced.update(solved.changed)


def _matrix(calibration: Calibration, linear: Linear) -> np.ndarray:
    """Return a weight as float32 [N, K]."""
    import numpy as np

    stored = calibration.weights[linear.weight]
    return np.ascontiguousarray(stored if linear.transposed else stored.T, dtype=np.float32)


def _moments(calibration: Calibration, group: Group) -> Moments:
    """Sum one group's inputs over all cases; raise IntegrityError where they are not finite."""
    import numpy as np

    moments = Moments(group.linears[0].k)
    residual = calibration.residuals.get(group.linears[0].layer, "") if len(group.linears) == 1 else ""
    for case in range(len(calibration.cases)):
        exact = _value(calibration, "float", group.source, case)
        seen = exact
        if calibration.live.has("quantised", group.source):
            seen = _value(calibration, "quantised", group.source, case)
        if not (np.isfinite(exact).all() and np.isfinite(seen).all()):
            raise IntegrityError(
                f"the input of {group.linears[0].layer} is NaN or infinite on the calibration data", where=group.source
            )
        rows = _rows(calibration.cases, case, exact)
        kept = rows(exact)
        moments.add(kept, kept if seen is exact else rows(seen), _lost(calibration, residual, case, rows))
    moments.flush()
    return moments


def _lost(calibration: Calibration, residual: str, case: int, rows: _rows) -> np.ndarray | None:
    """Return the rows of what a value has lost by quantisation; None if nothing, or if it is broadcast in the sum."""
    if not calibration.live.has("quantised", residual):
        return None
    wanted, given = (_value(calibration, stream, residual, case) for stream in STREAMS)
    return rows(wanted) - rows(given) if wanted.shape[:-1] == rows.shape else None


class _rows:  # noqa: N801
    """Flattens a value [..., K] to its rows, those of padding left out."""

    def __init__(self, cases: Cases, case: int, like: np.ndarray) -> None:
        self.shape, self._mask = like.shape[:-1], None
        if ROW_MASK in cases.names and like.ndim == 3:
            mask = cases.read(case, ROW_MASK)
            self._mask = mask.reshape(-1) != 0 if mask.shape == self.shape else None

    def __call__(self, value: np.ndarray) -> np.ndarray:
        rows: np.ndarray = value.reshape(-1, value.shape[-1]).astype("float32", copy=False)
        return rows if self._mask is None else rows[self._mask]


def _value(calibration: Calibration, stream: Stream, name: str, case: int) -> np.ndarray:
    if calibration.live.has("float", name):
        return calibration.live.get(stream, name, case)
    return calibration.cases.read(case, name)


def _run(calibration: Calibration, segment: Segment) -> None:
    """Run one segment over all cases: once in float, once quantised where there is a difference, both at a time."""
    import numpy as np
    from onnx import helper

    exact = {name: np.asarray(calibration.weights[name]) for name in segment.weights}
    changed = {name: value for name, value in calibration.replaced.items() if name in exact}
    moved = any(calibration.live.has("quantised", name) for name in segment.inputs)
    first = {name: _value(calibration, "float", name, 0) for name in segment.inputs}
    types = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in (first | exact).items()}
    opened = _open(subgraph(calibration.model, segment, types))

    def over_cases(stream: Stream, weights: dict[str, np.ndarray]) -> None:
        for case in range(len(calibration.cases)):
            feeds = {name: _value(calibration, stream, name, case) for name in segment.inputs}
            for name, value in zip(segment.outputs, _call(opened, segment, feeds | weights), strict=True):
                calibration.live.put(stream, name, case, value)

    streams = [partial(over_cases, "float", exact)]
    streams += [partial(over_cases, "quantised", exact | changed)] if changed or moved else []
    together(*streams)


def _open(model: onnx.ModelProto) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise StepError(f"ONNX Runtime cannot load a part of the model: {_first_line(error)}") from error


def _call(opened: Any, segment: Segment, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    try:
        return list(opened.run(list(segment.outputs), dict(feeds)))
    except Exception as error:
        raise StepError(
            f"ONNX Runtime fails on the calibration data: {_first_line(error)}",
            where=", ".join(f"{name}: {feeds[name].dtype}{list(feeds[name].shape)}" for name in segment.inputs[:8]),
            hint="do the calibration cases have the shapes and the range that the model takes?",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def prepare(
    model: onnx.ModelProto, segments: list[Segment], captured: Path, cases: Path, finished: Finished, live: Path,
    residuals: Mapping[str, str],
) -> Calibration:
    """Open what a calibration reads, and what an earlier process left: layers in ``finished``, values in ``live``."""
    ran, index = finished.state()
    return Calibration(
        model=model, segments=segments, weights=Weights(captured / "weights.safetensors"),
        cases=Cases(cases, model), live=LiveValues(live, index), finished=finished, ran=ran,
        residuals=residuals,
    )
