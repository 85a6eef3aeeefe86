"""A model given as a bare path: a Hugging Face folder, an ``.onnx`` or ``.gguf`` file or ``file.py:factory``.

No TOML file is needed. What is inferred is shown to the user, and ``hwc models new`` writes it down (:func:`to_toml`)
to be edited.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from hwc.errors import IntegrityError, UsageError
from hwc.spec import from_gguf, from_huggingface, from_onnx, from_python
from hwc.spec.model import ModelSpec, PythonSource
from hwc.spec.project import Found, Project, find_model, names_on
from hwc.spec.toml_text import to_toml

__all__ = ["find", "infer", "is_path", "name_from", "relocated", "to_toml"]

SUPPORTED = "supported now: a Hugging Face folder, an .onnx or .gguf file, file.py:factory, or a models/*.toml file"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_FACTORY = re.compile(r"(?P<file>.+\.py):(?P<factory>[A-Za-z_][A-Za-z0-9_]*)")
_FOREIGN_HINTS = {
    ".py": "name the function that returns the torch.nn.Module: `{name}:create`",
    ".safetensors": "pass the folder that holds it beside config.json, or write a TOML with `checkpoint`",
}
"""What to do about a file of a kind that cannot be built from."""


def find(project: Project, text: str) -> Found:
    """Load a model given in any way: a name, a TOML file, or a path to infer from; raise UsageError if there is none.

    A name on the search path wins over a file or folder of the same name in the working folder; ``./NAME`` means
    the latter.
    """
    named = text.endswith(".toml") or text in names_on(project.models_path)
    if is_path(text) or (not named and Path(text).is_dir()):
        return infer(text)
    return find_model(project, text)


def is_path(text: str) -> bool:
    """Tell whether MODEL is a path to infer from, rather than a name on the search path or a TOML file."""
    if text.endswith(".toml"):
        return False
    known = (".onnx", ".gguf", *PICKLES, *_FOREIGN_HINTS)
    return "/" in text or text in (".", "..") or bool(_FACTORY.fullmatch(text)) or text.endswith(known)


def infer(text: str) -> Found:
    """Infer a specification from a path; relative names in it refer to ``Found.folder``.

    Raises UsageError for a path that does not exist or a kind of model that is not supported, IntegrityError for a
    pickle checkpoint or damaged files, StepError if a factory's own code exceeds its time or memory.
    """
    try:
        return _infer(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"the model's own description is not usable: {place}: {first['msg']}", where=text) from error


def _infer(text: str) -> Found:
    if match := _FACTORY.fullmatch(text):
        path = _existing(match["file"])
        return _found(from_python.infer(path, match["factory"], name=name_from(path.stem)), path.parent)
    path = _existing(text)
    reader = from_huggingface.infer if path.is_dir() else _file_reader(path)
    return _found(reader(path, name=name_from(path.name if path.is_dir() else path.stem)), path.parent)


def relocated(found: Found, into: Path) -> ModelSpec:
    """Return the specification with its relative paths rewritten for a TOML file that lies in ``into``."""

    def moved(name: str) -> str:
        return os.path.relpath(found.folder / name, into.absolute()) if name else ""

    source = found.spec.source
    if isinstance(source, PythonSource):
        file, _, factory = source.factory.rpartition(":")
        update = {"factory": f"{moved(file)}:{factory}", "checkpoint": moved(source.checkpoint)}
    else:
        update = {"path": moved(source.path)}
    data = {
        name: told.model_copy(update={"file": moved(told.file)})
        for name, told in (("evaluation", found.spec.evaluation), ("calibration", found.spec.calibration))
    }
    return found.spec.model_copy(update={"source": source.model_copy(update=update), **data})


def _found(spec: ModelSpec, folder: Path) -> Found:
    return Found(spec=spec, folder=folder, inferred=True)


def _existing(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.exists():
        raise UsageError(f"no such model file or folder: {text}", where=str(path.absolute()), hint=SUPPORTED)
    return path.resolve()


def _file_reader(path: Path) -> Callable[..., ModelSpec]:
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return from_onnx.infer
    if suffix == ".gguf":
        return from_gguf.infer
    if suffix in PICKLES:
        raise IntegrityError(
            f"{path.name} is a pickle checkpoint: loading it can run code, and it holds weights without a model",
            where=str(path),
            hint="use `file.py:factory` with `checkpoint` in a TOML (read with weights_only), or a safetensors folder",
        )
    hint = _FOREIGN_HINTS.get(suffix, "").format(name=path.name)
    raise UsageError(
        f"cannot build from a {suffix or 'plain'} file: {path.name}", where=str(path), hint=hint or SUPPORTED
    )


def name_from(text: str) -> str:
    """Turn a file's name into a model's name: lower case, with dashes, at most 64 characters."""
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("._-")[:64]
    return name or "model"
