"""Infer a specification for a causal language model: what its folder or file says, measured on the text hwc ships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hwc.spec.model import ModelSpec

CAUSAL = frozenset(
    {"gemma3_text", "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe"}
)
"""Decoders with attention in every layer and a key-value cache that grows with the text."""
ROUTERS = "*.gate"
"""Layers that choose a token's experts: few weights, and a score that is a little off sends tokens elsewhere."""
CONTEXT_TOKENS = 1024
"""Cache built where nothing says otherwise: a longer one costs every token, since all of it is attended."""
PREFILL_TOKENS = (16, 128)
SCORE_TOKENS = 128
_EVALUATION, _CALIBRATION = "language-eval.jsonl", "language-calibration.jsonl"


def infer(
    source: Mapping[str, Any], *, name: str, title: str, licence: str, trained_tokens: int, reference: str = ""
) -> ModelSpec:
    """Return the specification of a language model that was trained on texts of ``trained_tokens``."""
    context = max(1, min(CONTEXT_TOKENS, trained_tokens))
    return ModelSpec.model_validate(
        {
            "name": name, "title": title, "licence": licence, "task": "text-generation", "source": dict(source),
            "parity_max_abs": 1e-3,
            "parity_rounded_max_abs": 2e-2,
            "quantise": {"exclude": [ROUTERS], "embeddings": "int8"},
            "generation": {
                "context_tokens": context,
                "prefill_tokens": _lengths(PREFILL_TOKENS, context), "score_tokens": min(SCORE_TOKENS, context),
            },
            "evaluation": {
                "evaluator": "language", **_text(_EVALUATION), "items": 16, "functional_items": 2,
                "reference": reference,
            },
            "calibration": {**_text(_CALIBRATION), "items": 64, "window_tokens": min(256, context)},
        }
    )


def _lengths(lengths: Sequence[int], context: int) -> list[int]:
    return sorted({min(length, context) for length in lengths})


def _text(name: str) -> dict[str, str]:
    from hwc import digest
    from hwc.spec.project import facts_dir

    path: Path = facts_dir("models") / "data" / name
    return {"file": str(path), "sha256": digest.of_file(path)}
