"""A Hugging Face folder's weights as they are run: whole, finite, and in float32 where torch can map them.

transformers maps the tensors of a safetensors file that have the type it is asked for, and copies all others. A copy in
float32 on disk is what keeps a model of 16-bit weights out of memory.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwc import tensor_file
from hwc.errors import IntegrityError
from hwc.files import confined

if TYPE_CHECKING:
    import numpy as np

WIDENED = frozenset({"BF16", "F16", "F64"})
CHUNK_VALUES = 1 << 22
"""Values made float at a time: 16 MiB."""
CONFIGS = ("config.json", "generation_config.json")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def files(folder: Path) -> list[Path]:
    """Return the files that transformers reads a folder's weights from: one, or those its index names.

    Raises IntegrityError for an index that is damaged or names a file that is not in the folder.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / INDEX
    if not index.is_file():
        raise IntegrityError(f"the folder has neither {WEIGHTS} nor {INDEX}", where=str(folder))
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError("not an index of weights: it needs `weight_map`", where=str(index)) from error
    found = [confined(folder, str(name)) for name in names]
    for file in found:
        if not file.is_file():
            raise IntegrityError(f"a file of the weights is missing: {file.name}", where=str(folder))
    return found


def in_float32(folder: Path, out: Path) -> Path:
    """Return a folder whose float weights are float32: the given one, or ``out`` with a copy of it.

    One part of a tensor is in memory at a time. Raises IntegrityError for a file that is no whole safetensors file.
    """
    places = {name: (file, kind, shape) for file in files(folder) for name, kind, shape in listed(file)}
    kinds = {kind for _, kind, _ in places.values()}
    if not kinds & WIDENED or kinds - WIDENED - {"F32"}:
        return folder  # in place, or with types that only transformers knows what to make of
    import numpy as np

    out.mkdir(parents=True)
    for name in CONFIGS:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    entries = [tensor_file.Entry(name, np.dtype("f4"), places[name][2]) for name in sorted(places)]
    tensor_file.write(out / WEIGHTS, entries, lambda entry: _widened(places[entry.name][0], entry.name))
    return out


def listed(file: Path) -> list[tuple[str, str, tuple[int, ...]]]:
    """Return name, type and shape of every tensor in a file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 it is no mapping
            return [(name, one.get_dtype(), tuple(one.get_shape())) for name, one in slices.items()]
    except (SafetensorError, OSError) as error:
        raise IntegrityError(
            f"not a whole safetensors file: {error}", where=str(file), hint="get the file again"
        ) from error


def _widened(file: Path, name: str) -> Iterable[np.ndarray]:
    import torch
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        tensor = opened.get_tensor(name).reshape(-1)
        for start in range(0, tensor.numel(), CHUNK_VALUES):
            yield tensor[start : start + CHUNK_VALUES].to(torch.float32).numpy()


def require_whole(model: Any, told: Mapping[str, Any], folder: Path) -> list[str]:
    """Check what transformers tells of loading; return the names of tensors that the model does not have.

    Raises IntegrityError naming tensors that are missing, which transformers would make up at random, or that have
    another shape than the configuration says.
    """
    if missing := sorted(told["missing_keys"]):
        raise IntegrityError(
            f"the checkpoint lacks {_named(missing)}", where=str(folder),
            hint="the weights are incomplete, or `config.json` is of another model",
        )
    if wrong := sorted(told["mismatched_keys"]):
        raise IntegrityError(
            f"the shape of {_named(wrong)} is not what `config.json` says: {list(model.get_parameter(wrong[0]).shape)}",
            where=str(folder), hint="the configuration is of another model than the weights",
        )
    return sorted(told["unexpected_keys"])


def require_finite(model: Any, folder: Path) -> None:
    """Raise IntegrityError naming the first weight of a model that holds NaN or infinity."""
    import torch

    for name, weight in model.named_parameters():
        for part in weight.detach().reshape(-1).split(CHUNK_VALUES):
            if not torch.isfinite(part).all():
                raise IntegrityError(
                    f"weight `{name}` holds NaN or infinity", where=str(folder),
                    hint="the checkpoint is damaged or diverged in training",
                )


def _named(names: list[str]) -> str:
    first = ", ".join(f"`{name}`" for name in names[:3])
    return f"tensor{'s' if len(names) > 1 else ''} {first}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
