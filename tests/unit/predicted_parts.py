"""Chips and operations made up for tests of prediction."""

from __future__ import annotations

from typing import Any

from hwc.predict.operation import Operation
from hwc.predict.shape import LanguageShape
from hwc.spec.target import TargetSpec

LLAMA_70B = LanguageShape(
    layers=80, hidden=8192, inner=28672, heads=64, kv_heads=8, head_dim=128, vocabulary=32000, tied=False
)
"""Llama 2 70B: 68.98e9 parameters, 160 KiB of float16 cache a token in each of two."""


def npu(**changed: Any) -> TargetSpec:
    """Return a chip of one 128×128 array at 1 GHz, 32.77 TFLOP/s in bfloat16, 100 GB/s and 16 MiB on the chip."""
    rate = {"activations": "bfloat16", "weights": "bfloat16", "accumulator": "float32", "flop_per_s": 32.768e12}
    vector = {"activations": "float32", "weights": "float32", "accumulator": "float32", "flop_per_s": 1e12}
    hardware: dict[str, Any] = {
        "units": {
            "npu": {"kind": "matrix", "clock_hz": 1e9, "rows": 128, "columns": 128, "rates": [rate]},
            "simd": {"kind": "vector", "rates": [vector]},
        },
        "memories": {
            "sram": {"level": 1, "size_bytes": 16 << 20, "read_bytes_per_s": 1e13},
            "dram": {"level": 2, "size_bytes": 64 << 30, "read_bytes_per_s": 100e9},
        },
        "links": {"ring": {"peer": "chip", "bytes_per_s": 50e9, "latency_s": 1e-6}},
        "overheads": {"dispatch_s": 2e-6, "invocation_s": 10e-6},
        "power": {"tdp_w": 50},
        "system": {"chips": 8},
    }
    for key, value in changed.items():
        if value is None:
            hardware.pop(key)
        else:
            hardware[key] = value
    return TargetSpec.model_validate(
        {
            "name": "npu", "title": "made up for tests", "kind": "asic", "hardware_status": "available",
            "not_built": "made up", "execution": {"driver": "none"}, "encoding": {}, "hardware": hardware,
            "sources": {"hardware": {"kind": "estimated"}},
        }
    )


def product(m: int, n: int, k: int, **changed: Any) -> Operation:
    """Return a product with bfloat16 weights, every operand once."""
    fields: dict[str, Any] = {
        "op": "matmul", "name": f"{m}x{n}x{k}", "m": m, "n": n, "k": k, "points": m * n, "rank": 2,
        "activations": "bfloat16", "weights": "bfloat16", "flops": 2.0 * m * n * k, "read_bytes": 2.0 * m * k,
        "weight_bytes": 2.0 * n * k, "write_bytes": 2.0 * m * n,
    }
    return Operation(**{**fields, **changed})
