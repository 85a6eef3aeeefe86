"""Infer a specification from a Hugging Face folder's JSON files, without importing torch or transformers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from hwc.errors import IntegrityError, UsageError
from hwc.spec import compressed, from_language
from hwc.spec.model import Bucket, HuggingFaceSource, ModelSpec, TensorSpec

MAX_JSON_BYTES = 1 << 20
PICKLE_GLOBS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
SEGMENTED = frozenset({"albert", "bert", "convbert", "electra", "mobilebert", "rembert", "squeezebert"})
"""Encoders whose export takes ``token_type_ids`` (optimum-onnx 0.1.0, task feature-extraction)."""
PLAIN = frozenset({"camembert", "deberta", "deberta-v2", "distilbert", "modernbert", "mpnet", "roberta", "xlm-roberta"})
BARE_HEADS = ("Model", "ForMaskedLM", "ForPreTraining")
"""Heads that leave an encoder an encoder; anything else would be dropped silently."""
_TEXT_MODULES = ("Transformer", "Pooling", "Normalize", "Dense")
JsonT = TypeVar("JsonT", dict[str, Any], list[Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """What tells one kind of text encoder from another."""

    task: str
    library: Literal["transformers", "sentence_transformers"]
    output: str
    segmented: bool = False


def infer(path: Path, *, name: str) -> ModelSpec:
    """Infer the specification of an encoder or a causal language model in a local folder.

    Raises UsageError if the folder is no model or one that is not supported, IntegrityError for pickled weights.
    """
    if not (path / "config.json").is_file():
        raise UsageError(
            "not a Hugging Face model folder: it has no config.json",
            where=str(path),
            hint="save_pretrained() makes one",
        )
    config = _json(path / "config.json", dict)
    refuse_pickles(path)
    if config.get("auto_map"):
        raise UsageError(
            "the model needs its author's own Python code (`auto_map`), which hwc does not run",
            where=str(path / "config.json"),
            hint="write `file.py:factory` that builds it",
        )
    if (path / "modules.json").is_file():
        return _sentence_transformer(path, config, name)
    said = compressed.read(config, where=str(path / "config.json"))
    causal = any(head.endswith("ForCausalLM") for head in _heads(config))
    if causal and config.get("model_type") in from_language.CAUSAL:
        return from_language.infer(
            {"kind": "huggingface", "path": path.name, "task": "text-generation", "library": "transformers"},
            name=name, title=f"{path.name}, inferred from its folder", licence=_licence(path),
            trained_tokens=_int(path, config, "max_position_embeddings", from_language.CONTEXT_TOKENS),
            reference=f"float32, dequantised {compressed.METHOD} {said.format}" if said else "",
        )
    if said is not None:
        raise UsageError(
            "quantised checkpoint not supported: it is no causal language model that is supported",
            where=str(path / "config.json"), hint=f"such are {', '.join(sorted(from_language.CAUSAL))}",
        )
    return _encoder(path, config, name)


def refuse_pickles(path: Path) -> None:
    """Raise IntegrityError for a folder whose only weights are pickled, UsageError for one that has none."""
    if any(path.glob("*.safetensors")):
        return
    pickles = sorted(file.name for glob in PICKLE_GLOBS for file in path.glob(glob))
    if pickles:
        raise IntegrityError(
            f"the weights are a pickle checkpoint, which can run code when loaded: {pickles[0]}",
            where=str(path),
            hint="where it is trusted, load it with weights_only=True and save_pretrained(safe_serialization=True)",
        )
    raise UsageError("the folder holds no weights (*.safetensors)", where=str(path))


def _sentence_transformer(path: Path, config: dict[str, Any], name: str) -> ModelSpec:
    modules = _json(path / "modules.json", list)
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules if isinstance(module, dict)]
    foreign = [kind for kind in kinds if kind not in _TEXT_MODULES]
    if foreign or kinds[:1] != ["Transformer"]:
        raise UsageError(
            f"sentence-transformers module not supported: {(foreign or kinds or ['none'])[0]}",
            where=str(path / "modules.json"),
            hint=f"supported now: a Transformer followed by any of {', '.join(_TEXT_MODULES[1:])}",
        )
    limit = _limit(path, config)
    if (path / "sentence_bert_config.json").is_file():
        own = _json(path / "sentence_bert_config.json", dict)
        limit = min(limit, _int(path, own, "max_seq_length", limit))
    kind = _Kind(task="sentence-embedding", library="sentence_transformers", output="sentence_embedding")
    return _spec(path, config, name, kind, limit)


def _encoder(path: Path, config: dict[str, Any], name: str) -> ModelSpec:
    model_type = str(config.get("model_type", ""))
    heads = _heads(config)
    dropped = [head for head in heads if not head.endswith(BARE_HEADS)]
    if model_type not in SEGMENTED | PLAIN or dropped:
        raise UsageError(
            f"model not supported: {dropped[0] if dropped else model_type or 'no model_type'}",
            where=str(path / "config.json"),
            hint="supported now: sentence-transformers folders, bare encoders of type "
            f"{', '.join(sorted(SEGMENTED | PLAIN))}, and causal language models of type "
            f"{', '.join(sorted(from_language.CAUSAL))}; export anything else to .onnx",
        )
    deberta = model_type.startswith("deberta") and _int(path, config, "type_vocab_size", 0) > 0
    kind = _Kind(
        task="feature-extraction",
        library="transformers",
        output="last_hidden_state",
        segmented=model_type in SEGMENTED or deberta,
    )
    return _spec(path, config, name, kind, _limit(path, config))


def _heads(config: dict[str, Any]) -> list[str]:
    return [str(head) for head in config.get("architectures") or []]


def _spec(path: Path, config: dict[str, Any], name: str, kind: _Kind, limit: int) -> ModelSpec:
    return ModelSpec(
        name=name,
        title=f"{path.name}, inferred from its folder",
        licence=_licence(path),
        task=kind.task,
        source=HuggingFaceSource(kind="huggingface", path=path.name, task="feature-extraction", library=kind.library),
        inputs=_inputs(path, config, segmented=kind.segmented),
        outputs=(kind.output,),
        buckets=_buckets(limit),
        functional_buckets=({"batch": 1, "sequence": min(16, limit)},),
    )


def _inputs(path: Path, config: dict[str, Any], *, segmented: bool) -> dict[str, TensorSpec]:
    shape = ("batch", "sequence")
    pad = float(_int(path, config, "pad_token_id", 0))
    vocabulary = float(_int(path, config, "vocab_size", 2))
    inputs = {
        "input_ids": TensorSpec(dtype="int64", shape=shape, pad=pad, low=0.0, high=vocabulary),
        "attention_mask": TensorSpec(dtype="int64", shape=shape, pad=0.0, low=1.0, high=2.0),
    }
    if segmented:
        inputs["token_type_ids"] = TensorSpec(dtype="int64", shape=shape, pad=0.0, low=0.0, high=1.0)
    return inputs


def _int(path: Path, config: dict[str, Any], key: str, default: int) -> int:
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, int) or value < 0:
        raise IntegrityError(f"`{key}` is {str(value)[:60]!r}, not a count", where=str(path))
    return value


def _limit(path: Path, config: dict[str, Any]) -> int:
    """Longest sequence; RoBERTa's table holds ``pad_token_id + 1`` positions that no token takes."""
    positions = _int(path, config, "max_position_embeddings", 512)
    offset = _int(path, config, "pad_token_id", 0) + 1 if "roberta" in str(config.get("model_type")) else 0
    return max(1, positions - offset)


def _buckets(limit: int) -> tuple[Bucket, ...]:
    short, long = min(16, limit), min(128, limit)
    wanted = [(1, short), (1, long), (8, long)]
    return tuple({"batch": batch, "sequence": sequence} for batch, sequence in dict.fromkeys(wanted))


def _licence(path: Path) -> str:
    """Read ``license:`` from the model card's front matter; ``unknown`` if it has none."""
    card = path / "README.md"
    if not card.is_file():
        return "unknown"
    with card.open("rb") as stream:
        head = stream.read(65536).decode(errors="replace")
    front = re.match(r"\s*---\n(.*?)\n---", head, re.DOTALL)
    found = re.search(r"^license:[ \t]*['\"]?([\w.+-]+)", front[1], re.MULTILINE) if front else None
    return found[1] if found else "unknown"


def _json(path: Path, expected: type[JsonT]) -> JsonT:
    payload = path.read_bytes() if path.stat().st_size <= MAX_JSON_BYTES else b""
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path.name} is not JSON of at most 1 MiB: {error}", where=str(path)) from error
    if not isinstance(value, expected):
        raise IntegrityError(f"{path.name} holds no JSON {expected.__name__}", where=str(path))
    return value
