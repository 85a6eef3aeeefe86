"""Laying a prompt of any length into the shapes that were compiled."""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass

from hwc.errors import UsageError

CALL_TOKENS = 5
"""What a call costs beside its tokens, in tokens: it reads the weights once. A packed int4 matmul (2048 × 8192) takes
2.5 ms for one row and 58 ms for 128."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One call of the prefill: the positions ``start`` to ``start + length`` of the cache."""

    start: int
    length: int


def plan(prompt_tokens: int, lengths: Collection[int], context_tokens: int) -> tuple[Chunk, ...]:
    """Return the calls that put a prompt into a cache: the largest while they are filled, then what is cheapest.

    Only the last may reach past the prompt, never past the cache: there it begins earlier instead and computes some
    positions once more, to the same values. Raises UsageError for a prompt that is empty or longer than the cache, and
    if no length fits into the cache.
    """
    if not prompt_tokens:
        raise UsageError("the prompt is empty", hint="give at least one token")
    if prompt_tokens > context_tokens:
        raise UsageError(
            f"the prompt has {prompt_tokens} tokens, the cache holds {context_tokens}",
            hint="shorten the prompt, or build the model with a larger generation.context_tokens",
        )
    fitting = tuple(sorted(length for length in lengths if length <= context_tokens))
    if not fitting:
        raise UsageError(f"no compiled length fits into a cache of {context_tokens} tokens")
    whole, rest = divmod(prompt_tokens, fitting[-1])
    chunks = []
    start = 0
    for length in [fitting[-1]] * whole + list(_cheapest(rest, fitting)):
        chunks.append(Chunk(start=min(start, context_tokens - length), length=length))
        start += length
    return tuple(chunks)


@functools.lru_cache(maxsize=1024)
def _cheapest(tokens: int, lengths: tuple[int, ...]) -> tuple[int, ...]:
    """Return the lengths, largest first, that hold some tokens at the least cost."""
    cost = [0]
    last = [0]
    for held in range(1, tokens + 1):
        options = [(length + CALL_TOKENS + cost[max(0, held - length)], length) for length in lengths]
        found, length = min(options)
        cost.append(found)
        last.append(length)
    chosen = []
    while tokens > 0:
        chosen.append(last[tokens])
        tokens -= last[tokens]
    return tuple(sorted(chosen, reverse=True))
