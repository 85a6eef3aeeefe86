"""The linears of a detached graph: which nodes multiply an activation by a weight, and which may be quantised."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from hwc import onnx_io
from hwc.formats import Format

if TYPE_CHECKING:
    import onnx

FLOAT = 1
"""ONNX's number of float32."""
ADJUSTED = ".adjusted"
"""Suffix of a float weight that belongs to a scheme; the one without it is shared by all schemes."""


Role = Literal["linear", "embedding"]
"""``embedding`` stands for what has one row a token: the table that is read by row, and the head that yields logits."""
HEAD_OUTPUTS = 8192
"""Outputs from which on a linear that yields a result of the graph is taken for a head."""
TABLE_ROWS = 256
"""Rows from which on a table is worth packing."""
SHARED = "the weight is shared with another node"


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """One matrix of weights: ``y[…, N] = x[…, K] · W``, or rows of W[N, K] read by number, or both."""

    layer: str
    """The weight's name without ``.weight``."""
    weight: str
    k: int
    n: int
    transposed: bool
    """Whether the weight is stored as [N, K] (a Gemm with transB, a table) rather than [K, N]."""
    role: Role = "linear"
    gathered: bool = False
    """Whether rows are read by number."""
    multiplied: bool = True
    """Whether something is multiplied by it."""
    skip: str = ""
    """Why the layer stays in float; empty if it is quantised."""
    format: Format | None = None
    """What is stored for it; None for float."""
    activation_scale: float = 0.0
    """Step of static E4M3 activations: the largest input that calibration saw, over 448."""
    adjusted: tuple[str, ...] = ()
    """Float weights, such as a bias, that changed with it: the scheme's graph reads NAME.adjusted in place of NAME."""

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return self.k * self.n


def find(model: onnx.ModelProto, *, exclude: Sequence[str] = ()) -> list[Linear]:
    """List the linears and embeddings of a detached graph in order, each with the reason if it must stay in float.

    ``exclude`` holds globs on the layer's name.
    """
    found: dict[str, Linear] = {table.weight: table for table in _tables(model)}
    uses = Counter(name for node in model.graph.node for name in node.input)
    outputs = {value.name for value in model.graph.output}
    for node, linear in candidates(model):
        if linear.weight in found:
            continue
        reason = _reason(node, uses[linear.weight])
        head = linear.n >= HEAD_OUTPUTS and bool(outputs & set(node.output))
        found[linear.weight] = replace(linear, skip=reason, role="embedding" if head else "linear")
    return [_excluded(linear, exclude) for linear in found.values()]


def assign(linears: Sequence[Linear], formats: Mapping[str, Format | None]) -> list[Linear]:
    """Give every linear the format that ``formats`` has for its layer, or else for its role.

    A K that is no multiple of the group cannot be grouped: such a layer stays in float, and says why.
    """
    return [_assigned(linear, formats) for linear in linears]


def _assigned(linear: Linear, formats: Mapping[str, Format | None]) -> Linear:
    form = formats[linear.layer] if linear.layer in formats else formats[linear.role]
    if linear.skip:
        return linear
    if form is None:
        return replace(linear, skip=f"{linear.role}s stay in float in this scheme")
    if form.group_size and linear.k % form.group_size:
        return replace(linear, skip=f"K = {linear.k} is no multiple of the group of {form.group_size}")
    return replace(linear, format=form)


def _tables(model: onnx.ModelProto) -> Iterator[Linear]:
    """Yield every rank-2 float weight that is read by row, and otherwise only multiplied as it lies transposed."""
    names, shapes = set(onnx_io.weight_names(model)), _shapes(model)
    floats = {value.name for value in model.graph.input if value.type.tensor_type.elem_type == FLOAT}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in set(node.input) & names & floats:
            readers.setdefault(name, []).append(node)
    for weight, nodes in readers.items():
        gathers = [node for node in nodes if is_gather(node, weight)]
        products = [node for node in nodes if transposed_products(model, node, weight)]
        if not gathers or len(gathers) + len(products) < len(nodes) or len(shapes[weight]) != 2:
            continue
        n, k = shapes[weight]
        if n >= TABLE_ROWS:
            yield Linear(
                layer=weight.removesuffix(".weight"), weight=weight, k=k, n=n, transposed=True, role="embedding",
                gathered=True, multiplied=bool(products),
            )


def is_gather(node: onnx.NodeProto, weight: str) -> bool:
    """Tell whether a node reads rows of a weight by number."""
    return node.op_type == "Gather" and node.input[0] == weight and attribute(node, "axis", 0) == 0


def transposed_products(model: onnx.ModelProto, node: onnx.NodeProto, weight: str) -> list[onnx.NodeProto]:
    """Return the MatMuls behind a Transpose of a weight; none if something else reads the Transpose too."""
    perm = [list(entry.ints) for entry in node.attribute if entry.name == "perm"]
    if node.op_type != "Transpose" or node.input[0] != weight or perm not in ([], [[1, 0]]):
        return []
    readers = [other for other in model.graph.node if node.output[0] in other.input]
    fit = all(
        other.op_type == "MatMul" and other.input[1] == node.output[0] != other.input[0] for other in readers
    )
    return readers if fit else []


def _shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    names = set(onnx_io.weight_names(model))
    return {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in model.graph.input
        if value.name in names
    }


def candidates(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, Linear]]:
    """Yield every MatMul or Gemm whose second input is a rank-2 weight."""
    shapes = _shapes(model)
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "Gemm") or len(shapes.get(node.input[1], [])) != 2:
            continue
        transposed = node.op_type == "Gemm" and attribute(node, "transB", 0) == 1
        rows, columns = shapes[node.input[1]]
        k, n = (columns, rows) if transposed else (rows, columns)
        weight = node.input[1]
        yield node, Linear(layer=weight.removesuffix(".weight"), weight=weight, k=k, n=n, transposed=transposed)


def attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    """Return a numeric attribute of a node, or its default."""
    for entry in node.attribute:
        if entry.name == name:
            return float(entry.f) if entry.type == entry.FLOAT else float(entry.i)
    return default


def _excluded(linear: Linear, exclude: Sequence[str]) -> Linear:
    patterns = [pattern for pattern in exclude if fnmatch.fnmatchcase(linear.layer, pattern)]
    return replace(linear, skip=f"excluded by {patterns[0]!r}") if patterns else linear


def _reason(node: onnx.NodeProto, uses: int) -> str:
    if uses > 1:
        return SHARED
    if node.op_type == "Gemm" and (
        attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0 or attribute(node, "transA", 0) != 0
    ):
        return "a Gemm with alpha, beta or transA"
    return ""
