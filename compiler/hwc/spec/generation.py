"""What a causal language model is built for: the length of its KV cache, its prompt lengths and its batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from hwc.spec.strict import Record

if TYPE_CHECKING:
    import numpy as np

CONTEXT_DIM = "context"
"""Dimension of the KV cache that holds one slot a token."""
EXAMPLE_IDS = 64
"""Random token ids lie below this: every vocabulary has them."""
Tokens = Annotated[int, Field(ge=1, le=1_048_576)]


class GenerationSpec(Record):
    """Static shapes of generation; the state between calls is a KV cache inside the artefact."""

    context_tokens: Tokens = 1024
    """Length of the KV cache: prompt and completion together."""
    prefill_tokens: tuple[Tokens, ...] = (16, 128)
    """Prompt lengths to compile; longer prompts go in pieces, shorter ones are filled up."""
    score_tokens: Tokens = 128
    """Length of the windows on which quality is measured, with the logits of every position."""
    batches: tuple[Annotated[int, Field(ge=1, le=256)], ...] = (1,)
    """Sequences that advance together; the first is the one that quality is measured at."""
    kv_dtype: Literal["float32"] = "float32"
    golden_prompt: str = "The capital of France is"
    golden_tokens: Annotated[int, Field(ge=1, le=256)] = 64
    """Greedy tokens that the artefact is compared with the model in PyTorch on."""
    functional_tokens: Annotated[int, Field(ge=1, le=256)] = 4
    """How many of them on a device that is only good for functional tests."""

    @model_validator(mode="after")
    def _fits(self) -> GenerationSpec:
        longest = max((*self.prefill_tokens, self.score_tokens))
        if longest > self.context_tokens:
            raise ValueError(f"a call of {longest} tokens does not fit the cache of {self.context_tokens}")
        if not self.prefill_tokens or not self.batches:
            raise ValueError("give at least one of `prefill_tokens` and one of `batches`")
        return self

    def layout(self) -> dict[str, Any]:
        """Return the inputs, outputs and shapes of a model specification.

        ``start`` [batch] counts the tokens already in the cache, ``logit_index`` [batch, logits] names the positions
        of this call whose logits are wanted: all of them to score, the last one to generate.
        """
        shapes = {"input_ids": ["batch", "sequence"], "start": ["batch"], "logit_index": ["batch", "logits"]}
        inputs = {name: {"dtype": "int64", "shape": shape} for name, shape in shapes.items()}
        return {
            "inputs": {**inputs, "input_ids": {**inputs["input_ids"], "high": EXAMPLE_IDS}},
            "outputs": ["logits"],
            "buckets": self.buckets(),
            "functional_buckets": [self._bucket(1, tokens, 1) for tokens in sorted({1, min(self.prefill_tokens)})],
        }

    def positions(self, bucket: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Return ``start`` and ``logit_index``, int64, of a call that begins behind three tokens and wants the last."""
        import numpy as np

        batch, tokens, wanted = bucket["batch"], bucket["sequence"], bucket["logits"]
        start = min(3, self.context_tokens - tokens)
        index = np.arange(tokens - wanted, tokens, dtype=np.int64)
        return {"start": np.full(batch, start, np.int64), "logit_index": np.tile(index, (batch, 1))}

    def buckets(self) -> list[dict[str, int]]:
        """Return the shapes to compile: decode and prefill for every batch, scoring at the first."""
        made = [self._score()]
        for batch in self.batches:
            made += [self._bucket(batch, tokens, 1) for tokens in (1, *sorted(set(self.prefill_tokens) - {1}))]
        return made

    def _score(self) -> dict[str, int]:
        return self._bucket(self.batches[0], self.score_tokens, self.score_tokens)

    @staticmethod
    def _bucket(batch: int, sequence: int, logits: int) -> dict[str, int]:
        return {"batch": batch, "sequence": sequence, "logits": logits}
