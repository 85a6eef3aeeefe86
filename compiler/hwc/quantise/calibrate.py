"""Calibrate: run cases through a model segment by segment, quantising each linear as it is reached.

Two streams of the same cases go through the graph: the float model's, and that of the model quantised so far, so
that each linear is fitted to the inputs it will really get, and to the outputs it ought to give. Weights are mapped
and live values lie on disk: memory holds one segment's weights, one case and one Hessian, whatever the depth.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hwc.errors import IntegrityError, StepError
from hwc.quantise.codes import Codes
from hwc.quantise.hessian import Moments
from hwc.quantise.linears import Linear
from hwc.quantise.live import Cases, LiveValues, Stream
from hwc.quantise.segments import Group, Segment, subgraph
from hwc.quantise.weights import Weights

if TYPE_CHECKING:
    import numpy as np
    import onnx

LOG = logging.getLogger(__name__)
ROW_MASK = "attention_mask"
"""The input that tells padded rows apart, int [batch, sequence]: padding must not shape a Hessian."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """What became of one linear."""

    codes: Codes
    decoded: np.ndarray
    """float32 [N, K]: the weight that the codes stand for."""
    bias: tuple[str, np.ndarray] | None = None
    """The name of the linear's bias and its new value."""
    relative_error: float = 0.0
    """Squared error of the outputs on the calibration data over their squared size."""


class Solver(Protocol):
    """Chooses the codes of one linear from its weight, float32 [N, K], and its inputs' moments."""

    def __call__(self, linear: Linear, weight: np.ndarray, moments: Moments) -> Solved:
        """Return codes and a new bias."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A detached graph, its weights, and the cases that run through it."""

    model: onnx.ModelProto
    segments: list[Segment]
    weights: Weights
    cases: Cases
    live: LiveValues
    replaced: dict[str, np.ndarray] = field(default_factory=dict)
    """Weights of the current segment as the quantised model has them, in the graph's own layout."""


def calibrate(calibration: Calibration, solve: Solver) -> Iterator[tuple[Linear, Solved]]:
    """Yield each linear with its result, in the order in which the graph reaches them."""
    total = sum(len(group.linears) for segment in calibration.segments for group in segment.groups)
    done, began = 0, time.monotonic()
    last = _last_segments(calibration.segments)
    for number, segment in enumerate(calibration.segments):
        calibration.replaced.clear()
        for group in segment.groups:
            moments = _moments(calibration, group)
            for linear in group.linears:
                solved = _solve(calibration, linear, moments, solve)
                done += 1
                LOG.info(
                    "quantised %d of %d, %s: relative error %.2e, %.0f s",
                    done, total, linear.layer, solved.relative_error, time.monotonic() - began,
                )
                yield linear, solved
        if segment.outputs:
            _run(calibration, segment)
        for name in [name for name, final in last.items() if final == number]:
            calibration.live.drop(name, len(calibration.cases))


def _last_segments(segments: list[Segment]) -> dict[str, int]:
    """Return the last segment that reads each value which a segment makes."""
    last: dict[str, int] = {}
    for number, segment in enumerate(segments):
        for name in (*segment.inputs, *(group.source for group in segment.groups)):
            last[name] = number
    return last


def _solve(calibration: Calibration, linear: Linear, moments: Moments, solve: Solver) -> Solved:
    import numpy as np

    stored = calibration.weights[linear.weight]
    weight = np.ascontiguousarray(stored if linear.transposed else stored.T, dtype=np.float32)
    solved = solve(linear, weight, moments)
    back = solved.decoded if linear.transposed else solved.decoded.T
    calibration.replaced[linear.weight] = np.ascontiguousarray(back, dtype=stored.dtype)
    if solved.bias:
        calibration.replaced[solved.bias[0]] = solved.bias[1]
    return solved


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
    """Run one segment over all cases: once in float, once quantised where there is a difference."""
    import numpy as np
    from onnx import helper

    exact = {name: np.asarray(calibration.weights[name]) for name in segment.weights}
    changed = {name: value for name, value in calibration.replaced.items() if name in exact}
    moved = any(calibration.live.has("quantised", name) for name in segment.inputs)
    streams: list[tuple[Stream, dict[str, Any]]] = [("float", exact)]
    streams += [("quantised", {**exact, **changed})] if changed or moved else []
    opened: Any = None
    for case in range(len(calibration.cases)):
        for stream, weights in streams:
            feeds = {name: _value(calibration, stream, name, case) for name in segment.inputs}
            feeds |= weights
            if opened is None:
                types = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in feeds.items()}
                opened = _open(subgraph(calibration.model, segment, types))
            for name, value in zip(segment.outputs, _call(opened, segment, feeds), strict=True):
                calibration.live.put(stream, name, case, value)


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


def log_to_stderr() -> None:
    """Send progress lines to stderr, where a step's log keeps them."""
    if not LOG.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        LOG.addHandler(handler)
        LOG.setLevel(logging.INFO)


def prepare(model: onnx.ModelProto, segments: list[Segment], captured: Path, cases: Path, work: Path) -> Calibration:
    """Open what a calibration reads; live values go to ``work``, a folder that exists."""
    return Calibration(
        model=model, segments=segments, weights=Weights(captured / "weights.safetensors"),
        cases=Cases(cases, model), live=LiveValues(work),
    )
