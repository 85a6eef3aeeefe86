"""Hugging Face folders in compressed-tensors form: dequantised to a plain folder, their codes kept apart."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hwc import tensor_file
from hwc.capture import checkpoint
from hwc.capture.arrived import WEIGHT, Arrived
from hwc.capture.compressed_modules import CHUNK_VALUES, Module, Stored, read_scales, read_zeros
from hwc.capture.huggingface import TOKENIZER_FILES
from hwc.errors import IntegrityError, UsageError
from hwc.formats import BITS, Kind
from hwc.spec import compressed
from hwc.spec.compressed import Compressed

if TYPE_CHECKING:
    import numpy as np

CONFIG, GENERATION = "config.json", "generation_config.json"
FLOATS = ("F64", "F32", "F16", "BF16")
PACKED, SHAPE, SCALE, ZERO = ".weight_packed", ".weight_shape", ".weight_scale", ".weight_zero_point"
UNPACKED: dict[str, Kind] = {"I8": "int8", "F8_E4M3": "fp8"}
ACTIVATIONS = (
    ".input_scale", ".input_zero_point", ".output_scale", ".output_zero_point", ".k_scale", ".v_scale", ".q_scale",
)
"""How activations and the cache are rounded elsewhere; here they stay in float."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A folder's weights, by what they are."""

    folder: Path
    said: Compressed
    modules: tuple[Module, ...]
    plain: tuple[Stored, ...]

    def arrived(self) -> list[Arrived]:
        """List the weights that are quantised, with their codes."""
        return [module.arrived() for module in self.modules]


def read(folder: Path) -> Checkpoint | None:
    """Read what a folder holds, its weights apart; None if it is not in compressed-tensors form.

    Raises UsageError for a way of quantising that is not supported, IntegrityError naming a tensor that is missing, of
    another shape or type than the others say, or whose scales are not finite.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise IntegrityError(f"{CONFIG} is not JSON: {error}", where=str(path)) from error
    said = compressed.read(config, where=str(path))
    if said is None:
        return None
    listed = ((file, entry) for file in checkpoint.files(folder) for entry in checkpoint.listed(file))
    stored = {name: Stored(name=name, file=file, dtype=dtype, shape=shape) for file, (name, dtype, shape) in listed}
    names = sorted(name.removesuffix(PACKED).removesuffix(SCALE) for name in stored if name.endswith((PACKED, SCALE)))
    modules = tuple(_module(name, stored, said) for name in dict.fromkeys(names))
    if not modules:
        raise IntegrityError(f"{CONFIG} says that weights are quantised, and none is", where=str(folder))
    taken = {f"{module.name}{suffix}" for module in modules for suffix in (WEIGHT, PACKED, SHAPE, SCALE, ZERO)}
    plain = [one for name, one in sorted(stored.items()) if name not in taken and not name.endswith(ACTIVATIONS)]
    for one in plain:
        if one.dtype not in FLOATS:
            raise UsageError(
                f"tensor `{one.name}` of type {one.dtype} is no part of a compressed-tensors form that is supported",
                where=str(one.file),
            )
    return Checkpoint(folder=folder, said=said, modules=modules, plain=tuple(plain))


def _module(name: str, stored: Mapping[str, Stored], said: Compressed) -> Module:
    if (scale := stored.get(name + SCALE)) is None:
        raise _lacks(name + SCALE, stored)
    packed, plain = stored.get(name + PACKED), stored.get(name + WEIGHT)
    if packed is not None and plain is not None:
        raise plain.wrong("the same weight is there packed as well")
    if packed is not None:
        codes, kind, (n, k) = packed, *_packed(name, packed, stored, said)
    elif plain is None:
        raise _lacks(name + PACKED, stored)
    elif plain.dtype not in UNPACKED or len(plain.shape) != 2 or not all(plain.shape):
        raise plain.wrong("a weight with scales is a matrix of int8 or E4M3")
    else:
        codes, kind, (n, k) = plain, UNPACKED[plain.dtype], plain.shape
    scales = read_scales(scale, n, k)
    zero = stored.get(name + ZERO)
    zeros = None if zero is None else read_zeros(zero, kind, (n, scales.shape[1]))
    return Module(name=name, kind=kind, n=n, k=k, codes=codes, scales=scales, zeros=zeros)


def _packed(
    name: str, packed: Stored, stored: Mapping[str, Stored], said: Compressed
) -> tuple[Kind, tuple[int, int]]:
    """Return kind and [N, K] of a packed weight."""
    if (shape := stored.get(name + SHAPE)) is None:
        raise _lacks(name + SHAPE, stored)
    if shape.shape != (2,) or shape.dtype not in ("I64", "I32"):
        raise shape.wrong("the shape of a matrix is two integers")
    n, k = (int(size) for size in shape.read())
    fitting: list[Kind] = [
        kind for kind, bits in BITS.items()
        if kind != "fp8" and bits in said.bits and packed.shape == (n, -(-k * bits // 32))
    ]
    if packed.dtype != "I32" or len(fitting) != 1 or min(n, k) < 1:
        raise packed.wrong(f"these are no words of a weight [{n}, {k}] of {sorted(said.bits)} bits")
    return fitting[0], (n, k)


def _lacks(name: str, stored: Mapping[str, Stored]) -> IntegrityError:
    return IntegrityError(
        f"the checkpoint lacks tensor `{name}`", where=str(next(iter(stored.values())).file.parent),
        hint="the weights are incomplete; get the folder again",
    )


def to_folder(found: Checkpoint, out: Path) -> None:
    """Write a plain Hugging Face folder with float32 weights; some rows are in memory at a time.

    A weight is its codes' numbers times their scale, multiplied in float32: rounded to the scale's type, it is what
    compressed-tensors decompresses to.
    """
    import numpy as np

    out.mkdir(parents=True)
    config = json.loads((found.folder / CONFIG).read_bytes())
    del config[compressed.KEY]
    (out / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True))
    for name in (GENERATION, *TOKENIZER_FILES):
        if (found.folder / name).is_file():
            shutil.copyfile(found.folder / name, out / name)
    modules = {module.name + WEIGHT: module for module in found.modules}
    plain = {one.name: one for one in found.plain}
    shapes = {name: one.shape for name, one in plain.items()}
    shapes |= {name: (module.n, module.k) for name, module in modules.items()}
    entries = [tensor_file.Entry(name, np.dtype("f4"), shapes[name]) for name in sorted(shapes)]

    def parts(entry: tensor_file.Entry) -> Iterable[np.ndarray]:
        return modules[entry.name].values() if entry.name in modules else _widened(plain[entry.name])

    tensor_file.write(out / checkpoint.WEIGHTS, entries, parts)


def _widened(stored: Stored) -> Iterator[np.ndarray]:
    import torch

    if not stored.shape:
        yield stored.read().to(torch.float32).numpy()
        return
    step = max(1, CHUNK_VALUES // max(1, math.prod(stored.shape[1:])))
    for start in range(0, stored.shape[0], step):
        yield stored.read(slice(start, start + step)).to(torch.float32).contiguous().numpy()
