"""Quantise a Hugging Face folder with llmcompressor's GPTQ; run in an environment that has llmcompressor.

    llmcompressor_gptq.py FOLDER IDS.npy OUT.safetensors COST.json GROUP

IDS are token ids, int64 [windows, tokens]. OUT holds every quantised weight as float32 [N, K] by transformers' name.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np


def main(folder: str, ids: np.ndarray, out: Path, cost: Path, group: int) -> None:
    """Quantise, and write the weights and what it cost."""
    import torch
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    weights = QuantizationArgs(
        num_bits=4, type="int", strategy="group", group_size=group, symmetric=True, observer="mse"
    )
    recipe = GPTQModifier(
        config_groups={"body": QuantizationScheme(targets=["Linear"], weights=weights)}, ignore=["lm_head"]
    )
    data = Dataset.from_dict({"input_ids": ids.tolist(), "attention_mask": np.ones_like(ids).tolist()})
    started, cpu = time.perf_counter(), time.process_time()
    oneshot(
        model=model, dataset=data, recipe=recipe, max_seq_length=ids.shape[1], num_calibration_samples=len(ids),
        shuffle_calibration_samples=False, pipeline="sequential", processor=folder,
    )
    told = {
        "wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - cpu,
        "versions": {name: metadata.version(name) for name in ("llmcompressor", "torch", "transformers")},
        "settings": str(recipe.model_dump(exclude_none=True, mode="json")),
    }
    write(model, out)
    status = Path("/proc/self/status").read_text()
    told["peak_rss_bytes"] = int(status.split("VmHWM:")[1].split()[0]) * 1024
    cost.write_text(json.dumps(told))


def write(model: Any, out: Path) -> None:
    """Write what the stored codes and scales stand for, whatever the modules hold just now."""
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from safetensors.torch import save_file

    found = {}
    for name, module in model.named_modules():
        if getattr(module, "weight_scale", None) is None:
            continue
        if getattr(module, "weight_g_idx", None) is not None:
            raise SystemExit(f"{name}: columns were regrouped, which this script does not undo")
        value = fake_quantize(
            x=module.weight.data, scale=module.weight_scale.data, args=module.quantization_scheme.weights,
            zero_point=getattr(module, "weight_zero_point", None),
        )
        found[f"{name}.weight"] = value.float().contiguous()
    save_file(found, out)


if __name__ == "__main__":
    main(sys.argv[1], np.load(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
