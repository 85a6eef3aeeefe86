"""What a router knows of a language model's speed: measured prompts and tokens, and what lies between them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from hwc.bundle.serving import Serving
from hwc.bundle.serving_profile import Latency

FEW_SAMPLES_SIGMA = 3.0
"""Where a cell has too few samples for a p99, mean + 3 σ stands for it, or its p95 if that is larger."""


def bound_ms(told: Latency) -> float:
    """Return a cell's p99, or what stands for it."""
    return max(told.p95, told.mean + FEW_SAMPLES_SIGMA * told.std) if told.p99 is None else told.p99


def basis(told: Latency, method: str) -> str:
    """Say what a bound rests on."""
    return f"{method} p99, n={told.n}" if told.p99 is not None else f"bound from n={told.n}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Milliseconds by a number of tokens, straight between what was measured; see ``line``."""

    tokens: tuple[int, ...]
    """Ascending."""
    typical_ms: tuple[float, ...]
    bound_ms: tuple[float, ...]
    typical_slope: tuple[float, ...]
    """Milliseconds a token from each to the next; 0 from the last on."""
    bound_slope: tuple[float, ...]

    def at(self, tokens: int) -> tuple[float, float]:
        """Return (typical, bound); below the least measured number, and above the largest, those of it."""
        place = bisect_right(self.tokens, tokens) - 1
        if place < 0:
            return self.typical_ms[0], self.bound_ms[0]
        more = tokens - self.tokens[place]
        return (
            self.typical_ms[place] + self.typical_slope[place] * more,
            self.bound_ms[place] + self.bound_slope[place] * more,
        )

    def in_pieces(self, tokens: int) -> tuple[float, float]:
        """Return (typical, bound) of a prompt: one longer than any that was measured goes in pieces of the longest."""
        longest = self.tokens[-1]
        if tokens <= longest:
            return self.at(tokens)
        whole, rest = divmod(tokens, longest)
        typical, bound = self.at(rest) if rest else (0.0, 0.0)
        return typical + whole * self.typical_ms[-1], bound + whole * self.bound_ms[-1]


def line(points: Iterable[tuple[int, float, float]]) -> Line:
    """Return the line through (tokens, typical, bound), at least one, in any order."""
    tokens, typical, bound = zip(*sorted(points), strict=True)
    return Line(
        tokens=tokens, typical_ms=typical, bound_ms=bound, typical_slope=_slopes(tokens, typical),
        bound_slope=_slopes(tokens, bound),
    )


def _slopes(tokens: Sequence[int], values: Sequence[float]) -> tuple[float, ...]:
    steps = zip(pairwise(tokens), pairwise(values), strict=True)
    return (*((after - before) / (right - left) for (left, right), (before, after) in steps), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Sequences that advance side by side."""

    batch: int
    prefill: Line
    """By prompt length."""
    decode: Line
    """By tokens in the cache."""
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenGrid:
    """One variant's speed as a language model."""

    rows: tuple[Rows, ...]
    """Ascending by batch."""
    context_tokens: int
    """What the cache holds: prompt and completion, but for the last token, which is never fed back."""


def token_grid(serving: Serving) -> TokenGrid | None:
    """Reduce a ``serving.json`` to its trusted cells; None where it is of another kind of model, or tells none."""
    longest = serving.model.max_context_tokens
    if longest is None:
        return None
    found = []
    for batch in sorted({cell.batch for cell in serving.profile.decode}):
        prompts = [
            (cell.isl, cell.ttft_ms, cell.method)
            for cell in serving.profile.prefill
            if cell.batch == batch and cell.valid
        ]
        tokens = [
            (cell.context, cell.itl_ms, cell.method)
            for cell in serving.profile.decode
            if cell.batch == batch and cell.valid
        ]
        if prompts and tokens:
            _, fewest, method = min((*prompts, *tokens), key=lambda told: told[1].n)
            prefill, decode = (
                line((count, told.p50, bound_ms(told)) for count, told, _ in cells) for cells in (prompts, tokens)
            )
            found.append(Rows(batch=batch, prefill=prefill, decode=decode, basis=basis(fewest, method)))
    return TokenGrid(rows=tuple(found), context_tokens=longest) if found else None
