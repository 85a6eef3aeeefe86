"""Infer a specification from an ONNX file's graph."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from hwc.errors import UsageError
from hwc.spec.model import Bucket, Dim, Dtype, ModelSpec, OnnxSource, TensorSpec

if TYPE_CHECKING:
    import onnx

BATCH_SIZES = (1, 8)
_INVENTED = re.compile(r"s\d+|unk__\d+|dynamic_axes_\d+")
"""Names that torch and ONNX Runtime give to dimensions without one."""
OTHER_SIZE = 128
"""Size given to a dynamic dimension that is not the batch, such as a sequence."""


def infer(path: Path, *, name: str) -> ModelSpec:
    """Infer inputs, outputs and shapes from a graph; dynamic dimensions become names that buckets fix.

    The first dynamic first axis is the batch. Raises IntegrityError for a damaged file, UsageError for an input of
    a type that is not supported.
    """
    from hwc import onnx_io

    model = onnx_io.load(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: _tensor(model, value, path) for value in model.graph.input if value.name not in weights}
    if not inputs:
        raise UsageError("the graph has no inputs: there is nothing to run", where=str(path))
    inputs, batch = _name_batch(inputs)
    return ModelSpec(
        name=name,
        title=f"{path.name}, inferred from its graph",
        source=OnnxSource(kind="onnx", path=path.name),
        inputs=inputs,
        outputs=tuple(value.name for value in model.graph.output),
        buckets=_buckets(inputs, batch),
        batch_dim=batch or "batch",
    )


def _name_batch(inputs: dict[str, TensorSpec]) -> tuple[dict[str, TensorSpec], str]:
    """Find the batch, the first dynamic first axis, and rename it if an exporter invented its name."""
    firsts = [tensor.shape[0] for tensor in inputs.values() if tensor.shape and isinstance(tensor.shape[0], str)]
    found = str(firsts[0]) if firsts else ""
    taken = any("batch" in tensor.shape for tensor in inputs.values())
    if taken or not _INVENTED.fullmatch(found):
        return inputs, found
    renamed = {
        name: tensor.model_copy(update={"shape": tuple("batch" if dim == found else dim for dim in tensor.shape)})
        for name, tensor in inputs.items()
    }
    return renamed, "batch"


def _buckets(inputs: dict[str, TensorSpec], batch: str) -> tuple[Bucket, ...]:
    named = dict.fromkeys(dim for tensor in inputs.values() for dim in tensor.shape if isinstance(dim, str))
    sizes = BATCH_SIZES if batch else (1,)
    return tuple({dim: size if dim == batch else OTHER_SIZE for dim in named} for size in sizes)


def _tensor(model: onnx.ModelProto, value: onnx.ValueInfoProto, path: Path) -> TensorSpec:
    import onnx

    kind = value.type.tensor_type
    known = {onnx.TensorProto.DataType.Value(_proto_name(dtype)): dtype for dtype in get_args(Dtype)}
    if kind.elem_type not in known or not kind.HasField("shape"):
        found = onnx.TensorProto.DataType.Name(kind.elem_type) if kind.elem_type else "no tensor"
        raise UsageError(
            f"input `{value.name}` is {found if kind.elem_type not in known else 'of unknown rank'}",
            where=str(path),
            hint=f"supported: {', '.join(get_args(Dtype))}, of a known rank",
        )
    shape = tuple(_dim(dim, value.name, axis) for axis, dim in enumerate(kind.shape.dim))
    low, high = _range(model, value.name, known[kind.elem_type])
    return TensorSpec(dtype=known[kind.elem_type], shape=shape, low=low, high=high)


def _proto_name(dtype: str) -> str:
    return {"float32": "FLOAT"}.get(dtype, dtype.upper())


def _dim(dim: Any, name: str, axis: int) -> Dim:
    if dim.dim_value > 0:
        return int(dim.dim_value)
    given = re.sub(r"\W+", "_", dim.dim_param, flags=re.ASCII).strip("_")
    if given and not given[0].isdigit():
        return given
    return (
        "batch" if axis == 0 else "_".join([re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "dim", str(axis)])
    )


def _range(model: onnx.ModelProto, name: str, dtype: Dtype) -> tuple[float, float]:
    """Range of random golden values; an index stays inside the table it looks up, a mask lets everything through."""
    if dtype.startswith("float"):
        return -1.0, 1.0
    if "mask" in name.lower() or dtype == "bool":
        return 1.0, 2.0
    tables = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    rows = [
        tables[node.input[0]][0]
        for node in model.graph.node
        if node.op_type == "Gather" and node.input[1] == name and tables.get(node.input[0])
    ]
    return 0.0, float(min(rows, default=2))
