"""Attention of a static graph as one operator, where a kernel computes it: no scores in memory, no key that is masked.

What is looked for is softmax(q · kᵀ · scale + mask) · v, in the forms that exporters write: with or without the scale,
with rows of several heads below each other where they share their keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hwc.lower.passes.kernel_attention import ATTENTION
from hwc.lower.passes.kernel_linears import Product
from hwc.lower.shard_graph import DOMAIN

if TYPE_CHECKING:
    import onnx

FLOAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """One attention: names of its operands, each of rank 4, and its last product."""

    product: onnx.NodeProto
    query: str
    turned_key: str
    """[batch, heads, width, keys]"""
    value: str
    mask: str
    scale: tuple[str, str] | None
    """``Mul`` or ``Div``, and by what scores are scaled."""
    mask_shape: tuple[int, int, int]
    """Mask's batches and rows, and keys."""


def fuse(model: onnx.ModelProto, takes: Callable[[Product], bool]) -> int:
    """Replace every attention that ``takes`` accepts by one operator, in place; return how many there were.

    The operator takes q and gives y [batch, heads, rows, width], k and v [batch, heads, keys, width], and the mask
    [1 or batch, mask rows, keys]; row r has the mask's row r modulo their number.
    """
    work = _Graph(model)
    fused = [found for node in model.graph.node if (found := work.attention(node)) and takes(work.product(found))]
    written = {found.product.output[0]: work.nodes(found) for found in fused}
    nodes = [new for node in model.graph.node for new in written.get(node.output[0], [node])]
    del model.graph.node[:]
    model.graph.node.extend(_needed(nodes, {output.name for output in model.graph.output}))
    if fused and all(entry.domain != DOMAIN for entry in model.opset_import):
        model.opset_import.add(domain=DOMAIN, version=1)
    return len(fused)


def _needed(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """Leave out what nothing reads any more."""
    kept = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]


@dataclass(slots=True)
class _Graph:
    model: onnx.ModelProto
    _made: dict[str, onnx.NodeProto] = field(default_factory=dict)
    _shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self._made = {name: node for node in graph.node for name in node.output}
        for value in (*graph.input, *graph.value_info, *graph.output):
            kind = value.type.tensor_type
            if kind.elem_type == FLOAT:
                self._shapes[value.name] = tuple(dim.dim_value for dim in kind.shape.dim)
        self._shapes |= {one.name: tuple(one.dims) for one in graph.initializer if one.data_type == FLOAT}

    def attention(self, node: onnx.NodeProto) -> _Found | None:
        """Return the attention whose last product a node is."""
        softmax = self._source(node.input[0], "Reshape") if node.op_type == "MatMul" else None
        if softmax is None or softmax.op_type != "Softmax" or not self._last_axis(softmax):
            return None
        masked = self._made.get(softmax.input[0])
        if masked is None or masked.op_type != "Add":
            return None
        for scores, mask in (tuple(masked.input), tuple(reversed(masked.input))):
            if found := self._scored(node, softmax, scores, mask):
                return found
        return None

    def _scored(self, node: onnx.NodeProto, softmax: onnx.NodeProto, scores: str, mask: str) -> _Found | None:
        product, scale = self._product_of(scores)
        if product is None:
            return None
        query, key, value = (self._shapes.get(name, ()) for name in (*product.input, node.input[1]))
        if not len(query) == len(key) == len(value) == 4 or (*key[:2], key[3], key[2]) != value:
            return None
        rows = self._mask_rows(self._shapes.get(softmax.input[0], ()), self._shapes.get(mask, ()), query, value)
        if rows is None or query[:2] != value[:2] or query[3] != value[3]:
            return None
        return _Found(
            product=node, query=product.input[0], turned_key=product.input[1], value=node.input[1], mask=mask,
            scale=scale, mask_shape=rows,
        )

    def _mask_rows(
        self, scores: tuple[int, ...], mask: tuple[int, ...], query: tuple[int, ...], value: tuple[int, ...]
    ) -> tuple[int, int, int] | None:
        """Return the mask's batches, rows and keys, if it has one row for equal rows of all heads."""
        batch, heads, rows, _ = query
        keys = value[2]
        if len(scores) < 4 or scores[:2] != (batch, heads) or scores[-1] != keys or not mask or mask[-1] != keys:
            return None
        padded = (*[1] * (len(scores) - len(mask)), *mask)
        if any(size != 1 for size in padded[1:-2]) or padded[0] not in (1, batch) or padded[-2] not in (1, scores[-2]):
            return None
        return (padded[0], padded[-2], keys) if rows % padded[-2] == 0 else None

    def _product_of(self, scores: str) -> tuple[onnx.NodeProto | None, tuple[str, str] | None]:
        """Return the product that scores are, whatever its shape became, and the scalar that scales it."""
        node, scale = self._source(scores, "Reshape"), None
        if node is not None and node.op_type in ("Mul", "Div") and self._scalar(node.input[1]):
            scale = (node.op_type, node.input[1])
            node = self._source(node.input[0], "Reshape")
        return (node if node is not None and node.op_type == "MatMul" else None), scale

    def _scalar(self, name: str) -> bool:
        shape = self._shapes.get(name)
        return shape is not None and len(shape) <= 1 and max(shape, default=1) == 1

    def _source(self, name: str, passing: str) -> onnx.NodeProto | None:
        """Return what makes a value, behind one operator that only passes it on."""
        node = self._made.get(name)
        return self._made.get(node.input[0]) if node is not None and node.op_type == passing else node

    def _last_axis(self, softmax: onnx.NodeProto) -> bool:
        axis = next((entry.i for entry in softmax.attribute if entry.name == "axis"), -1)
        return axis in (-1, len(self._shapes.get(softmax.input[0], ())) - 1)

    def product(self, found: _Found) -> Product:
        """Return what is computed, as rules see it: rows × keys × width in each of the heads."""
        _, _, rows, width = self._shapes[found.query]
        layer = found.product.name or found.product.output[0]
        return Product(pattern="attention_f32", layer=layer, m=rows, n=found.mask_shape[2], k=width)

    def nodes(self, found: _Found) -> list[onnx.NodeProto]:
        """Return the nodes that take the last product's place."""
        return list(self._nodes(found, found.product.output[0]))

    def _nodes(self, found: _Found, result: str) -> Iterator[onnx.NodeProto]:
        import numpy as np
        from onnx import helper, numpy_helper

        key, query, mask = self._key(found, result), found.query, f"{result}.mask"
        yield from key.values()
        if found.scale is not None:
            operator, factor = found.scale
            self._declare(f"{result}.scaled", self._shapes[query])
            yield helper.make_node(operator, [query, factor], [f"{result}.scaled"], name=f"{result}.scale")
            query = f"{result}.scaled"
        shape = np.array(found.mask_shape, np.int64)
        self.model.graph.initializer.append(numpy_helper.from_array(shape, f"{mask}.shape"))
        self._declare(mask, found.mask_shape)
        yield helper.make_node("Reshape", [found.mask, f"{mask}.shape"], [mask], name=f"{mask}.reshape")
        yield helper.make_node(
            ATTENTION, [query, next(iter(key), self._plain(found)), found.value, mask], [result],
            name=found.product.name, domain=DOMAIN,
        )

    def _key(self, found: _Found, result: str) -> Mapping[str, onnx.NodeProto]:
        """Turn the keys back to [batch, heads, keys, width], unless they lie so before they are turned."""
        from onnx import helper

        if self._plain(found):
            return {}
        batch, heads, width, keys = self._shapes[found.turned_key]
        self._declare(f"{result}.key", (batch, heads, keys, width))
        turn = helper.make_node("Transpose", [found.turned_key], [f"{result}.key"], perm=[0, 1, 3, 2])
        return {f"{result}.key": turn}

    def _plain(self, found: _Found) -> str:
        node = self._made.get(found.turned_key)
        turns = node is not None and node.op_type == "Transpose" and list(node.attribute[0].ints) == [0, 1, 3, 2]
        return node.input[0] if node is not None and turns else ""

    def _declare(self, name: str, shape: tuple[int, ...]) -> None:
        from onnx import helper

        self.model.graph.value_info.append(helper.make_tensor_value_info(name, FLOAT, shape))
