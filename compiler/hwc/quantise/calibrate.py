"""Calibrate: run cases through a model segment by segment, quantising each linear as it is reached.

Two streams of the same cases go through the graph: the float model's, and that of the model quantised so far, so
that each linear is fitted to the inputs it will really get, and to the outputs it ought to give. Weights are mapped
and live values lie on disk: memory holds one segment's weights, one case and one Hessian, whatever the depth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hwc.errors import IntegrityError, StepError
from hwc.quantise.codes import dequantise
from hwc.quantise.finished import Finished, Solved
from hwc.quantise.hessian import Moments
from hwc.quantise.linears import Linear
from hwc.quantise.live import Cases, LiveValues, Stream
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
    """Chooses the codes of one linear from its weight, float32 [N, K], and its inputs' moments."""

    def __call__(self, linear: Linear, weight: np.ndarray, moments: Moments) -> Solved:
        """Return codes and the float weights that change with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A detached graph, its weights, the cases that run through it, and what is done so far."""

    model: onnx.ModelProto
    segments: list[Segment]
    weights: Weights
    cases: Cases
    live: LiveValues
    finished: Finished
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
    moments: Moments | None = None
    for linear in group.linears:
        stored = calibration.weights[linear.weight]
        if finished.has(linear.layer):
            solved = finished.read(linear.layer)
            progress.skipped(linear)
        else:
            moments = moments or _moments(calibration, group)
            weight = np.ascontiguousarray(stored if linear.transposed else stored.T, dtype=np.float32)
            solved = solve(linear, weight, moments)
            finished.keep(linear.layer, solved)
            progress.solved(linear, solved)
        decoded = dequantise(solved.codes)
        back = decoded if linear.transposed else decoded.T
        calibration.replaced[linear.weight] = np.ascontiguousarray(back, dtype=stored.dtype)
        calibration.replaced.update(solved.changed)


def _moments(calibration: Calibration, group: Group) -> Moments:
    """Sum one group's inputs over all cases; raise IntegrityError where they are not finite."""
    import numpy as np

    moments = Moments(group.linears[0].k)
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
        moments.add(kept, kept if seen is exact else rows(seen))
    moments.flush()
    return moments


class _rows:  # noqa: N801
    """Flattens a value [..., K] to its rows, those of padding left out."""

    def __init__(self, cases: Cases, case: int, like: np.ndarray) -> None:
        self._mask: Any = None
        if ROW_MASK in cases.names and like.ndim == 3:
            mask = cases.read(case, ROW_MASK)
            self._mask = mask.reshape(-1) != 0 if mask.shape == like.shape[:2] else None

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
    model: onnx.ModelProto, segments: list[Segment], captured: Path, cases: Path, finished: Finished, live: Path
) -> Calibration:
    """Open what a calibration reads, and what an earlier process left: layers in ``finished``, values in ``live``."""
    ran, index = finished.state()
    return Calibration(
        model=model, segments=segments, weights=Weights(captured / "weights.safetensors"),
        cases=Cases(cases, model), live=LiveValues(live, index), finished=finished, ran=ran,
    )
