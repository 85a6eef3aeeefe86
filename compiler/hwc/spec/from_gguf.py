"""What a GGUF file says of its model, from its header alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hwc import gguf_file
from hwc.errors import UsageError
from hwc.gguf_file import GgufFile
from hwc.spec import from_language
from hwc.spec.model import ModelSpec

ARCHITECTURES = ("gemma3", "llama", "qwen2", "qwen3")
"""What can be built: llama stands for Llama, Mistral and SmolLM too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFacts:
    """A language model in a GGUF file."""

    name: str
    architecture: str
    licence: str
    """As the file has it (an SPDX name where its author was careful), or ``unknown``."""
    parameters: int
    context_tokens: int
    blocks: int
    vocabulary: int
    """Rows of the embedding table."""
    parameters_by_type: dict[str, int]
    """GGUF tensor type to parameters stored so, the most common first: ``{"Q4_1": 106168320, …}``."""
    stored_bytes: int
    """Of all tensors."""
    chat: bool
    """The file has a chat template."""


def describe(files: Sequence[Path]) -> GgufFacts:
    """Describe the model in a GGUF file, given as its parts in order; reads the header only.

    Raises IntegrityError for a damaged header, UsageError for an architecture that is not supported.
    """
    file = gguf_file.read(files)
    architecture = supported(file)
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise file.damaged("the GGUF file has no tensor `token_embd.weight`")
    by_type: Counter[str] = Counter()
    for tensor in file.tensors.values():
        by_type[tensor.type.name] += tensor.values
    return GgufFacts(
        name=file.text("general.name", files[0].stem),
        architecture=architecture,
        licence=file.text("general.license", "unknown"),
        parameters=by_type.total(),
        context_tokens=file.integer(f"{architecture}.context_length"),
        blocks=file.integer(f"{architecture}.block_count"),
        vocabulary=embedding.shape[0],
        parameters_by_type=dict(by_type.most_common()),
        stored_bytes=sum(tensor.stored_bytes for tensor in file.tensors.values()),
        chat="tokenizer.chat_template" in file.metadata,
    )


def supported(file: GgufFile) -> str:
    """Return the file's architecture; raise UsageError if it is not one that can be built."""
    architecture = file.text("general.architecture")
    if architecture not in ARCHITECTURES:
        raise UsageError(
            f"GGUF architecture not supported: {architecture[:60]}",
            where=file.parts.where,
            hint=f"supported: {', '.join(ARCHITECTURES)}",
        )
    if file.integer(f"{architecture}.expert_count", 0):
        raise UsageError(
            "a mixture of experts in a GGUF file is not supported", where=file.parts.where,
            hint="build its Hugging Face folder",
        )
    return architecture


def infer(path: Path, *, name: str) -> ModelSpec:
    """Infer the specification of a language model in a GGUF file; raises as :func:`describe` does."""
    facts = describe([path])
    types = [kind for kind in facts.parameters_by_type if kind not in ("F32", "F16", "BF16")]
    return from_language.infer(
        {"kind": "gguf", "path": path.name}, name=name, title=f"{facts.name}, inferred from its file",
        licence=facts.licence, trained_tokens=facts.context_tokens,
        reference=f"float32, dequantised {', '.join(types)}" if types else "",
    )
