"""Probes: small pieces of networks, of many shapes, in one graph; what calibration compiles and times.

Each piece is what a model holds and the compiler fuses: a linear with its activation, attention of one layer, a
normalisation with its residual. Pieces share nothing, so the compiler keeps them apart. The shapes are none of a
shipped model's: what is fitted to them is held against models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import onnx

OPSET = 17
SEED = 20261124
_ROOT_2 = 1.4142135623730951


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """x[m, k] · W[k, n], a bias where an activation of encoders follows, and that activation."""

    m: int
    k: int
    n: int
    then: str = "none"
    """``none``, ``bias``, ``gelu``, ``silu`` (of one half, times the other linear's) or ``relu``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """softmax(q · kᵀ / √d + mask) · v of one layer, from and to [batch, tokens, heads · d]."""

    batch: int
    heads: int
    queries: int
    keys: int
    head_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Work on [rows, width] that is no matmul: its ``kind`` says which."""

    kind: str
    rows: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv:
    """A square convolution with bias and ReLU, and 2 × 2 pooling where ``pool``."""

    batch: int
    channels: int
    filters: int
    side: int
    window: int
    pool: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Tiny products, one after the other: their time is that of starting dispatches."""

    length: int


Probe = Linear | Attention | Rows | Conv | Chain


@dataclass(slots=True)
class _Graph:
    """A graph that grows."""

    name: str
    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    count: int = 0

    def fresh(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def input(self, *shape: int, integers: bool = False) -> str:
        from onnx import TensorProto, helper

        name = self.fresh("in")
        kind = TensorProto.INT64 if integers else TensorProto.FLOAT
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def weight(self, *shape: int) -> str:
        import numpy as np
        from onnx import numpy_helper

        name = f"{self.name}.{self.fresh('w')}.weight"
        values = self.rng.standard_normal(shape, dtype=np.float32) * np.float32(0.05)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def constant(self, value: Any, dtype: str = "float32") -> str:
        import numpy as np
        from onnx import numpy_helper

        name = self.fresh("c")
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        name = self.fresh(kind.lower())
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"{name}.node", **attributes))
        return name

    def output(self, name: str) -> None:
        from onnx import helper

        self.outputs.append(helper.make_empty_tensor_value_info(name))


def graph(name: str, probes: Sequence[Probe]) -> onnx.ModelProto:
    """Return one ONNX model of all probes, with seeded weights, named after it, and static shapes."""
    import numpy as np
    from onnx import helper, shape_inference

    made = _Graph(name=name, rng=np.random.default_rng(SEED))
    for probe in probes:
        _ADD[type(probe)](made, probe)
    body = helper.make_graph(made.nodes, name, made.inputs, made.outputs, initializer=made.weights)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    inferred: onnx.ModelProto = shape_inference.infer_shapes(model, strict_mode=True)
    return inferred


def _linear(g: _Graph, probe: Linear) -> None:
    x = g.input(1, probe.m, probe.k)
    product = g.op("MatMul", x, g.weight(probe.k, probe.n))
    if probe.then not in ("none", "silu"):
        product = g.op("Add", product, g.weight(probe.n))
    g.output(_THEN[probe.then](g, product, probe))


def _gelu(g: _Graph, x: str, _: Linear) -> str:
    erf = g.op("Add", g.op("Erf", g.op("Div", x, g.constant(_ROOT_2))), g.constant(1.0))
    return g.op("Mul", g.op("Mul", x, erf), g.constant(0.5))


def _silu(g: _Graph, x: str, probe: Linear) -> str:
    gated = g.op("Mul", x, g.op("Sigmoid", x))
    return g.op("Mul", gated, g.input(1, probe.m, probe.n))


_THEN: dict[str, Callable[[_Graph, str, Linear], str]] = {
    "none": lambda _g, x, _: x, "bias": lambda _g, x, _: x, "gelu": _gelu, "silu": _silu,
    "relu": lambda g, x, _: g.op("Relu", x),
}


def _attention(g: _Graph, probe: Attention) -> None:
    width = probe.heads * probe.head_size

    def split(length: int, order: list[int]) -> str:
        x = g.input(probe.batch, length, width)
        shape = g.constant([probe.batch, length, probe.heads, probe.head_size], "int64")
        return g.op("Transpose", g.op("Reshape", x, shape), perm=order)

    query, value = split(probe.queries, [0, 2, 1, 3]), split(probe.keys, [0, 2, 1, 3])
    key = split(probe.keys, [0, 2, 3, 1])
    scores = g.op("Div", g.op("MatMul", query, key), g.constant(probe.head_size**0.5))
    masked = g.op("Add", scores, g.input(probe.batch, 1, probe.queries, probe.keys))
    mixed = g.op("Transpose", g.op("MatMul", g.op("Softmax", masked, axis=-1), value), perm=[0, 2, 1, 3])
    g.output(g.op("Reshape", mixed, g.constant([probe.batch, probe.queries, width], "int64")))


def _rows(g: _Graph, probe: Rows) -> None:
    g.output(_ROWS[probe.kind](g, probe.rows, probe.width))


def _layer_norm(g: _Graph, rows: int, width: int) -> str:
    total = g.op("Add", g.input(1, rows, width), g.input(1, rows, width))
    return g.op("LayerNormalization", total, g.weight(width), g.weight(width), axis=-1, epsilon=1e-5)


def _rms_norm(g: _Graph, rows: int, width: int) -> str:
    total = g.op("Add", g.input(1, rows, width), g.input(1, rows, width))
    squares = g.op("ReduceMean", g.op("Pow", total, g.constant(2.0)), axes=[-1], keepdims=1)
    root = g.op("Sqrt", g.op("Add", squares, g.constant(1e-6)))
    return g.op("Mul", g.op("Mul", total, g.op("Reciprocal", root)), g.weight(width))


def _rotated(g: _Graph, rows: int, width: int) -> str:
    """Turn pairs of numbers, as positions are told to attention."""
    x, half = g.input(1, rows, width), width // 2
    first = g.op("Slice", x, *(g.constant([v], "int64") for v in (0, half, 2)))
    second = g.op("Slice", x, *(g.constant([v], "int64") for v in (half, width, 2)))
    turned = g.op("Concat", g.op("Neg", second), first, axis=-1)
    return g.op("Add", g.op("Mul", x, g.input(1, rows, width)), g.op("Mul", turned, g.input(1, rows, width)))


def _taken(g: _Graph, rows: int, width: int) -> str:
    return g.op("Gather", g.weight(4096, width), g.input(1, rows, integers=True), axis=0)


_ROWS: dict[str, Callable[[_Graph, int, int], str]] = {
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "rotate": _rotated,
    "gather": _taken,
    "softmax": lambda g, rows, width: g.op("Softmax", g.input(1, rows, width), axis=-1),
    "gelu": lambda g, rows, width: _gelu(g, g.input(1, rows, width), Linear(m=rows, k=0, n=width)),
    "add": lambda g, rows, width: g.op("Add", g.input(1, rows, width), g.input(1, rows, width)),
    "mean": lambda g, rows, width: g.op("ReduceMean", g.input(1, rows, width), axes=[-1], keepdims=0),
    "pool": lambda g, rows, width: g.op("ReduceMean", g.input(1, rows, width), axes=[1], keepdims=0),
    "transpose": lambda g, rows, width: g.op("Transpose", g.input(1, rows, width), perm=[0, 2, 1]),
}
"""``mean`` is taken along a row, ``pool`` over the rows."""


def _conv(g: _Graph, probe: Conv) -> None:
    x = g.input(probe.batch, probe.channels, probe.side, probe.side)
    kernel = g.weight(probe.filters, probe.channels, probe.window, probe.window)
    found = g.op("Relu", g.op("Conv", x, kernel, g.weight(probe.filters), pads=[probe.window // 2] * 4))
    g.output(g.op("MaxPool", found, kernel_shape=[2, 2], strides=[2, 2]) if probe.pool else found)


def _chain(g: _Graph, probe: Chain) -> None:
    x = g.input(1, 4, 8)
    for _ in range(probe.length):
        x = g.op("MatMul", x, g.weight(8, 8))
    g.output(x)


_ADD: dict[type, Callable[[_Graph, Any], None]] = {
    Linear: _linear, Attention: _attention, Rows: _rows, Conv: _conv, Chain: _chain,
}
