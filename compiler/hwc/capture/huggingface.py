"""Hugging Face folders, exported to ONNX by optimum (measured against torch.export in docs/decisions/0002)."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from hwc.errors import MachineError, StepError
from hwc.spec.model import HuggingFaceSource

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json", "vocab.txt",
    "merges.txt",
)


def export(source: HuggingFaceSource, folder: Path, work: Path, *, opset: int) -> Path:
    """Export a local folder to ``work/model.onnx`` without touching the network; return the file's path.

    Raises StepError, with the exporter's own words, if it cannot export the model.
    """
    if source.library == "sentence_transformers":
        require("sentence_transformers", package="sentence-transformers")
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_OFFLINE"] = "1"
    from optimum.exporters.onnx import main_export

    try:
        main_export(
            str(folder),
            output=work,
            task=source.task,
            opset=opset,
            library_name=None if source.library == "auto" else source.library,
            do_validation=False,
            trust_remote_code=False,
            use_subprocess=False,
        )
    except Exception as error:
        raise StepError(
            f"optimum cannot export this model: {error}",
            where=str(folder),
            hint="check `source.task` and `source.library`, or export it yourself and build the .onnx file",
        ) from error
    return work / "model.onnx"


def require(module: str, *, package: str) -> None:
    """Raise MachineError if a package that only some models need is not installed."""
    if importlib.util.find_spec(module) is None:
        raise MachineError(f"this model needs the package {package}", hint=f"pip install {package}")


def keep_tokenizer(folder: Path, out: Path) -> list[str]:
    """Copy the tokenizer's files, byte for byte, and return their names."""
    kept = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    for name in kept:
        out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, out / name)
    return kept
