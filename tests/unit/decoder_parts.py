"""Tiny decoders with random weights, made in memory."""

from __future__ import annotations

from typing import Any

_SIZES: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "tie_word_embeddings": True,
    "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": None,
}


def decoder(model_type: str, **changed: Any) -> Any:
    """Return a decoder of three layers of 16 numbers a token, with two query heads to a key."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{**_SIZES, **changed})
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
