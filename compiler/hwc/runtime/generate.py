"""Generating tokens: prompts through the prefill functions, then a token a row and call. The artefact has the cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hwc.errors import IntegrityError, UsageError
from hwc.program import Function
from hwc.runtime import prefill
from hwc.runtime.batching import Callee
from hwc.runtime.sampling import Sampling, choose, source_of_chance

if TYPE_CHECKING:
    import numpy as np

Finish = Literal["stop", "length", "context"]
"""Why a row ended: an end token or a stop text, the tokens asked for, or the cache is full."""
Halt = Callable[[int, int], bool]
"""Called with each row and its new token; true ends the row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One new token for every row that goes on."""

    tokens: tuple[int | None, ...]
    """None: the row had ended before."""
    finish: tuple[Finish | None, ...]
    wall_s: float
    """From the request for this step to its tokens: the TTFT of the first, an ITL of the others."""


class _Row:
    """One sequence: what is in its cache, what was chosen last, and whether it goes on."""

    def __init__(self, prompt: Sequence[int], chance: np.random.Generator) -> None:
        self.seen = list(prompt)
        self.chance = chance
        self.cached = 0
        self.made = 0
        self.finish: Finish | None = None


class Generator:
    """Generates with the functions of one batch size; they share one cache, so one generation at a time."""

    def __init__(
        self, callee: Callee, functions: Sequence[Function], *, context_tokens: int, eos_ids: Collection[int],
        batch: int = 1,
    ) -> None:
        own = [entry for entry in functions if entry.bucket.get("batch") == batch]
        own.sort(key=lambda entry: entry.bucket.get("logits", 1), reverse=True)
        self._by_length = {entry.bucket["sequence"]: entry for entry in own}  # the one with the fewest logits stays
        if 1 not in self._by_length:
            have = ", ".join(entry.name for entry in functions) or "none"
            raise IntegrityError(
                f"no function decodes one token for {batch} rows", where=f"functions: {have}",
                hint="the artefact needs a shape bucket of this batch with sequence 1",
            )
        self._callee = callee
        self.batch = batch
        self.context_tokens = context_tokens
        self.eos_ids = frozenset(eos_ids)
        self.vocabulary = _vocabulary(self._by_length[1])
        self._turn = 0

    def stream(
        self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int | None = None,
        sampling: Sampling | None = None, halt: Halt | None = None,
    ) -> Iterator[Step]:
        """Check the prompts' token ids, as many as rows or fewer, and return what generates as it is read.

        ``max_new_tokens`` None: until the model ends or the cache is full. Raises UsageError for a prompt that is
        empty or longer than the cache, for unknown tokens and for more new tokens than the cache holds.
        """
        self._check(prompts, max_new_tokens)
        sampling = sampling or Sampling()
        rows = [_Row(prompt, source_of_chance(sampling, row)) for row, prompt in enumerate(prompts)]
        return self._steps(rows, max_new_tokens, sampling, halt)

    def room(self, prompt_tokens: int) -> int:
        """Return how many tokens can follow a prompt: the last of them needs no place in the cache."""
        return self.context_tokens - prompt_tokens + 1

    def _check(self, prompts: Sequence[Sequence[int]], max_new_tokens: int | None) -> None:
        if not 0 < len(prompts) <= self.batch:
            raise UsageError(f"{len(prompts)} prompts for {self.batch} rows")
        for prompt in prompts:
            prefill.plan(len(prompt), self._by_length, self.context_tokens)
            wrong = next((token for token in prompt if not 0 <= token < self.vocabulary), None)
            if wrong is not None:
                raise UsageError(f"token {wrong} is not in the vocabulary of {self.vocabulary}")
        longest = max(len(prompt) for prompt in prompts)
        if max_new_tokens is not None and max_new_tokens < 1:
            raise UsageError(f"{max_new_tokens} new tokens were asked for", hint="ask for at least one")
        if max_new_tokens is not None and max_new_tokens > self.room(longest):
            raise UsageError(
                f"{max_new_tokens} new tokens do not fit: the prompt has {longest}, the cache holds "
                f"{self.context_tokens}",
                hint=f"ask for at most {self.room(longest)}, or build with a larger generation.context_tokens",
            )

    def _steps(
        self, rows: list[_Row], max_new_tokens: int | None, sampling: Sampling, halt: Halt | None
    ) -> Iterator[Step]:
        self._turn += 1
        turn = self._turn
        forward = self._prefill
        while any(row.finish is None for row in rows):
            if turn != self._turn:
                raise UsageError(
                    "another generation took over the cache while this one was read",
                    hint="read one to its end before the next, or open the model twice",
                )
            started = time.perf_counter()
            live = [row.finish is None for row in rows]
            logits = forward(rows)
            forward = self._decode
            for place, row in enumerate(rows):
                if live[place]:
                    token = choose(logits[place], sampling, row.chance, row.seen)
                    row.seen.append(token)
                    row.made += 1
                    halted = halt is not None and halt(place, token)
                    row.finish = "stop" if halted or token in self.eos_ids else self._limit(row, max_new_tokens)
            yield Step(
                tokens=tuple(row.seen[-1] if alive else None for row, alive in zip(rows, live, strict=True)),
                finish=tuple(row.finish for row in rows),
                wall_s=time.perf_counter() - started,
            )

    def _limit(self, row: _Row, max_new_tokens: int | None) -> Finish | None:
        if row.made == max_new_tokens:
            return "length"
        return "context" if row.cached == self.context_tokens else None

    def _prefill(self, rows: list[_Row]) -> np.ndarray:
        """Put every row's prompt into the cache; return the logits float32 [rows, vocab] that follow each.

        Rows are filled up on the right. What that writes lies behind a row's prompt, is not looked at from there, and
        is overwritten by the row's own tokens before they look at it.
        """
        import numpy as np

        found: dict[int, np.ndarray] = {}
        longest = max(len(row.seen) for row in rows)
        for chunk in prefill.plan(longest, self._by_length, self.context_tokens):
            ids = np.zeros((self.batch, chunk.length), np.int64)
            starts = np.full(self.batch, chunk.start, np.int64)
            last = np.zeros(self.batch, np.int64)
            for place, row in enumerate(rows):
                part = row.seen[chunk.start : chunk.start + chunk.length]
                ids[place, : len(part)] = part
                last[place] = min(max(len(row.seen) - 1 - chunk.start, 0), chunk.length - 1)
            logits = self._call(ids, starts, last)
            for place, row in enumerate(rows):
                if chunk.start < len(row.seen) <= chunk.start + chunk.length:
                    found[place] = logits[place]
        for row in rows:
            row.cached = len(row.seen)
        return np.stack([found[place] for place in range(len(rows))])

    def _decode(self, rows: list[_Row]) -> np.ndarray:
        """Put each live row's last token into the cache; return the logits float32 [batch, vocab] that follow.

        Rows that have ended, and rows without a prompt, are fed any token at a place that stays inside the cache.
        """
        import numpy as np

        ids = np.zeros((self.batch, 1), np.int64)
        starts = np.zeros(self.batch, np.int64)
        for place, row in enumerate(rows):
            if row.finish is None:
                ids[place, 0], starts[place] = row.seen[-1], row.cached
                row.cached += 1
        return self._call(ids, starts, np.zeros(self.batch, np.int64))

    def _call(self, ids: np.ndarray, starts: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Call the function of this length; return logits float32 [batch, vocab] at one position a row."""
        import numpy as np

        function = self._by_length[ids.shape[1]]
        index = np.repeat(last[:, None], function.bucket.get("logits", 1), axis=1)
        feeds = {"input_ids": ids, "start": starts, "logit_index": index}
        logits: np.ndarray = self._callee.call(function.name, feeds)["logits"][:, 0]
        return logits


def _vocabulary(function: Function) -> int:
    found = next((port.shape[-1] for port in function.outputs if port.name == "logits"), None)
    if found is None:
        raise IntegrityError("the artefact's function gives no logits", where=function.name)
    return found
