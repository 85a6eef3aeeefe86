"""GGUF files as a source of models: one becomes the Hugging Face folder that the rest of the pipeline reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from hwc import gguf_file, tensor_file
from hwc.capture import gguf_config, gguf_tensors, gguf_tokenizer
from hwc.capture.arrived import Arrived, Kept
from hwc.capture.gguf_tensors import Placed
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


def arrived(files: Sequence[Path]) -> list[Arrived]:
    """List the weights that the file has quantised; those in groups of 32 (Q4_0, Q4_1, Q5_0, Q8_0) with their codes.

    Names, and the order of rows, are transformers'. Raises as :func:`to_folder` does, partly when codes are read.
    """
    file = gguf_file.read(files)
    placed = gguf_tensors.place(file, gguf_config.decoder(file))
    return [
        Arrived(name=one.name, type=one.source.type.name, kept=_kept(file, one))
        for one in placed if len(one.source.shape) == 2 and one.source.type.block_values > 1
    ]


def _kept(file: GgufFile, placed: Placed) -> Kept | None:
    kind = placed.source.type.name
    if kind not in gguf_tensors.IN_GROUPS:
        return None
    return Kept(
        kind="int8" if gguf_tensors.ZEROS.get(kind) == 128 else "int4", n=placed.rows, k=placed.columns,
        groups=placed.columns // gguf_tensors.GROUP, zeros="none" if kind in gguf_tensors.ZEROS else "offset",
        rows=lambda: gguf_tensors.quantised_rows(file, placed),
    )


def _save_weights(file: GgufFile, placed: Sequence[Placed], path: Path) -> None:
    import numpy as np

    by_name = {one.name: one for one in placed}
    entries = [tensor_file.Entry(one.name, np.dtype("f4"), one.source.shape) for one in placed]
    tensor_file.write(
        path, entries,
        lambda entry: (values.astype("<f4", copy=False) for values in gguf_tensors.chunks(file, by_name[entry.name])),
    )
