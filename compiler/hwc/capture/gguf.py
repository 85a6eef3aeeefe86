"""GGUF files as a source of models: one becomes the Hugging Face folder that the rest of the pipeline reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from hwc import gguf_file
from hwc.capture import gguf_config, gguf_tensors, gguf_tokenizer
from hwc.capture.gguf_tensors import Placed, Quantised
from hwc.gguf_file import GgufFile


def to_folder(files: Sequence[Path], out: Path) -> None:
    """Write a Hugging Face folder from one GGUF file, given as its parts in order (usually one).

    ``model.safetensors`` holds float32 weights, dequantised some rows at a time, so memory stays far below the
    model's size; ``config.json``, ``generation_config.json``, ``tokenizer.json`` and ``tokenizer_config.json`` say the
    rest. Equal files give equal bytes. Raises IntegrityError for a damaged file (naming the tensor) and for NaN or
    infinite weights, UsageError for a model that is not supported, MachineError if the package gguf is missing.
    """
    file = gguf_file.read(files)
    sizes = gguf_config.decoder(file)
    placed = gguf_tensors.place(file, sizes)
    config = gguf_config.config(file, sizes)
    generation = gguf_config.generation(file)
    tokenizer = gguf_tokenizer.build(file, sizes)
    out.mkdir(parents=True, exist_ok=True)
    _save_weights(file, placed, out / "model.safetensors")
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    for name, value in (
        ("config", config), ("generation_config", generation), ("tokenizer_config", gguf_tokenizer.config(file)),
    ):
        (out / f"{name}.json").write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False))


def quantised_tensors(files: Sequence[Path]) -> Iterator[Quantised]:
    """Yield the weights that arrive in groups of 32 (Q4_0, Q4_1, Q8_0) with their codes, for repacking them exactly.

    One is held at a time. Names, and the order of rows, are transformers'. Raises as :func:`to_folder` does.
    """
    file = gguf_file.read(files)
    for placed in gguf_tensors.place(file, gguf_config.decoder(file)):
        if placed.source.type.name in gguf_tensors.IN_GROUPS and len(placed.source.shape) == 2:
            yield gguf_tensors.quantised(file, placed)


def _save_weights(file: GgufFile, placed: Sequence[Placed], path: Path) -> None:
    """Write safetensors, the header first, then tensor by tensor.

    Format: https://github.com/huggingface/safetensors#format
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for one in placed:
        start, end = end, end + 4 * one.source.values
        header[one.name] = {"dtype": "F32", "shape": list(one.source.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for one in placed:
            for values in gguf_tensors.chunks(file, one):
                stream.write(values.astype("<f4", copy=False).tobytes())
