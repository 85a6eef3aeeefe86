"""A GGUF file's metadata as a decoder's sizes, and as the config.json that transformers reads."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hwc.errors import UsageError
from hwc.gguf_file import GgufFile
from hwc.spec.from_gguf import supported

_HEADS = {
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM"),
    "llama": ("llama", "LlamaForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
}
"""GGUF architecture to transformers' ``model_type`` and class."""
_GEMMA3_27B_BLOCKS = 62
_LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""What every Llama 3.1, 3.2 and 3.3 has; GGUF keeps only the divisors that follow from it, so they are compared."""
END_OF_TURN = ("<|im_end|>", "<end_of_turn>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>")
"""Control tokens after which a model has no more to say, in files that name a single one as the end."""
_CONTROL = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """Sizes that the shapes of a decoder's tensors follow from."""

    architecture: str
    blocks: int
    hidden: int
    inner: int
    """Width of the feed-forward layer."""
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    """Rows of the embedding table."""
    tied: bool
    """The output layer is the embedding table."""
    attention_bias: bool


def decoder(file: GgufFile) -> Decoder:
    """Read a decoder's sizes.

    Raises UsageError for an architecture or a kind of attention that is not supported, IntegrityError for metadata
    that is missing or absurd.
    """
    name = supported(file)
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise file.damaged("the GGUF file has no tensor `token_embd.weight`")
    heads, hidden = _positive(file, f"{name}.attention.head_count"), _positive(file, f"{name}.embedding_length")
    sizes = Decoder(
        architecture=name,
        blocks=_positive(file, f"{name}.block_count"),
        hidden=hidden,
        inner=_positive(file, f"{name}.feed_forward_length"),
        heads=heads,
        kv_heads=_positive(file, f"{name}.attention.head_count_kv", heads),
        head_dim=_positive(file, f"{name}.attention.key_length", hidden // heads),
        vocabulary=embedding.shape[0],
        tied="output.weight" not in file.tensors,
        attention_bias="blk.0.attn_q.bias" in file.tensors,
    )
    if sizes.blocks > len(file.tensors) or sizes.heads % sizes.kv_heads or sizes.head_dim % 2:
        raise file.damaged(
            f"sizes that no model has: {sizes.blocks} blocks, {sizes.heads} heads, {sizes.kv_heads} key-value heads "
            f"of {sizes.head_dim}"
        )
    for key in ("attention.value_length", "rope.dimension_count"):
        if file.integer(f"{name}.{key}", sizes.head_dim) != sizes.head_dim:
            raise UsageError(f"not supported: `{name}.{key}` other than the head size", where=file.parts.where)
    return sizes


def _positive(file: GgufFile, key: str, default: int | None = None) -> int:
    value = file.integer(key, default)
    if not 0 < value < 1 << 31:
        raise file.damaged(f"GGUF metadata `{key}` is {value}")
    return value


def config(file: GgufFile, sizes: Decoder) -> dict[str, object]:
    """Return config.json for transformers; raises UsageError for a rope scaling it could not express."""
    name = sizes.architecture
    model_type, class_name = _HEADS[name]
    found: dict[str, object] = {
        "architectures": [class_name],
        "model_type": model_type,
        "torch_dtype": "float32",
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.inner,
        "num_hidden_layers": sizes.blocks,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_dim,
        "max_position_embeddings": _positive(file, f"{name}.context_length"),
        "rms_norm_eps": file.number(f"{name}.attention.layer_norm_rms_epsilon"),
        "rope_theta": file.number(f"{name}.rope.freq_base", 1e6 if name == "gemma3" else 1e4),
        "rope_scaling": _rope_scaling(file, sizes),
        "tie_word_embeddings": sizes.tied,
        "use_cache": True,
        **{f"{role}_token_id": token for role, token in tokens(file).items() if role != "unk"},
    }
    if name == "gemma3":
        return found | _gemma3(file, sizes)
    return found | {"hidden_act": "silu", "attention_bias": sizes.attention_bias}


def tokens(file: GgufFile) -> dict[str, int]:
    """Return the ids of the special tokens the file names, by role: bos, eos, pad, unk."""
    keys = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    named = {role: f"tokenizer.ggml.{key}_token_id" for role, key in keys.items()}
    return {role: _token(file, key) for role, key in named.items() if key in file.metadata}


def _token(file: GgufFile, key: str) -> int:
    value = file.integer(key)
    if value >= len(file.texts("tokenizer.ggml.tokens")):
        raise file.damaged(f"GGUF metadata `{key}` is {value}, past the end of the vocabulary")
    return value


def generation(file: GgufFile) -> dict[str, object]:
    """Return generation_config.json: the special tokens, with every token that ends a text under ``eos_token_id``."""
    found = tokens(file)
    keys = [f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom")]
    ends = [_token(file, key) for key in keys if key in file.metadata]
    names = file.texts("tokenizer.ggml.tokens")
    if "tokenizer.ggml.token_type" in file.metadata:
        types = file.numbers("tokenizer.ggml.token_type", count=len(names))
        ends += [place for place in (types == _CONTROL).nonzero()[0].tolist() if names[place] in END_OF_TURN]
    ids = {f"{role}_token_id": found[role] for role in ("bos", "pad") if role in found}
    return {"eos_token_id": list(dict.fromkeys(ends)), **ids}


def _gemma3(file: GgufFile, sizes: Decoder) -> dict[str, object]:
    """Return what only Gemma 3 has; its window and the pattern of its layers are of the model, not of the file."""
    pattern = file.integer("gemma3.attention.sliding_window_pattern", 6)
    kinds = [
        "full_attention" if pattern and not (block + 1) % pattern else "sliding_attention"
        for block in range(sizes.blocks)
    ]
    caps = {
        key: file.number(f"gemma3.{source}") if f"gemma3.{source}" in file.metadata else None
        for key, source in (
            ("final_logit_softcapping", "final_logit_softcapping"),
            ("attn_logit_softcapping", "attn_logit_softcapping"),
        )
    }
    # The attention scale is 1/√head_dim in every size but 27B, where it is 1/√(hidden/heads); no key tells it.
    scalar = sizes.hidden // sizes.heads if sizes.blocks == _GEMMA3_27B_BLOCKS else sizes.head_dim
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "query_pre_attn_scalar": scalar,
        "sliding_window": _positive(file, "gemma3.attention.sliding_window"),
        "sliding_window_pattern": pattern,
        "layer_types": kinds,
        "rope_local_base_freq": file.number("gemma3.rope.freq_base_swa", 1e4),
        **caps,
    }


def _rope_scaling(file: GgufFile, sizes: Decoder) -> dict[str, object] | None:
    if "rope_freqs.weight" in file.tensors:
        return _llama3_rope(file, sizes)
    prefix = f"{sizes.architecture}.rope.scaling"
    kind = file.text(f"{prefix}.type", "none")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise UsageError(f"rope scaling not supported: {kind[:60]}", where=file.parts.where)
    scaling: dict[str, object] = {"rope_type": kind, "factor": file.number(f"{prefix}.factor")}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = _positive(file, f"{prefix}.original_context_length")
    return scaling


def _llama3_rope(file: GgufFile, sizes: Decoder) -> dict[str, object]:
    """Find the Llama 3 scaling that gives the file's divisors, float32 [head_dim / 2], one a frequency."""
    import numpy as np

    tensor = file.tensors["rope_freqs.weight"]
    if tensor.type.name != "F32" or tensor.shape != (sizes.head_dim // 2,):
        raise file.damaged(f"tensor `rope_freqs.weight` is {tensor.type.name} {list(tensor.shape)}")
    divisors = np.frombuffer(file.parts.read(tensor.offset_bytes, tensor.stored_bytes), "<f4")
    factor = float(divisors.max())
    base = file.number(f"{sizes.architecture}.rope.freq_base", 1e4)
    waves = 2 * math.pi * base ** (np.arange(0, sizes.head_dim, 2) / sizes.head_dim)
    low, high = _LLAMA3_ROPE["low_freq_factor"], _LLAMA3_ROPE["high_freq_factor"]
    smooth = np.clip((_LLAMA3_ROPE["original_max_position_embeddings"] / waves - low) / (high - low), 0, 1)
    if not np.allclose(divisors, 1 / ((1 - smooth) / factor + smooth), rtol=1e-3):
        raise UsageError(
            "rope frequencies not supported", where=file.parts.where,
            hint="`rope_freqs.weight` follows another rule than Llama 3.1's",
        )
    return {"rope_type": "llama3", "factor": factor, **_LLAMA3_ROPE}
