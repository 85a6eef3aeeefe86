"""ONNX files, safely: bounded, confined external data, and graphs held apart from their weights.

hwc keeps a model as a *detached graph* (the weights are trailing graph inputs, named in the graph's
metadata) beside one safetensors file. A detached graph is a few hundred KiB whatever the model's size, so
simplifying and lowering it can neither touch nor copy a weight.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hwc import onnx_external
from hwc.errors import IntegrityError, StepError

if TYPE_CHECKING:
    import numpy as np
    import onnx

WEIGHTS_KEY = "hwc.weights"
MAX_PROTO_BYTES = 2**31 - 1
DETACH_FLOAT_ELEMENTS = 32
DETACH_ANY_ELEMENTS = 4096
_DAMAGED = "the checkpoint is damaged or diverged in training"


def load(path: Path, outside: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """Load an ONNX file with its external data confined to its own folder.

    Where ``outside`` is given, initializers that lie in external data are not read: they are mapped into it, by name,
    and an empty tensor of their type and shape stands in the graph.

    Raises IntegrityError for a file that is no ONNX model, is truncated, or whose external data has an absolute
    name, leaves the folder, goes through a link, or claims bytes past its file's end.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        size = path.stat().st_size
    except OSError as error:
        raise IntegrityError(f"cannot read the ONNX file: {error.strerror}", where=str(path)) from error
    if size > MAX_PROTO_BYTES:
        raise IntegrityError(
            f"the ONNX file holds {size} bytes; a protobuf holds at most 2 GiB", where=str(path),
            hint="save the weights as external data",
        )
    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise IntegrityError("not an ONNX model, or truncated", where=str(path), hint="export it again") from error
    if not model.graph.node or not model.opset_import:
        raise IntegrityError("not an ONNX model: it has no nodes or no opset", where=str(path))
    if outside is not None:
        onnx_external.map_in(model, path, outside)
    onnx_external.read_in(model, path)
    _check(model, path, partial=bool(outside))
    return model


def _check(model: onnx.ModelProto, path: Path, *, partial: bool) -> None:
    import onnx

    by_path = partial or model.ByteSize() >= MAX_PROTO_BYTES
    try:
        onnx.checker.check_model(str(path) if by_path else model)
    except onnx.checker.ValidationError as error:
        first = str(error).strip().splitlines()[0]
        raise IntegrityError(f"not a valid ONNX model: {first}", where=str(path), hint="export it again") from error
    except ValueError as error:
        raise IntegrityError(f"not a valid ONNX model: {error}", where=str(path)) from error


def drop_notes(model: onnx.ModelProto) -> None:
    """Remove what exporters wrote for people, in place: stack traces name folders of the machine they ran on."""
    model.doc_string = ""
    kept = [(entry.key, entry.value) for entry in model.metadata_props if entry.key == WEIGHTS_KEY]
    del model.metadata_props[:]
    for key, value in kept:
        model.metadata_props.add(key=key, value=value)
    _drop_inner_notes(model.graph)


def _drop_inner_notes(graph: onnx.GraphProto) -> None:
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    for node in graph.node:
        for entry in node.attribute:
            entry.doc_string = ""
            for inner in (entry.g, *entry.graphs):
                if inner.node:
                    _drop_inner_notes(inner)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a detached graph; the same graph gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def load_graph(path: Path) -> onnx.ModelProto:
    """Load a detached graph that hwc wrote."""
    import onnx

    return onnx.load_model(str(path), load_external_data=False)


def detach(model: onnx.ModelProto, outside: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """Turn large initializers into trailing graph inputs, in place, and return their values by name.

    Detached are floating tensors of at least 32 elements and any tensor of at least 4096; what is smaller
    may steer shapes and stays inside. ``outside`` holds the values that no longer lie in the graph. Raises
    IntegrityError for a weight that holds NaN or infinity.
    """
    import onnx
    from onnx import numpy_helper

    weights: dict[str, np.ndarray] = {}
    kept: list[onnx.TensorProto] = []
    far = outside or {}
    for tensor in model.graph.initializer:
        if not _is_weight(tensor):
            inside = numpy_helper.from_array(far[tensor.name], tensor.name) if tensor.name in far else tensor
            _check_constant(inside)
            kept.append(inside)
            continue
        weights[tensor.name] = far[tensor.name] if tensor.name in far else numpy_helper.to_array(tensor)
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    check_finite(weights)
    set_weight_names(model, list(weights))
    return weights


def _is_weight(tensor: onnx.TensorProto) -> bool:
    import onnx

    count = math.prod(tensor.dims)
    floating = tensor.data_type in (
        onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE,
    )
    return len(tensor.dims) > 0 and count >= (DETACH_FLOAT_ELEMENTS if floating else DETACH_ANY_ELEMENTS)


def _check_constant(tensor: onnx.TensorProto) -> None:
    """Refuse NaN in a small constant; infinity is a legitimate one, of a mask or a clip."""
    import numpy as np
    from onnx import numpy_helper

    value = numpy_helper.to_array(tensor)
    if _is_float(value) and np.isnan(value.astype(np.float64)).any():
        raise IntegrityError(f"constant {tensor.name!r} holds NaN", where=tensor.name, hint=_DAMAGED)


def _is_float(value: np.ndarray) -> bool:
    """Tell floats apart, bfloat16 included, which is none to NumPy."""
    return value.dtype.kind == "f" or value.dtype.name == "bfloat16"


def check_finite(weights: Mapping[str, np.ndarray]) -> None:
    """Raise IntegrityError naming the first weight that holds NaN or infinity."""
    import numpy as np

    for name, value in weights.items():
        if _is_float(value) and not np.isfinite(value).all():
            bad = int(np.count_nonzero(~np.isfinite(value)))
            raise IntegrityError(
                f"weight {name!r} holds {bad} NaN or infinite values of {value.size}",
                where=name,
                hint=_DAMAGED,
            )


def used_names(graph: onnx.GraphProto) -> set[str]:
    """Return every value name that a graph's nodes or outputs read, those of inner graphs included."""
    names = {value.name for value in graph.output}
    for node in graph.node:
        names.update(node.input)
        for entry in node.attribute:
            for inner in (entry.g, *entry.graphs):
                if inner.node:
                    names |= used_names(inner)
    return names


def weight_names(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the names of a detached graph's weights, in the order of its inputs."""
    for entry in model.metadata_props:
        if entry.key == WEIGHTS_KEY:
            return tuple(json.loads(entry.value))
    return ()


def set_weight_names(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Record which trailing graph inputs are weights."""
    for entry in model.metadata_props:
        if entry.key == WEIGHTS_KEY:
            entry.value = json.dumps(list(names))
            return
    model.metadata_props.add(key=WEIGHTS_KEY, value=json.dumps(list(names)))


def attach(model: onnx.ModelProto, weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Return a copy of a detached graph with its weights back as initializers (under 2 GiB in all)."""
    import onnx
    from onnx import numpy_helper

    names = set(weight_names(model))
    total = sum(weights[name].nbytes for name in names)
    if total > MAX_PROTO_BYTES - (64 << 20):
        raise StepError(f"{total} bytes of weights do not fit one protobuf", hint="run it with external initializers")
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    inputs = [value for value in whole.graph.input if value.name not in names]
    del whole.graph.input[:]
    whole.graph.input.extend(inputs)
    whole.graph.initializer.extend(numpy_helper.from_array(weights[name], name) for name in weight_names(model))
    return whole
