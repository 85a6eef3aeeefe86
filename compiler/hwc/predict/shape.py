"""The shape of a decoder, read from its configuration or its file's header: no weights, no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwc import gguf_file
from hwc.capture import gguf_config, source
from hwc.errors import IntegrityError, UsageError
from hwc.spec.model import GgufSource, HuggingFaceSource, Source

MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageShape:
    """Sizes that a decoder's work follows from."""

    layers: int
    hidden: int
    inner: int
    """Width of the feed-forward layer (one expert's, where there are several): gated, two matrices up and one down."""
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    """The output layer is the embedding table."""
    experts: int = 1
    experts_per_token: int = 1
    windows: tuple[int | None, ...] = ()
    """Of each layer, how many tokens it looks back; None or no entry: all of them."""

    @property
    def parameters(self) -> int:
        """Of all matrices; norms and biases are left out."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        forward = 3 * self.hidden * self.inner * self.experts + (self.hidden * self.experts if self.experts > 1 else 0)
        tables = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * (attention + forward) + tables

    def window(self, layer: int) -> int | None:
        """Return how many tokens a layer looks back."""
        return self.windows[layer] if layer < len(self.windows) else None


def read(told: Source, folder: Path) -> LanguageShape:
    """Return the shape of the decoder a model's source holds; relative names refer to ``folder``.

    Raises UsageError for a source without such a configuration, MachineError for a package that is not installed,
    IntegrityError for a damaged one.
    """
    if isinstance(told, GgufSource):
        return of_gguf(source.gguf_parts(told, folder))
    if isinstance(told, HuggingFaceSource):
        return of_config(source.huggingface_folder(told, folder) / "config.json")
    raise UsageError("only a Hugging Face folder or a GGUF file tells the shape of a language model", where=told.kind)


def of_gguf(parts: tuple[Path, ...]) -> LanguageShape:
    """Read the header of a GGUF file."""
    file = gguf_file.read(parts)
    sizes = gguf_config.decoder(file)
    config = gguf_config.config(file, sizes)
    return LanguageShape(
        layers=sizes.blocks, hidden=sizes.hidden, inner=sizes.inner, heads=sizes.heads, kv_heads=sizes.kv_heads,
        head_dim=sizes.head_dim, vocabulary=sizes.vocabulary, tied=sizes.tied, windows=_windows(config),
    )


def of_config(path: Path) -> LanguageShape:
    """Read config.json of a Hugging Face folder; the folder needs no weights."""
    if not path.is_file():
        raise UsageError("not a Hugging Face model folder: it has no config.json", where=str(path.parent))
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise IntegrityError("config.json is larger than 1 MiB", where=str(path))
        config = json.loads(path.read_text())
    except ValueError as error:
        raise IntegrityError(f"config.json is not JSON: {error}", where=str(path)) from error
    if not isinstance(config, dict):
        raise IntegrityError("config.json holds no JSON object", where=str(path))
    return from_config(config, where=str(path))


def from_config(config: Mapping[str, Any], *, where: str) -> LanguageShape:
    """Return the shape that a transformers configuration of a decoder tells."""
    count = _Count(config, where)
    heads, hidden = count("num_attention_heads"), count("hidden_size")
    experts = count("num_local_experts", "num_experts", default=1)
    return LanguageShape(
        layers=count("num_hidden_layers"), hidden=hidden,
        inner=count("moe_intermediate_size", "intermediate_size") if experts > 1 else count("intermediate_size"),
        heads=heads, kv_heads=count("num_key_value_heads", default=heads),
        head_dim=count("head_dim", default=hidden // heads), vocabulary=count("vocab_size"),
        tied=bool(config.get("tie_word_embeddings", False)), experts=experts,
        experts_per_token=count("num_experts_per_tok", default=1), windows=_windows(config),
    )


@dataclass(frozen=True, slots=True)
class _Count:
    config: Mapping[str, Any]
    where: str

    def __call__(self, *keys: str, default: int | None = None) -> int:
        value = next((self.config[key] for key in keys if self.config.get(key) is not None), default)
        if value is None:
            raise UsageError(
                f"config.json does not tell `{keys[0]}`: not the configuration of a decoder", where=self.where,
                hint="supported: causal language models with attention in every layer (llama, mistral, qwen, gemma3)",
            )
        if not isinstance(value, int) or not 0 < value < 1 << 31:
            raise IntegrityError(f"`{keys[0]}` is {str(value)[:60]!r}, not a count", where=self.where)
        return value


def _windows(config: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Return each layer's window: of those called ``sliding_attention``, or of all where none is called anything."""
    window, kinds = config.get("sliding_window"), config.get("layer_types")
    if not isinstance(window, int) or config.get("use_sliding_window") is False:
        return ()
    if isinstance(kinds, list):
        return tuple(window if kind == "sliding_attention" else None for kind in kinds)
    layers = config.get("num_hidden_layers")
    return (window,) * layers if isinstance(layers, int) else ()
