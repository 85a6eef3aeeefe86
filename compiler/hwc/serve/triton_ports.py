"""What a server's clients see of a variant: its inputs, outputs and largest batch; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwc.bundle.open import Variant
from hwc.bundle.program import program_of
from hwc.program import Function
from hwc.serve.triton_config import VARIABLE, Tensor

if TYPE_CHECKING:
    import onnx

Dims = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The inputs and outputs of a model, and the batches it was compiled for."""

    batched: bool
    batches: tuple[int, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def max_batch(self) -> int:
        """Triton's ``max_batch_size``."""
        return max(self.batches) if self.batched else 0


def ports_of(variant: Variant, graph: onnx.ModelProto | None = None) -> Ports:
    """Return the ports of compiled code or, given a graph, of that graph, which may fix sizes of its own.

    The model is batched if the batch is the first axis of every input and no size is fixed there.
    """
    functions = program_of(variant).functions
    facts = variant.facts["model"]
    batch, rules = str(facts["batch_dim"]), dict(facts["inputs"])
    inputs = {name: _input_dims(rule, functions) for name, rule in rules.items()}
    outputs = _output_dims(functions, dict(variant.facts["capture"].get("output_dims", {})))
    batched = all(rule["shape"][:1] == [batch] for rule in rules.values())
    if graph is not None:
        values = {value.name: value for value in (*graph.graph.input, *graph.graph.output)}
        inputs = {name: _of_graph(values[name], [VARIABLE] * len(dims)) for name, dims in inputs.items()}
        outputs = {name: _of_graph(values[name], dims) for name, dims in outputs.items()}
        firsts = [_of_graph(values[name], [VARIABLE])[0] for name in (*inputs, *outputs)]
        batched = batched and all(first == VARIABLE for first in firsts)
    skipped = 1 if batched else 0
    dtypes = {port.name: port.dtype for port in (*functions[0].inputs, *functions[0].outputs)}
    return Ports(
        batched=batched,
        batches=tuple(sorted({function.bucket.get(batch, 1) for function in functions})),
        inputs=tuple(Tensor(name=name, dtype=dtypes[name], dims=dims[skipped:]) for name, dims in inputs.items()),
        outputs=tuple(Tensor(name=name, dtype=dtypes[name], dims=dims[skipped:]) for name, dims in outputs.items()),
    )


def _input_dims(rule: Mapping[str, Any], functions: Sequence[Function]) -> Dims:
    """Let what may be filled up have any size; what may not has the compiled one, if there is but one."""
    dims: list[int] = []
    for dim in rule["shape"]:
        sizes = {function.bucket[dim] for function in functions} if isinstance(dim, str) else {int(dim)}
        fillable = isinstance(dim, str) and rule["pad"] is not None
        dims.append(VARIABLE if fillable or len(sizes) > 1 else sizes.pop())
    return tuple(dims)


def _output_dims(functions: Sequence[Function], named: Mapping[str, Sequence[Any]]) -> dict[str, Dims]:
    found: dict[str, Dims] = {}
    for position, port in enumerate(functions[0].outputs):
        shapes = [function.outputs[position].shape for function in functions]
        follows = [isinstance(dim, str) for dim in named.get(port.name, ())] or [False] * len(port.shape)
        found[port.name] = tuple(
            sizes[0] if len(set(sizes)) == 1 and not follow else VARIABLE
            for sizes, follow in zip(zip(*shapes, strict=True), follows, strict=True)
        )
    return found


def _of_graph(value: onnx.ValueInfoProto, otherwise: Sequence[int]) -> Dims:
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value or told for dim, told in zip(dims, otherwise, strict=False)) or tuple(otherwise)
