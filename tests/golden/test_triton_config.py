"""What Triton is told about a model is written down, and is what its golden file says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hwc.serve.triton_config import VARIABLE, ModelConfig, Tensor, WarmUp, text

GOLDEN = Path(__file__).with_name("triton-config")  # pytest makes folders beside tests importable: no package's name
WRITE = os.environ.get("HWC_GOLDEN") == "write"  # read here: tests run without any HWC_* setting

IDS, MASK = (Tensor(name=name, dtype="int64", dims=(VARIABLE,)) for name in ("input_ids", "attention_mask"))
CONFIGS = {
    "batched": ModelConfig(
        name="minilm-llvm-cpu-host-w4a16-iree",
        backend="python",
        max_batch=8,
        inputs=(IDS, MASK),
        outputs=(Tensor(name="sentence_embedding", dtype="float32", dims=(384,)),),
        preferred_batches=(4, 8),
        queue_delay_us=6200,
        warm_ups=(
            WarmUp(
                name="b8_s128",
                batch=8,
                inputs=(
                    (Tensor(name="input_ids", dtype="int64", dims=(128,)), "0-0"),
                    (Tensor(name="attention_mask", dtype="int64", dims=(128,)), "0-1"),
                ),
            ),
        ),
        parameters=(("content_sha256", "sha256:" + "a" * 64), ("program_sha256", "sha256:" + "b" * 64)),
    ),
    "whole": ModelConfig(
        name="image-fp32-onnxruntime",
        backend="onnxruntime",
        model_file="model.onnx",
        max_batch=0,
        inputs=(Tensor(name='odd "name"\n\\', dtype="float16", dims=(1, 3, VARIABLE, VARIABLE)),),
        outputs=(Tensor(name="mask", dtype="bool", dims=(1, VARIABLE)),),
        preferred_batches=(),
        queue_delay_us=0,
        warm_ups=(),
        parameters=(),
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_is_what_its_golden_file_says(name: str) -> None:
    path = GOLDEN / f"{name}.pbtxt"
    if WRITE:
        path.write_text(text(CONFIGS[name]))

    assert text(CONFIGS[name]) == path.read_text(), "look at why it changed, then run `make golden`"
