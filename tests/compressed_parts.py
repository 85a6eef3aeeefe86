"""Folders in compressed-tensors form, written by hand: what llm-compressor would save, from codes that are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A weight as the folder has it: ``(codes − zeros) · scales``, or E4M3 · scales."""

    codes: np.ndarray
    """uint8 [N, K], counted from 0; E4M3 bits for fp8."""
    scales: np.ndarray
    """float32 [N, G]."""
    zeros: np.ndarray
    """float32 [N, G]."""

    def values(self, kind: str) -> np.ndarray:
        """Return float32 [N, K]."""
        import ml_dtypes

        n, k = self.codes.shape
        numbers = self.codes.view(ml_dtypes.float8_e4m3fn) if kind == "fp8" else self.codes
        grouped = numbers.astype(np.float32).reshape(n, self.scales.shape[1], -1)
        return ((grouped - self.zeros[:, :, None]) * self.scales[:, :, None]).reshape(n, k)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Pack uint8 [N, K] to int32 [N, K · bits / 32], the first code in the lowest bits; what is missing is 0."""
    per_word = 32 // bits
    padded = np.pad(codes, ((0, 0), (0, -codes.shape[1] % per_word))).astype(np.uint32)
    words = padded.reshape(len(codes), -1, per_word) << (np.arange(per_word, dtype=np.uint32) * bits)
    return np.bitwise_or.reduce(words, axis=2).view(np.int32)


def config(kind: str, group: int, zeros: bool) -> dict[str, Any]:
    """Return what config.json says of it."""
    weights = {
        "num_bits": 4 if kind == "int4" else 8, "type": "float" if kind == "fp8" else "int", "symmetric": not zeros,
        "strategy": "group" if group else "channel", "group_size": group or None, "actorder": None, "dynamic": False,
    }
    scheme = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors", "format": "float-quantized" if kind == "fp8" else "pack-quantized",
        "quantization_status": "compressed", "config_groups": {"group_0": scheme}, "ignore": ["lm_head"],
    }


def write(
    folder: Path, kind: str = "int4", *, group: int = 32, zeros: bool = False, dtype: str = "bfloat16", seed: int = 0
) -> dict[str, Given]:
    """Turn a plain folder of a decoder into a compressed one, in place; return its new weights by module."""
    import torch
    from safetensors.torch import load_file, save_file

    rng = np.random.default_rng(seed)
    tensors = {name: value.to(getattr(torch, dtype)) for name, value in load_file(folder / "model.safetensors").items()}
    given: dict[str, Given] = {}
    for name in sorted(name for name in tensors if name.endswith("_proj.weight")):
        n, k = tensors.pop(name).shape
        module, groups = name.removesuffix(".weight"), k // group if group else 1
        largest = {"int4": 8, "int8": 128, "fp8": 448}[kind]
        scales = torch.from_numpy(rng.uniform(0.1, 0.4, (n, groups)) / largest).to(getattr(torch, dtype))
        top = 16 if kind == "int4" else 256
        codes = rng.integers(0, top, (n, k)).astype(np.uint8)
        if kind == "fp8":
            codes[codes & 0x7F == 0x7F] = 0  # NaN
        middle = 0 if kind == "fp8" else top // 2
        points = rng.integers(0, top, (n, groups)) if zeros else np.full((n, groups), middle)
        given[module] = Given(codes=codes, scales=scales.float().numpy(), zeros=points.astype(np.float32))
        tensors[f"{module}.weight_scale"] = scales
        if kind == "fp8":
            tensors[f"{module}.weight"] = torch.from_numpy(codes).view(torch.float8_e4m3fn)
            continue
        bits = 4 if kind == "int4" else 8
        tensors[f"{module}.weight_packed"] = torch.from_numpy(pack(codes, bits))
        tensors[f"{module}.weight_shape"] = torch.tensor([n, k])
        if zeros:
            packed = pack(np.ascontiguousarray(points.T).astype(np.uint8), bits).T
            tensors[f"{module}.weight_zero_point"] = torch.from_numpy(np.ascontiguousarray(packed))
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")
    change_config(folder, lambda told: told.update(quantization_config=config(kind, group, zeros)))
    return given


def change_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a folder's config.json in place."""
    path = folder / "config.json"
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


def change_tensors(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a folder's tensors in place."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")
