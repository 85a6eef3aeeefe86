"""Tensors of an ONNX model that lie outside its file: confined to its folder, and mapped rather than read."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from hwc.errors import IntegrityError
from hwc.files import confined

if TYPE_CHECKING:
    import numpy as np
    import onnx


def map_in(model: onnx.ModelProto, path: Path, outside: dict[str, np.ndarray]) -> None:
    """Map initializers that lie in external data into ``outside``, and leave empty tensors in the graph.

    Raises IntegrityError as ``check`` does. What cannot be mapped, as a type packed below a byte, is left to be read.
    """
    import numpy as np
    import onnx
    from onnx.external_data_helper import uses_external_data

    for tensor in model.graph.initializer:
        if not uses_external_data(tensor):
            continue
        file, offset, length = check(tensor, path)
        try:
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        except KeyError:
            continue  # no such type: the checker tells
        if min(tensor.dims, default=0) < 1 or math.prod(tensor.dims) * dtype.itemsize != length:
            continue  # empty, packed below a byte, or damaged: read, and then checked
        mapped = np.memmap(file, np.uint8, "r", offset=offset, shape=(length,))
        outside[tensor.name] = mapped.view(dtype).reshape(tuple(tensor.dims))
        _empty(tensor)


def _empty(tensor: onnx.TensorProto) -> None:
    """Leave the name, type and shape of a tensor that lies outside."""
    tensor.data_location = type(tensor).DEFAULT
    del tensor.external_data[:]


def put(model: onnx.ModelProto, name: str, value: np.ndarray, outside: dict[str, np.ndarray]) -> None:
    """Add an initializer whose value lies outside the graph."""
    import onnx

    outside[name] = value
    kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    model.graph.initializer.append(onnx.TensorProto(name=name, data_type=kind, dims=value.shape))


def read_in(model: onnx.ModelProto, path: Path) -> None:
    """Read every tensor that lies in external data into the model; raise IntegrityError as ``check`` does."""
    from onnx.external_data_helper import _get_all_tensors, load_external_data_for_tensor, uses_external_data

    for tensor in _get_all_tensors(model):
        if not uses_external_data(tensor):
            continue
        check(tensor, path)
        try:
            load_external_data_for_tensor(tensor, str(path.parent))
        except Exception as error:
            raise IntegrityError(
                f"external data of tensor {tensor.name!r} cannot be read: {error}", where=str(path)
            ) from error
        _empty(tensor)


def check(tensor: onnx.TensorProto, path: Path) -> tuple[Path, int, int]:
    """Refuse external data that is not wholly inside one regular file of the model's own folder.

    Returns the file, the offset and the length, in bytes.
    """
    facts = {entry.key: entry.value for entry in tensor.external_data}
    where = f"{path}, tensor {tensor.name!r}"
    file = confined(path.parent, facts.get("location", ""))
    if file.is_symlink() or not file.is_file():
        raise IntegrityError(f"external data is not a regular file: {facts.get('location', '')!r}", where=where)
    try:
        offset = int(facts.get("offset", 0))
        length = int(facts.get("length", file.stat().st_size - offset))
    except ValueError as error:
        raise IntegrityError("external data has an offset or length that is no number", where=where) from error
    if offset < 0 or length < 0 or offset + length > file.stat().st_size:
        raise IntegrityError(
            f"external data claims bytes {offset}…{offset + length} of a file of {file.stat().st_size} bytes",
            where=where,
            hint="the data file is truncated, or the model was tampered with",
        )
    return file, offset, length


def attach(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """Return a copy of a graph whose named inputs are initializers, with values that are to be given apart from it."""
    import onnx

    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    weights = [value for value in model.graph.input if value.name in names]
    inputs = [value for value in model.graph.input if value.name not in names]
    del whole.graph.input[:]
    whole.graph.input.extend(inputs)
    for value in weights:
        kind = value.type.tensor_type
        dims = [dim.dim_value for dim in kind.shape.dim]
        tensor = whole.graph.initializer.add(name=value.name, data_type=kind.elem_type, dims=dims)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="given by the caller")
    return whole
