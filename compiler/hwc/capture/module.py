"""torch modules made by a user's factory, exported by torch.export."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwc.errors import IntegrityError, StepError, UsageError
from hwc.spec.model import ModelSpec, PythonSource

if TYPE_CHECKING:
    import torch


def load_object(file: Path, name: str) -> Any:
    """Import a Python file by path and return one of its names; raise UsageError if either is missing or fails."""
    spec = importlib.util.spec_from_file_location(f"hwc_user_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UsageError("not a Python file", where=str(file))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UsageError(f"the file fails to import: {type(error).__name__}: {error}", where=str(file)) from error
    if not hasattr(module, name):
        known = ", ".join(sorted(key for key in vars(module) if not key.startswith("_"))[:8])
        raise UsageError(f"`{name}` is not in the file", where=str(file), hint=f"it defines: {known}")
    return getattr(module, name)


def load_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict from safetensors, or from a torch file without running any code in it.

    Raises IntegrityError for a pickle that needs more than tensors and containers.
    """
    import torch

    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except Exception as error:
            raise IntegrityError(f"not a safetensors file, or truncated: {error}", where=str(path)) from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise IntegrityError(
            "the checkpoint is a pickle that asks to run code, or is damaged; it was not loaded",
            where=str(path),
            hint="convert it to safetensors where it is trusted",
        ) from error
    if not isinstance(loaded, dict):
        raise IntegrityError(f"the checkpoint holds a {type(loaded).__name__}, not a state dict", where=str(path))
    return dict(loaded.get("state_dict", loaded))


def make_module(file: Path, factory: str, checkpoint: Path | None) -> torch.nn.Module:
    """Call a factory and load its weights; raise UsageError if it fails or the checkpoint is for another module."""
    import torch

    name = factory.rpartition(":")[2]
    make = load_object(file, name)
    try:
        module = make()
    except (Exception, SystemExit) as error:
        raise UsageError(f"the factory failed: {type(error).__name__}: {error}", where=f"{file}:{name}") from error
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"the factory returned {type(module).__name__}, not a torch.nn.Module", where=f"{file}:{name}")
    if checkpoint is not None:
        tensors = load_checkpoint(checkpoint)
        try:
            module.load_state_dict(tensors)
        except (RuntimeError, TypeError) as error:
            raise UsageError(f"the checkpoint does not fit the module: {error}", where=str(checkpoint)) from error
    return module.eval()


def export(spec: ModelSpec, source: PythonSource, file: Path, checkpoint: Path | None, work: Path) -> Path:
    """Build the module, load its weights and export it to ``work/model.onnx``; return the file's path.

    Named dimensions stay dynamic. Raises StepError with torch's own words if the export fails.
    """
    import torch

    module = make_module(file, source.factory, checkpoint)
    example, dynamic = _example(spec)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            program = torch.onnx.export(
                module,
                tuple(example.values()),
                dynamo=True,
                opset_version=spec.opset,
                input_names=list(example),
                output_names=list(spec.outputs),
                dynamic_shapes=tuple(dynamic.values()),
            )
    except Exception as error:
        raise StepError(
            f"torch.onnx.export cannot export this module: {str(error).splitlines()[0]}",
            where=source.factory,
            hint="the log holds torch's full report; try the module with torch.export.export first",
        ) from error
    program.save(str(work / "model.onnx"))
    return work / "model.onnx"


def _example(spec: ModelSpec) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    import torch

    sizes = {dim: max(2, size) for dim, size in spec.buckets[0].items()}
    dims = dict.fromkeys(sizes, torch.export.Dim.AUTO)
    generator = torch.Generator().manual_seed(0)
    example: dict[str, torch.Tensor] = {}
    dynamic: dict[str, Any] = {}
    for name, tensor in spec.inputs.items():
        shape = spec.static_shape(tensor, sizes)
        dtype = getattr(torch, tensor.dtype)
        values = torch.rand(shape, generator=generator) * (tensor.high - tensor.low) + tensor.low
        example[name] = values.to(dtype)
        dynamic[name] = {axis: dims[dim] for axis, dim in enumerate(tensor.shape) if isinstance(dim, str)}
    return example, dynamic
