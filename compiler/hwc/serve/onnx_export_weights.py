"""Weights of an exported model: inside its file while they are small, else in a file beside it, one at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hwc import onnx_io
from hwc.formats import Kind
from hwc.quantise import blocked_weights
from hwc.quantise.blocked_weights import Tensor, of_array
from hwc.quantise.codes import PARTS
from hwc.quantise.graph import onnx_tensors
from hwc.quantise.linears import Linear
from hwc.quantise.restore import codes_of, plain

if TYPE_CHECKING:
    import onnx

INSIDE_BYTES = 64 << 20
"""Size of the archives up to which the weights lie in the model's own file; a protobuf ends at 2 GiB."""
ALIGNED_BYTES = 4096
"""Tensors begin at multiples of this, so that they can be mapped."""
DATA = ".data"
"""Suffix of the file beside the model."""


def tensors(
    model: onnx.ModelProto, linears: Iterable[Linear], stored: Mapping[str, bytes], encodings: Mapping[Kind, str],
    *, standard: bool,
) -> Iterator[Tensor]:
    """Yield every weight of a detached quantised graph, one at a time.

    ``standard`` makes integers as ``blocked.rewrite`` reads them, else they are those of the graph itself. Raises
    IntegrityError for a weight that no archive holds, or that has another length than the graph says.
    """
    coded: set[str] = set()
    for linear in linears:
        codes = codes_of(linear, stored, encodings)
        coded.update(f"{linear.layer}.{part}" for part in PARTS)
        if standard and codes.kind != "fp8":
            yield from blocked_weights.tensors(linear, codes)
        else:
            yield from (of_array(name, value) for name, value in onnx_tensors(linear, codes).items())
    for name in onnx_io.weight_names(model):
        if name not in coded:
            yield of_array(name, plain(model, name, stored))


def write(model: onnx.ModelProto, made: Iterable[Tensor], path: Path, *, beside: bool) -> None:
    """Write a graph and its weights to a file, or the weights to ``<file>.data``; memory holds one of those at a time.

    The graph gets its initializers in place.
    """
    import numpy as np

    if beside:
        with path.with_name(path.name + DATA).open("xb") as data:
            for tensor in made:
                _outside(model, tensor, data.seek(-(-data.tell() // ALIGNED_BYTES) * ALIGNED_BYTES), data.name)
                data.write(tensor.payload.reshape(-1).view(np.uint8).data)
            data.flush()
            os.fsync(data.fileno())
    else:
        for tensor in made:
            _initializer(model, tensor).raw_data = tensor.payload.tobytes()
    with path.open("xb") as stream:
        stream.write(model.SerializeToString(deterministic=True))
        stream.flush()
        os.fsync(stream.fileno())


def _initializer(model: onnx.ModelProto, tensor: Tensor) -> onnx.TensorProto:
    made = model.graph.initializer.add(name=tensor.name, data_type=tensor.data_type)
    made.dims.extend(tensor.dims)
    return made


def _outside(model: onnx.ModelProto, tensor: Tensor, offset: int, file: str) -> None:
    made = _initializer(model, tensor)
    made.data_location = type(made).EXTERNAL
    facts = {"location": Path(file).name, "offset": str(offset), "length": str(tensor.payload.nbytes)}
    for key, value in facts.items():
        made.external_data.add(key=key, value=value)
