"""A language model that was loaded: prompts as text, chat messages or tokens in, text out as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hwc.errors import UsageError
from hwc.program import Function
from hwc.runtime.batching import Callee
from hwc.runtime.chat import Chat
from hwc.runtime.generate import Finish, Generator
from hwc.runtime.sampling import Sampling
from hwc.runtime.stopping import StopTexts
from hwc.runtime.tokens import Detokeniser, Tokens

Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]
"""A text, token ids, or chat messages: ``{"role": "user", "content": "…"}``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is asked of a generation."""

    max_new_tokens: int | None = None
    """None: until the model ends or the cache is full."""
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    """The text ends before any of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """How long tokens took: the artefact's call and the choice of a token, not what the reader did in between."""

    ttft_s: float
    """Time to the first token: prefill and choice, after the prompt became tokens."""
    itl_s: tuple[float, ...]
    """Inter-token latency: one a token after the first."""

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens after the first per second of one row; None if there are none."""
        total_s = sum(self.itl_s)
        return len(self.itl_s) / total_s if total_s > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What became of one prompt."""

    text: str
    token_ids: tuple[int, ...]
    """Every token that was chosen, the one that ended it included."""
    finish: Finish | Literal["interrupted"]
    """``interrupted``: it was not read to its end."""
    prompt_tokens: int
    timings: Timings


class _Writer:
    """Makes one row's tokens into text."""

    def __init__(self, tokens: Tokens, stop: Sequence[str], eos_ids: frozenset[int]) -> None:
        self._characters = Detokeniser(tokens)
        self._stop = StopTexts(stop)
        self._eos_ids = eos_ids
        self.fresh = ""
        self.text = ""
        self.token_ids: list[int] = []

    def take(self, token: int) -> bool:
        """Take one token; return whether a stop text is complete."""
        self.token_ids.append(token)
        if token not in self._eos_ids:
            self._add(self._stop.take(self._characters.take(token)))
        return self._stop.hit is not None

    def close(self) -> None:
        """Add what was held back."""
        self._add(self._stop.take(self._characters.close()) + self._stop.close())

    def fetch(self) -> str:
        """Return the text since the last call."""
        fresh, self.fresh = self.fresh, ""
        return fresh

    def _add(self, text: str) -> None:
        self.fresh += text
        self.text += text


class Batch:
    """Several prompts that are answered side by side; iterating gives each row's new text, step by step."""

    def __init__(
        self, generator: Generator, tokens: Tokens, prompts: Sequence[Sequence[int]], options: Options
    ) -> None:
        self._writers = [_Writer(tokens, options.stop, generator.eos_ids) for _ in prompts]
        self._prompt_tokens = [len(prompt) for prompt in prompts]
        self._finish: list[Finish | None] = [None for _ in prompts]
        self._wall_s: list[float] = []
        self._told = False
        self._steps = generator.stream(
            prompts, max_new_tokens=options.max_new_tokens, sampling=options.sampling,
            halt=lambda row, token: self._writers[row].take(token),
        )

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        for step in self._steps:
            self._wall_s.append(step.wall_s)
            for row, finish in enumerate(step.finish):
                if finish is not None and self._finish[row] is None:
                    self._finish[row] = finish
                    self._writers[row].close()
            yield tuple(writer.fetch() for writer in self._writers)
            if self._told:
                return

    def results(self) -> list[Generation]:
        """Return what there is so far, text that was held back included; reading ends with it."""
        self._told = True
        found = []
        for writer, finish, prompt_tokens in zip(self._writers, self._finish, self._prompt_tokens, strict=True):
            if finish is None:
                writer.close()
            wall_s = self._wall_s[: len(writer.token_ids)] or [0.0]
            timings = Timings(ttft_s=wall_s[0], itl_s=tuple(wall_s[1:]))
            found.append(
                Generation(
                    text=writer.text, token_ids=tuple(writer.token_ids), finish=finish or "interrupted",
                    prompt_tokens=prompt_tokens, timings=timings,
                )
            )
        return found


class Stream:
    """One prompt's answer: iterating gives its text as it comes."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def __iter__(self) -> Iterator[str]:
        for pieces in self._batch:
            if pieces[0]:
                yield pieces[0]

    def result(self) -> Generation:
        """Return what there is so far, whole once it was read to its end; reading ends with it."""
        return self._batch.results()[0]


class Language:
    """A loaded language model with its tokenizer and, if it has one, its chat template."""

    def __init__(
        self, callee: Callee, functions: Sequence[Function], facts: Mapping[str, Any], tokens: Tokens, chat: Chat | None
    ) -> None:
        self._generators = {
            batch: Generator(
                callee, functions, batch=batch, context_tokens=facts["context_tokens"], eos_ids=facts["eos_ids"]
            )
            for batch in sorted({int(entry.bucket["batch"]) for entry in functions})
        }
        tokens.require_within(min(generator.vocabulary for generator in self._generators.values()))
        self._tokens = tokens
        self._chat = chat

    def encode(self, prompt: Prompt) -> list[int]:
        """Return a prompt's tokens; raise UsageError for an empty one, or messages without a chat template."""
        if not len(prompt):
            raise UsageError("the prompt is empty", hint="give at least one character, token or message")
        if isinstance(prompt, str):
            return self._tokens.encode(prompt)
        messages = [entry for entry in prompt if isinstance(entry, Mapping)]
        if not messages:
            return [int(entry) for entry in prompt if not isinstance(entry, Mapping)]
        if len(messages) != len(prompt):
            raise UsageError("a prompt is a text, token ids or messages, not several of them")
        if self._chat is None:
            raise UsageError("the model has no chat template, so it takes no messages", hint="give the prompt as text")
        return self._tokens.encode(self._chat.render(messages), special=False)

    def stream(self, prompt: Prompt, options: Options) -> Stream:
        """Answer one prompt as it is read."""
        return Stream(Batch(self._generator(1), self._tokens, [self.encode(prompt)], options))

    def generate(self, prompts: Sequence[Prompt], options: Options) -> list[Generation]:
        """Answer any number of prompts, as many side by side as the artefact has rows for."""
        encoded = [self.encode(prompt) for prompt in prompts]
        found: list[Generation] = []
        while len(found) < len(encoded):
            generator = self._generator(len(encoded) - len(found))
            batch = Batch(generator, self._tokens, encoded[len(found) : len(found) + generator.batch], options)
            for _ in batch:
                pass
            found += batch.results()
        return found

    def _generator(self, rows: int) -> Generator:
        """Return the smallest batch that holds the rows, else the largest there is."""
        batch = min((size for size in self._generators if size >= rows), default=max(self._generators))
        return self._generators[batch]
