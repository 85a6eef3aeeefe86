"""Linears whose weights stay in float, found in the importer's MLIR: a MatMul or Gemm by a stored weight."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hwc.lower.passes.graph import Operator, TensorType, operators, parameter_keys

_FLOAT = re.compile(r"torch\.onnx\.(\w+) = ([-+0-9.eE]+) : f32")
DTYPES = ("f32", "f16")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainLinear:
    """``result[…, N] = x[…, K] · w``, plus a bias where there is one."""

    line: int
    layer: str
    """Key of its weight."""
    result: str
    x: str
    x_type: TensorType
    weight: str
    weight_type: TensorType
    """[K, N], or [N, K] where ``transposed``."""
    transposed: bool
    bias: str
    bias_type: TensorType | None
    result_type: TensorType
    unfit: str = ""
    """Why no kernel's ABI holds it; empty if one does."""

    @property
    def n(self) -> int:
        """Output channels."""
        return self.weight_type.shape[0 if self.transposed else 1]

    @property
    def k(self) -> int:
        """Input channels."""
        return self.weight_type.shape[1 if self.transposed else 0]


def find(lines: Sequence[str]) -> list[PlainLinear]:
    """Match every MatMul and Gemm of static shapes whose second operand is a stored matrix in float32 or float16."""
    keys = parameter_keys(lines)
    turned = {
        entry.result: entry
        for entry in operators(lines, frozenset({"Transpose"}))
        if entry.operands[0] in keys and entry.type is not None and len(entry.type.shape) == 2
    }
    found = []
    for entry in operators(lines, frozenset({"MatMul", "Gemm"})):
        if len(entry.types) < 2 or entry.type is None:
            continue
        weight, kind, flipped = entry.operands[1], entry.types[1], False
        if weight in turned:  # read as it is stored
            weight, kind, flipped = turned[weight].operands[0], turned[weight].types[0], True
        if weight in keys and kind is not None and len(kind.shape) == 2 and kind.dtype in DTYPES:
            found.append(_linear(entry, lines[entry.line], keys, weight, kind, flipped=flipped))
    return found


def _linear(
    entry: Operator, line: str, keys: Mapping[str, str], weight: str, kind: TensorType, *, flipped: bool
) -> PlainLinear:
    x_type = entry.types[0]
    assert x_type is not None
    assert entry.type is not None
    bias_type = entry.types[2] if len(entry.types) > 2 else None
    return PlainLinear(
        line=entry.line, layer=keys[weight], result=entry.result, x=entry.operands[0], x_type=x_type, weight=weight,
        weight_type=kind, transposed=flipped != bool(entry.attributes.get("transB", 0)),
        bias=entry.operands[2] if bias_type else "", bias_type=bias_type, result_type=entry.type,
        unfit=_unfit(entry, line, x_type, kind, bias_type),
    )


def _unfit(entry: Operator, line: str, x: TensorType, weight: TensorType, bias: TensorType | None) -> str:
    factors = {name: float(value) for name, value in _FLOAT.findall(line)}
    if x.dtype != weight.dtype or (entry.type is not None and entry.type.dtype != weight.dtype):
        return f"its activations are {x.dtype}, its weight {weight.dtype}"
    if len(x.shape) < 2 or 0 in x.shape:
        return f"its activations have shape {list(x.shape)}; two dimensions or more are needed, none of them empty"
    if entry.attributes.get("transA", 0):
        return "its activations are transposed"
    if factors.get("alpha", 1.0) != 1.0 or (bias is not None and factors.get("beta", 1.0) != 1.0):
        return "its Gemm has a factor other than 1"
    if bias is not None and bias.shape not in ((weight_n(entry),), (1, weight_n(entry))):
        return f"its bias has shape {list(bias.shape)}"
    return ""


def weight_n(entry: Operator) -> int:
    """Return the output channels of a product: the last extent of its result."""
    assert entry.type is not None
    return entry.type.shape[-1]
