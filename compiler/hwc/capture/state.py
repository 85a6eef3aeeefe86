"""The state of a model between calls: inputs that a call replaces by outputs, as the KV cache of a language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwc import onnx_io
from hwc.errors import StepError
from hwc.spec.generation import CONTEXT_DIM
from hwc.spec.model import Bucket, ModelSpec

if TYPE_CHECKING:
    import numpy as np
    import onnx

PREFIX, NEXT = "cache.", "next."
START = "start"
"""Input, int64 [batch]: the tokens that each row's state already holds."""
HEADS_AXIS = 1
"""Of a state [batch, heads, context, width]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """One tensor that is kept from call to call; it begins as zeros."""

    name: str
    """Of the input that reads it."""
    next: str
    """Of the output that replaces it."""
    shape: tuple[int | str, ...]
    """``batch`` and ``context`` stand for sizes that a build fixes."""


def find(model: onnx.ModelProto) -> tuple[State, ...]:
    """Return a graph's state in the order of its inputs; none for a model that keeps none."""
    weights = set(onnx_io.weight_names(model))
    return tuple(
        State(name=value.name, next=NEXT + value.name.removeprefix(PREFIX), shape=_shape(value))
        for value in model.graph.input
        if value.name.startswith(PREFIX) and value.name not in weights
    )


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim)


def name_dims(model: onnx.ModelProto, batch_dim: str) -> None:
    """Give the open axes of every state, in place, the names that specifications know; raise StepError for others."""
    outputs = {value.name: value for value in model.graph.output}
    for value in model.graph.input:
        if not value.name.startswith(PREFIX):
            continue
        open_axes = [axis for axis, dim in enumerate(_shape(value)) if isinstance(dim, str)]
        if open_axes != [0, 2]:
            raise StepError(f"the state `{value.name}` has open axes {open_axes}, not batch and context")
        for kept in (value, outputs.get(NEXT + value.name.removeprefix(PREFIX))):
            for axis, name in ((0, batch_dim), (2, CONTEXT_DIM)):
                if kept is not None:
                    kept.type.tensor_type.shape.dim[axis].dim_param = name


def zeros(states: Sequence[State], spec: ModelSpec, bucket: Bucket) -> dict[str, np.ndarray]:
    """Return the state before the first call of a bucket, float32."""
    import numpy as np

    return {state.name: np.zeros(spec.sized(state.shape, bucket), np.float32) for state in states}


def carried(states: Sequence[State], outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the state after a call, as the next call's inputs."""
    return {state.name: outputs[state.next] for state in states}
