"""The linears of a detached graph: which nodes multiply an activation by a weight, and which may be quantised."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwc import onnx_io

if TYPE_CHECKING:
    import onnx

ADJUSTED = ".adjusted"
"""Suffix of a float weight that belongs to a scheme; the one without it is shared by all schemes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """One linear: ``y[…, N] = x[…, K] · W``."""

    layer: str
    """The weight's name without ``.weight``."""
    weight: str
    k: int
    n: int
    transposed: bool
    """Whether the weight is stored as [N, K] (a Gemm with transB) rather than [K, N]."""
    skip: str = ""
    """Why the layer stays in float; empty if it may be quantised."""
    adjusted: str = ""
    """The float weight, a bias, that quantising changed with it; the scheme's graph reads NAME.adjusted instead."""

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return self.k * self.n


def find(model: onnx.ModelProto, *, exclude: Sequence[str], group_size: int) -> list[Linear]:
    """List the linears of a detached graph in order, each with the reason if it must stay in float.

    ``exclude`` holds globs on the layer's name; a K that is no multiple of ``group_size`` cannot be grouped.
    """
    uses = Counter(name for node in model.graph.node for name in node.input)
    found: dict[str, Linear] = {}
    for node, linear in candidates(model):
        if linear.weight in found:
            continue
        reason = _reason(node, linear, uses[linear.weight], exclude, group_size)
        found[linear.weight] = Linear(
            layer=linear.layer,
            weight=linear.weight,
            k=linear.k,
            n=linear.n,
            transposed=linear.transposed,
            skip=reason,
        )
    return list(found.values())


def candidates(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, Linear]]:
    """Yield every MatMul or Gemm whose second input is a rank-2 weight."""
    names = set(onnx_io.weight_names(model))
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in model.graph.input
        if value.name in names
    }
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


def _reason(node: onnx.NodeProto, linear: Linear, uses: int, exclude: Sequence[str], group_size: int) -> str:
    patterns = [pattern for pattern in exclude if fnmatch.fnmatchcase(linear.layer, pattern)]
    if patterns:
        return f"excluded by {patterns[0]!r}"
    if uses > 1:
        return "the weight is shared with another node"
    if node.op_type == "Gemm" and (
        attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0 or attribute(node, "transA", 0) != 0
    ):
        return "a Gemm with alpha, beta or transA"
    if group_size and linear.k % group_size:
        return f"K = {linear.k} is no multiple of the group of {group_size}"
    return ""
