"""What the model itself goes on with, in PyTorch: the greedy tokens that every artefact is compared with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwc.capture import reduced
from hwc.capture.reduced import Reduced
from hwc.capture.windows import open_tokenizer

TOKENS, LOGITS = "greedy.json", "greedy.npz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Greedy:
    """A prompt and what the model goes on with."""

    prompt_ids: tuple[int, ...]
    tokens: tuple[int, ...]
    logits: Reduced
    """Of each token in turn, at the model's own likeliest tokens."""


def record(model: Any, folder: Path, prompt: str, count: int, out: Path) -> None:
    """Write what transformers' own model, with its own cache and attention, says after a prompt, ends of text included.

    A plain loop: ``generate`` would obey the model's generation settings. Raises UsageError if there is no tokenizer,
    IntegrityError if it is not the model's.
    """
    import numpy as np
    import torch

    tokenizer = open_tokenizer(folder, vocabulary=model.get_input_embeddings().num_embeddings)
    ids = tokenizer.encode(prompt).ids
    following, held, rows = torch.tensor([ids]), None, []
    with torch.no_grad():
        for _ in range(count):
            answer = model(input_ids=following, past_key_values=held, use_cache=True)
            held = answer.past_key_values
            rows.append(answer.logits[0, -1].numpy())
            following = torch.tensor([[int(rows[-1].argmax())]])
    logits = np.stack(rows).astype(np.float32)
    tokens = logits.argmax(axis=1)
    reduced.save(out / LOGITS, reduced.reduce(logits, tokens))
    (out / TOKENS).write_text(json.dumps({"prompt": prompt, "prompt_ids": ids, "tokens": tokens.tolist()}))


def load(folder: Path) -> Greedy:
    """Read what ``record`` wrote."""
    facts = json.loads((folder / TOKENS).read_text())
    return Greedy(
        prompt_ids=tuple(facts["prompt_ids"]), tokens=tuple(facts["tokens"]), logits=reduced.load(folder / LOGITS)
    )
