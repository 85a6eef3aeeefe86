"""The grid on which a language model is timed: prompts by length, and single tokens by how full the cache is."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwc.program import Function
from hwc.runtime import prefill
from hwc.spec.generation import EXAMPLE_IDS

if TYPE_CHECKING:
    import numpy as np

FILLS = (0.01, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Shares of the cache that are full, the new token included, when a token is timed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Calls that are timed together."""

    name: str
    facts: dict[str, Any]
    """What a profile's cell tells of it."""
    calls: tuple[tuple[str, Mapping[str, np.ndarray]], ...]
    """Functions in order, each with what it is fed."""


def series(functions: Sequence[Function], context_tokens: int, *, composed: bool) -> tuple[Series, ...]:
    """Return the series of every batch: prompts as generation lays them into calls, and decodes at several fills.

    ``composed``: prompts longer than the largest shape, too, in pieces, up to the whole cache.
    """
    found: list[Series] = []
    for batch in sorted({entry.bucket["batch"] for entry in functions}):
        by_length = {entry.bucket["sequence"]: entry for entry in functions if entry.bucket["batch"] == batch}
        for tokens in prompt_lengths(by_length, context_tokens, composed=composed):
            chunks = prefill.plan(tokens, by_length, context_tokens)
            found.append(_series("prefill", batch, tokens, [(by_length[one.length], one.start) for one in chunks]))
        found += [_series("decode", batch, held, [(by_length[1], held - 1)]) for held in fills(context_tokens)]
    return tuple(found)


def prompt_lengths(lengths: Collection[int], context_tokens: int, *, composed: bool) -> list[int]:
    """Return the prompt lengths to time: the compiled ones, and from the shortest prefill doubling up to the cache."""
    compiled = set(lengths)
    if not composed:
        return sorted(compiled)
    return sorted({*compiled, *_doubling(min(compiled - {1}, default=1), context_tokens), context_tokens})


def _doubling(first: int, most: int) -> Iterator[int]:
    while first <= most:
        yield first
        first *= 2


def fills(context_tokens: int) -> list[int]:
    """Return how many tokens the cache holds, the new one included, at the fills that are timed."""
    return sorted({max(1, round(share * context_tokens)) for share in FILLS})


def _series(phase: str, batch: int, tokens: int, calls: Sequence[tuple[Function, int]]) -> Series:
    named: dict[str, int] = {}
    for function, _ in calls:
        named[function.name] = named.get(function.name, 0) + 1
    return Series(
        name=f"{phase}_b{batch}_n{tokens}",
        facts={"phase": phase, "batch": batch, "tokens": tokens, "calls": named},
        calls=tuple((function.name, _feeds(function, start)) for function, start in calls),
    )


def _feeds(function: Function, start: int) -> dict[str, np.ndarray]:
    import numpy as np

    batch, tokens = function.bucket["batch"], function.bucket["sequence"]
    ids = np.random.default_rng(start).integers(0, EXAMPLE_IDS, (batch, tokens), np.int64)
    index = np.full((batch, function.bucket.get("logits", 1)), tokens - 1, np.int64)
    return {"input_ids": ids, "start": np.full(batch, start, np.int64), "logit_index": index}
