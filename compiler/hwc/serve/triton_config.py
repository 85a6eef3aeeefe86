"""The text of a Triton ``config.pbtxt``; pure.

Source: triton-inference-server/common, protobuf/model_config.proto.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

TYPES = {
    "float32": "TYPE_FP32", "float16": "TYPE_FP16", "int64": "TYPE_INT64", "int32": "TYPE_INT32", "bool": "TYPE_BOOL",
}
"""NumPy's name of a dtype to Triton's."""
VARIABLE = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One input or output as the server's clients see it."""

    name: str
    dtype: str
    dims: tuple[int, ...]
    """Without the batch where the model is batched; -1 is any size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUp:
    """One request that every instance answers before it is ready: the first golden case of a shape."""

    name: str
    batch: int
    inputs: tuple[tuple[Tensor, str], ...]
    """Each input at its exact size, with its file in the model's ``warmup/`` folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Everything that one model's ``config.pbtxt`` says."""

    name: str
    backend: str
    max_batch: int
    """0: the model takes no batches, and dims are whole."""
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    preferred_batches: tuple[int, ...]
    queue_delay_us: int
    """How long a request may wait for company."""
    warm_ups: tuple[WarmUp, ...]
    parameters: tuple[tuple[str, str], ...]
    model_file: str = ""


def text(config: ModelConfig) -> str:
    """Return the file's text."""
    return "\n".join(
        [
            f"name: {_quoted(config.name)}",
            f"backend: {_quoted(config.backend)}",
            *([f"default_model_filename: {_quoted(config.model_file)}"] if config.model_file else []),
            f"max_batch_size: {config.max_batch}",
            _ports("input", config.inputs),
            _ports("output", config.outputs),
            "instance_group [ { count: 1, kind: KIND_CPU } ]",
            *_batching(config),
            *_warm_ups(config.warm_ups),
            *(_parameter(key, value) for key, value in config.parameters),
            "",
        ]
    )


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _ports(kind: str, tensors: Sequence[Tensor]) -> str:
    rows = [f"  {{ name: {_quoted(tensor.name)}, {_type(tensor)} }}" for tensor in tensors]
    return f"{kind} [\n" + ",\n".join(rows) + "\n]"


def _type(tensor: Tensor) -> str:
    return f"data_type: {TYPES[tensor.dtype]}, dims: [ {', '.join(map(str, tensor.dims))} ]"


def _batching(config: ModelConfig) -> list[str]:
    if config.max_batch < 2:
        return []
    sizes = ", ".join(map(str, config.preferred_batches))
    delay = f"max_queue_delay_microseconds: {config.queue_delay_us}"
    return [f"dynamic_batching {{ preferred_batch_size: [ {sizes} ], {delay} }}"]


def _warm_ups(requests: Sequence[WarmUp]) -> list[str]:
    rows = []
    for request in requests:
        head = f"    name: {_quoted(request.name)}, batch_size: {request.batch}"
        rows.append("\n".join(["  {", head, *(_warm_input(tensor, file) for tensor, file in request.inputs), "  }"]))
    return ["model_warmup [\n" + ",\n".join(rows) + "\n]"] if rows else []


def _warm_input(tensor: Tensor, file: str) -> str:
    value = f"{_type(tensor)}, input_data_file: {_quoted(file)}"
    return f"    inputs {{ key: {_quoted(tensor.name)}, value: {{ {value} }} }}"


def _parameter(key: str, value: str) -> str:
    return f"parameters {{ key: {_quoted(key)}, value: {{ string_value: {_quoted(value)} }} }}"
