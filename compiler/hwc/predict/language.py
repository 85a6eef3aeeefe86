"""The work of a decoder from its shape alone: prefill and decode, over batch and context, on one of some chips; pure.

A layer is counted as serving engines fuse it: q, k and v are one product, gate and up another, attention never writes
its scores. Tensor parallelism divides heads and the feed-forward width over the chips; norms and embeddings are done
on each. A causal prompt of s tokens attends to s(s + 1)/2 pairs, a layer with a window to fewer.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

from hwc.predict.operation import Operation
from hwc.predict.shape import LanguageShape
from hwc.predict.storage import Storage, Weight
from hwc.spec.legality import OpClass

Phase = Literal["prefill", "decode"]
NORM_STEPS = 4
"""Of every element: square, sum, scale, weight."""
ALL_REDUCES = 2
"""Of one layer: behind attention and behind the feed-forward layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a decoder."""

    phase: Phase
    batch: int
    tokens: int
    """Prompt tokens of each sequence in prefill; 1 in decode."""
    context: int
    """Tokens in the cache of each sequence after the call."""

    @property
    def rows(self) -> int:
        """Tokens that pass through each layer."""
        return self.batch * self.tokens


def prefill(batch: int, prompt_tokens: int) -> Call:
    """Return the call that takes a prompt into an empty cache."""
    return Call(phase="prefill", batch=batch, tokens=prompt_tokens, context=prompt_tokens)


def decode(batch: int, context: int) -> Call:
    """Return the call that makes one token behind ``context`` - 1 others."""
    return Call(phase="decode", batch=batch, tokens=1, context=context)


def operations(shape: LanguageShape, call: Call, stored: Storage, *, chips: int = 1) -> tuple[Operation, ...]:
    """Return the operations of one chip, those of equal layers counted together."""
    made = _Maker(shape, call, stored, chips)
    windows = Counter(shape.window(layer) for layer in range(shape.layers))
    found = [made.gather()]
    for window, layers in windows.items():
        found += made.attention(window, layers)
    found += [*made.forward(shape.layers), *made.head()]
    counts: Counter[Operation] = Counter()
    for operation in found:
        counts[replace(operation, count=1)] += operation.count
    return tuple(replace(operation, count=count) for operation, count in counts.items())


def all_reduce_bytes(shape: LanguageShape, call: Call, stored: Storage) -> float:
    """Return the bytes of one all-reduce: a layer's outputs, added over the chips."""
    return call.rows * shape.hidden * stored.activation_bytes


def weight_bytes(shape: LanguageShape, stored: Storage) -> float:
    """Return the bytes of all weights; of norms and biases none."""
    tables = shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    return stored.linears.stored_bytes(shape.parameters - tables) + stored.tables.stored_bytes(tables)


def kv_bytes(shape: LanguageShape, stored: Storage, batch: int, context: int) -> float:
    """Return the bytes of the KV cache; layers with a window keep no more than it."""
    each = 2 * shape.kv_heads * shape.head_dim * stored.kv_bytes
    return batch * sum(each * _seen(shape.window(layer), context) for layer in range(shape.layers))


def _seen(window: int | None, context: int) -> int:
    return context if window is None else min(window, context)


def _pairs(window: int | None, tokens: int) -> int:
    """Return the pairs of a token and one it attends to, itself included, over a whole text."""
    near = _seen(window, tokens)
    return near * (near + 1) // 2 + (tokens - near) * near


@dataclass(frozen=True, slots=True)
class _Maker:
    shape: LanguageShape
    call: Call
    stored: Storage
    chips: int

    @property
    def heads(self) -> int:
        return -(-self.shape.heads // self.chips)

    @property
    def kv_heads(self) -> int:
        """Of one chip: heads that there are fewer of than chips are kept on several."""
        return -(-self.shape.kv_heads // self.chips)

    def product(
        self, name: str, n: int, k: int, weight: Weight, *, layers: int = 1, rows: int | None = None
    ) -> Operation:
        rows = self.call.rows if rows is None else rows
        activations = weight.rounded or self.stored.activations
        return Operation(
            op="matmul", name=name, count=layers, m=rows, n=n, k=k, points=rows * n, rank=2, activations=activations,
            weights=weight.element, flops=2.0 * rows * n * k, read_bytes=rows * k * self.stored.activation_bytes,
            weight_bytes=weight.stored_bytes(n * k), write_bytes=rows * n * self.stored.activation_bytes,
        )

    def pointwise(self, op: OpClass, name: str, points: float, *, steps: float, reads: float, layers: int) -> Operation:
        """Return work of ``steps`` operations a point, on ``reads`` operands of its result's size."""
        size = points * self.stored.activation_bytes
        return Operation(
            op=op, name=name, count=layers, points=int(points), rank=2, activations=self.stored.activations,
            flops=points * steps, read_bytes=reads * size, write_bytes=size,
        )

    def gather(self) -> Operation:
        rows, hidden = self.call.rows, self.shape.hidden
        return Operation(
            op="gather", name="embedding", points=rows * hidden, rank=2, activations=self.stored.activations,
            weights=self.stored.tables.element, flops=0.0, read_bytes=8.0 * rows,
            weight_bytes=self.stored.tables.stored_bytes(rows * hidden),
            write_bytes=rows * hidden * self.stored.activation_bytes,
        )

    def attention(self, window: int | None, layers: int) -> list[Operation]:
        shape, rows, width = self.shape, self.call.rows, self.shape.head_dim
        own, linears = (self.heads + 2 * self.kv_heads) * width, self.stored.linears
        turned = rows * (self.heads + self.kv_heads) * width
        return [
            self.pointwise(
                "normalisation", "attention norm", rows * shape.hidden, steps=NORM_STEPS, reads=1, layers=layers
            ),
            self.product("qkv", own, shape.hidden, linears, layers=layers),
            self.pointwise("elementwise", "rotate and keep", turned, steps=3, reads=1, layers=layers),
            self._scores(window, layers),
            self.product("attention output", shape.hidden, self.heads * width, linears, layers=layers),
        ]

    def _scores(self, window: int | None, layers: int) -> Operation:
        call, width = self.call, self.shape.head_dim
        pairs = _pairs(window, call.context) - _pairs(window, call.context - call.tokens)
        seen = min(call.context, (window or call.context) + call.tokens - 1)
        queries = call.rows * self.heads * width * self.stored.activation_bytes
        cache = call.batch * 2 * seen * self.kv_heads * width * self.stored.kv_bytes
        groups = self.heads // self.kv_heads or 1
        return Operation(
            op="attention", name="attention" if window is None else f"attention over {window}", count=layers,
            batch=call.batch * self.kv_heads, m=call.tokens * groups, n=max(1, pairs // call.tokens), k=width,
            points=call.rows * self.heads * width, rank=3, activations=self.stored.activations,
            flops=4.0 * call.batch * pairs * self.heads * width, read_bytes=queries + cache, write_bytes=queries,
        )

    def forward(self, layers: int) -> list[Operation]:
        shape, rows = self.shape, self.call.rows
        norm = self.pointwise(
            "normalisation", "forward norm", rows * shape.hidden, steps=NORM_STEPS + 1, reads=2, layers=layers
        )
        if shape.experts == 1:
            return [norm, *self._expert(rows, layers)]
        active = shape.experts * (1 - (1 - shape.experts_per_token / shape.experts) ** rows)
        used = max(1, round(active))
        each = max(1, round(rows * shape.experts_per_token / used))
        router = self.product("router", shape.experts, shape.hidden, self.stored.linears, layers=layers)
        return [norm, router, *self._expert(each, layers * used)]

    def _expert(self, rows: int, layers: int) -> list[Operation]:
        inner, hidden, linears = -(-self.shape.inner // self.chips), self.shape.hidden, self.stored.linears
        return [
            self.product("gate and up", 2 * inner, hidden, linears, layers=layers, rows=rows),
            self.pointwise("elementwise", "activation", rows * inner, steps=4, reads=2, layers=layers),
            self.product("down", hidden, inner, linears, layers=layers, rows=rows),
        ]

    def head(self) -> list[Operation]:
        shape, batch = self.shape, self.call.batch
        rows = -(-shape.vocabulary // self.chips)
        return [
            self.pointwise("normalisation", "final norm", batch * shape.hidden, steps=NORM_STEPS, reads=1, layers=1),
            self.product("head", rows, shape.hidden, self.stored.tables, rows=batch),
        ]
