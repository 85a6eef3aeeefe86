"""A small causal model that runs as an artefact does, with a cache of its own, and small real tokenizers."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from hwc.program import Function, Port

VOCABULARY = 259
"""256 bytes and three special tokens."""
BOS, EOS, END_OF_TURN = 256, 257, 258
WIDTH = 16
LAYERS = 2


class CausalModel:
    """Two layers of attention, computed over a whole sequence at once: what a cache must not change."""

    def __init__(self, seed: int = 0, positions: int = 256) -> None:
        rng = np.random.default_rng(seed)
        self.embedding = rng.normal(size=(VOCABULARY, WIDTH))
        self.position = rng.normal(size=(positions, WIDTH))
        self.projections = rng.normal(size=(LAYERS, 4, WIDTH, WIDTH)) / WIDTH**0.5
        self.head = rng.normal(size=(WIDTH, VOCABULARY))

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Return logits float32 [tokens, vocab]."""
        places = np.arange(len(ids))
        caches = [(np.zeros((len(ids), WIDTH)), np.zeros((len(ids), WIDTH))) for _ in range(LAYERS)]
        return self.head_of(self.forward(np.asarray(ids), places, caches))

    def forward(
        self, ids: np.ndarray, places: np.ndarray, caches: list[tuple[np.ndarray, np.ndarray]]
    ) -> np.ndarray:
        """Write the tokens' keys and values to their places of the caches [slots, width]; return hidden states."""
        hidden = self.embedding[ids] + self.position[places]
        for (queries, keys, values, out), (key_cache, value_cache) in zip(self.projections, caches, strict=True):
            key_cache[places] = hidden @ keys
            value_cache[places] = hidden @ values
            scores = (hidden @ queries) @ key_cache.T
            scores[np.arange(len(key_cache))[None, :] > places[:, None]] = -np.inf
            shares = np.exp(scores - scores.max(axis=1, keepdims=True))
            seen = np.where(shares > 0, shares, 0) / shares.sum(axis=1, keepdims=True)
            hidden = np.tanh(hidden + (seen @ value_cache) @ out)
        return hidden

    def head_of(self, hidden: np.ndarray) -> np.ndarray:
        logits: np.ndarray = (hidden @ self.head).astype(np.float32)
        return logits

    def greedy(self, prompt: Sequence[int], count: int, eos_ids: Sequence[int] = ()) -> list[int]:
        """Return what follows a prompt, each token from the whole sequence anew."""
        ids = list(prompt)
        while len(ids) < len(prompt) + count:
            ids.append(int(self.logits(ids)[-1].argmax()))
            if ids[-1] in eos_ids:
                break
        return ids[len(prompt) :]


class CachedSession:
    """Calls a causal model as an artefact is called: static shapes, one cache a batch size, stale at first."""

    def __init__(self, model: CausalModel, functions: Sequence[Function], context_tokens: int) -> None:
        self._model = model
        self._functions = {entry.name: entry for entry in functions}
        self.context_tokens = context_tokens
        self.calls: list[str] = []
        self.fail_at: tuple[int, BaseException] | None = None
        rng = np.random.default_rng(99)
        self._caches = {
            batch: [
                [tuple(rng.normal(size=(2, context_tokens, WIDTH)) * 5) for _ in range(LAYERS)] for _ in range(batch)
            ]
            for batch in {entry.bucket["batch"] for entry in functions}
        }

    def call(self, function: str, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        entry = self._functions[function]
        assert {port.name: port.shape for port in entry.inputs} == {name: value.shape for name, value in feeds.items()}
        assert all(value.dtype == np.int64 for value in feeds.values())
        if self.fail_at is not None and len(self.calls) == self.fail_at[0]:
            raise self.fail_at[1]
        self.calls.append(function)
        batch, sequence = entry.bucket["batch"], entry.bucket["sequence"]
        logits = np.zeros((batch, entry.bucket["logits"], VOCABULARY), np.float32)
        for row in range(batch):
            places = feeds["start"][row] + np.arange(sequence)
            assert places[0] >= 0, "written before the cache"
            assert places[-1] < self.context_tokens, "written past the cache"
            hidden = self._model.forward(feeds["input_ids"][row], places, self._caches[batch][row])
            logits[row] = self._model.head_of(hidden[feeds["logit_index"][row]])
        return {"logits": logits}


def function(batch: int, sequence: int, logits: int = 1) -> Function:
    inputs = {"input_ids": (batch, sequence), "start": (batch,), "logit_index": (batch, logits)}
    return Function(
        name=f"b{batch}_s{sequence}_l{logits}",
        bucket={"batch": batch, "sequence": sequence, "logits": logits},
        inputs=tuple(Port(name=name, dtype="int64", shape=shape) for name, shape in inputs.items()),
        outputs=(Port(name="logits", dtype="float32", shape=(batch, logits, VOCABULARY)),),
    )


@functools.cache
def byte_level_tokenizer() -> Tokenizer:
    """Tokens are bytes, as GPT-2 writes them: 0…255 in the order of their signs, then three special ones."""
    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={sign: index for index, sign in enumerate(signs)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("<bos>", "<eos>", "<turn>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    return tokenizer


@functools.cache
def byte_fallback_tokenizer(*, strip: bool) -> Tokenizer:
    """Pieces of words with ``▁`` for a space, and bytes for all else; ``strip`` drops a text's first space."""
    pieces = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdeé€", "▁a", "▁▁", "ab", "\ufffd"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)}, merges=[("▁", "a"), ("▁", "▁"), ("a", "b")],
            unk_token="<unk>", byte_fallback=True, fuse_unk=True,
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strip else steps)
    tokenizer.add_special_tokens([AddedToken("<s>", special=True)])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
