"""Causal language models: one graph for prefill, decode and scoring, with the KV cache as explicit state.

The model's own forward pass from transformers is exported, with parts of it replaced: by transformers' own interfaces
an attention that reads grouped heads where they lie and a cache of fixed length that is written by index, and for a
mixture of experts a form without data-dependent loops (experts.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwc import onnx_external, onnx_io
from hwc.capture import checkpoint, experts
from hwc.errors import StepError, UsageError
from hwc.spec.generation import GenerationSpec

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import torch

KEY, VALUE = "cache.key.", "cache.value."
NEXT_KEY, NEXT_VALUE = "next.key.", "next.value."
_EXAMPLE = {"batch": 2, "sequence": 5, "logits": 3, "context": 24}
"""Sizes that are traced; all four stay dynamic."""
_ATTENTION = "hwc_grouped"


def load(folder: Path) -> tuple[Any, list[str]]:
    """Load a causal language model in float32 from a Hugging Face folder with safetensors.

    Weights that are float32 in the file are mapped from it, not read. Returns also the names of tensors in the file
    that the model does not have. Raises IntegrityError for weights that are missing, of another shape than the
    configuration says, or not finite; StepError with transformers' own words for what it cannot load.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model, told = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", use_safetensors=True, local_files_only=True,
            trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True,
        )
    except Exception as error:
        raise StepError(
            f"transformers cannot load this model: {str(error).strip().splitlines()[0]}", where=str(folder),
            hint="does AutoModelForCausalLM.from_pretrained() load the folder?",
        ) from error
    unknown = checkpoint.require_whole(model, told, folder)
    checkpoint.require_finite(model, folder)
    return model.eval(), unknown


def export(model: Any) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Export one step of a model (opset 21, every size dynamic); return its graph, and its weights apart from it.

    A weight is a view of the model's own memory; an empty tensor of its name stands in the graph.

    Inputs: input_ids [batch, sequence], start [batch], logit_index [batch, logits], and a layer's cache.key and
    cache.value, float32 [batch, kv_heads, context, head_dim]. Outputs: logits [batch, logits, vocabulary], and the
    caches with this call's tokens written at ``start`` and after it.
    """
    import torch

    layers = range(model.config.num_hidden_layers)
    example = _example(model)
    dynamic = torch.export.Dim.DYNAMIC
    dims = [
        {0: dynamic, 1: dynamic}, {0: dynamic}, {0: dynamic, 1: dynamic},
        tuple({0: dynamic, 2: dynamic} for _ in range(2 * len(layers))),
    ]
    try:
        with stepping(model) as step, torch.no_grad():
            program = torch.onnx.export(
                step, example, dynamo=True, opset_version=21, verbose=False, external_data=False,
                dynamic_shapes=dims,
                input_names=["input_ids", "start", "logit_index", *_names(KEY, layers), *_names(VALUE, layers)],
                output_names=["logits", *_names(NEXT_KEY, layers), *_names(NEXT_VALUE, layers)],
            )
    except Exception as error:
        raise StepError(
            f"torch.onnx cannot export this model: {str(error).strip().splitlines()[0]}",
            where=type(model).__name__, hint="the step's log holds the exporter's whole report",
        ) from error
    outside = _take_out(program.model.graph.initializers)
    graph = program.model_proto
    for name, value in list(outside.items()):
        onnx_external.put(graph, name, value, outside)
    return graph, outside


def _take_out(initializers: Any) -> dict[str, np.ndarray]:
    """Take the tensors out of a graph and return them as arrays; what steers shapes is small and stays."""
    found = {
        name: value.const_value.numpy()
        for name, value in initializers.items()
        if math.prod(value.const_value.shape) >= onnx_io.DETACH_FLOAT_ELEMENTS
    }
    for name in found:
        del initializers[name]
    return found


def facts(model: Any, generation: GenerationSpec) -> dict[str, Any]:
    """Return what a serving plane wants to know of the model's shape."""
    config = model.config
    heads, width = state_shape(config)
    layers = config.num_hidden_layers
    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = ends if ends is not None else config.eos_token_id
    return {
        "architecture": config.model_type, "layers": layers, "kv_heads": heads, "head_dim": width,
        "hidden_size": config.hidden_size, "vocab_size": config.vocab_size,
        "kv_bytes_per_token": 2 * layers * heads * width * 4, "kv_dtype": generation.kv_dtype,
        "eos_ids": [ends] if isinstance(ends, int) else list(ends or []),
        "trained_context_tokens": getattr(config, "max_position_embeddings", None), **experts.counts(model),
    }


def _names(prefix: str, layers: range) -> list[str]:
    return [f"{prefix}{layer}" for layer in layers]


def state_shape(config: Any) -> tuple[int, int]:
    """Return (kv_heads, head_dim) of every layer's cache; raise UsageError where layers differ or have none."""
    heads = getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", None)
    width = getattr(config, "head_dim", None) or (
        config.hidden_size // config.num_attention_heads if heads and hasattr(config, "hidden_size") else None
    )
    if not isinstance(heads, int) or not isinstance(width, int):
        raise UsageError(
            "the model's configuration does not tell its key and value heads", where=type(config).__name__,
            hint="supported: decoders with attention in every layer (llama, mistral, qwen2, qwen3, gemma3, …)",
        )
    return heads, width


def _example(model: Any) -> tuple[Any, ...]:
    import torch

    heads, width = state_shape(model.config)
    batch, context = _EXAMPLE["batch"], _EXAMPLE["context"]
    caches = [torch.zeros(batch, heads, context, width) for _ in range(2 * model.config.num_hidden_layers)]
    tokens = torch.arange(batch * _EXAMPLE["sequence"]).reshape(batch, -1) + 1
    index = torch.arange(_EXAMPLE["logits"]).expand(batch, -1).contiguous()
    return tokens, torch.zeros(batch, dtype=torch.int64), index, *caches


@contextmanager
def stepping(model: Any) -> Iterator[Any]:
    """Yield the module that is exported; the model attends by groups, and to the cache, for as long as the block lasts.

    It takes and gives what :func:`export` says of the graph, caches as further arguments, keys before values.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(_ATTENTION, _grouped_attention)
    before = model.config._attn_implementation
    model.set_attn_implementation(_ATTENTION)
    try:
        with experts.static(model):
            yield _step_module(model)
    finally:
        model.set_attn_implementation(before)


def _grouped_attention(
    _module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor,
    scaling: float | None = None, softcap: float | None = None, **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend without repeating keys and values: the query heads of a group are rows of one product.

    query [B, H, S, D], key and value [B, KVH, L, D], mask additive [B, 1, S, L]; returns [B, S, H, D].
    """
    import torch

    batch, heads, tokens, width = query.shape
    groups = heads // key.shape[1]
    scale = scaling if scaling is not None else width**-0.5
    rows = (query * scale).reshape(batch, key.shape[1], groups * tokens, width)
    scores = torch.matmul(rows, key.transpose(2, 3))
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.reshape(batch, key.shape[1], groups, tokens, key.shape[2]) + attention_mask[:, None]
    weights = torch.softmax(scores, dim=-1).reshape(batch, key.shape[1], groups * tokens, key.shape[2])
    mixed = torch.matmul(weights, value).reshape(batch, heads, tokens, width)
    return mixed.transpose(1, 2), None


def _step_module(model: Any) -> Any:
    """Return the module that is exported: tokens and caches in, logits and caches out."""
    import torch
    from transformers.cache_utils import Cache

    class IndexedCache(Cache):
        """A cache of fixed length that keeps what it is given at the positions of this call."""

        def __init__(self, keys: list[torch.Tensor], values: list[torch.Tensor], positions: torch.Tensor) -> None:
            self.layers: list[Any] = []
            self.keys, self.values, self.positions = keys, values, positions

        def update(
            self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
        ) -> tuple[torch.Tensor, torch.Tensor]:
            self.keys[layer_idx] = self._put(self.keys[layer_idx], key_states)
            self.values[layer_idx] = self._put(self.values[layer_idx], value_states)
            return self.keys[layer_idx], self.values[layer_idx]

        def _put(self, cache: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
            rows = torch.arange(cache.shape[0]).view(-1, 1, 1)
            heads = torch.arange(cache.shape[1]).view(1, -1, 1)
            return cache.index_put((rows, heads, self.positions[:, None, :]), new)

        def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002
            return 0

    class Step(torch.nn.Module):
        """One call over the cache."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.layers = model.config.num_hidden_layers

        def forward(
            self, input_ids: torch.Tensor, start: torch.Tensor, logit_index: torch.Tensor, *caches: torch.Tensor
        ) -> tuple[torch.Tensor, ...]:
            positions = start[:, None] + torch.arange(input_ids.shape[1])[None]
            cache = IndexedCache(list(caches[: self.layers]), list(caches[self.layers :]), positions)
            hidden = self.model.get_decoder()(
                input_ids=input_ids, attention_mask=_masks(self.model.config, positions, caches[0].shape[2]),
                position_ids=positions, past_key_values=cache, use_cache=True, cache_position=positions[0],
            ).last_hidden_state
            rows = torch.arange(hidden.shape[0])[:, None]
            logits = self.model.get_output_embeddings()(hidden[rows, logit_index])
            if (cap := getattr(self.model.config, "final_logit_softcapping", None)) is not None:
                logits = torch.tanh(logits / cap) * cap
            return (logits, *cache.keys, *cache.values)

    return Step().eval()


def _masks(config: Any, positions: torch.Tensor, context: int) -> Any:
    """Return the additive mask [B, 1, S, L] of every kind of layer the model has.

    A position sees the slots up to its own, and with a sliding window only the nearest of them.
    """
    import torch

    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    kinds = getattr(config, "layer_types", None)
    slots = torch.arange(context)[None, None, None]
    rows = positions[:, None, :, None]
    far = torch.finfo(torch.float32).min
    full = torch.where(slots <= rows, 0.0, far)
    near = torch.where((slots <= rows) & (slots > rows - window), 0.0, far) if window else full
    if kinds is None:
        return near
    return {"full_attention": full, "sliding_attention": near}
