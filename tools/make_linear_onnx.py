"""Make models/data/linear.onnx: a two-layer classifier as a plain ONNX file, the same bytes on every run.

    python tools/make_linear_onnx.py models/data/linear.onnx

Weights come from integers of a seeded generator divided by a constant, so no library's rounding enters them.
"""

from __future__ import annotations

import hashlib
import random
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SEED = 20261122
FEATURES, HIDDEN, CLASSES = 128, 256, 16


def weight(rng: random.Random, rows: int, columns: int) -> np.ndarray:
    """Draw a matrix whose products keep the variance of their input."""
    drawn = [sum(rng.randint(-4096, 4096) for _ in range(3)) for _ in range(rows * columns)]
    return (np.array(drawn, np.float32) / np.float32(4096 * rows**0.5)).reshape(rows, columns)


def build() -> onnx.ModelProto:
    """Return the model: x @ W1 + b1, ReLU, @ W2 + b2."""
    rng = random.Random(SEED)
    values = {
        "hidden.weight": weight(rng, FEATURES, HIDDEN),
        "hidden.bias": weight(rng, 1, HIDDEN)[0] / np.float32(8),
        "classes.weight": weight(rng, HIDDEN, CLASSES),
        "classes.bias": weight(rng, 1, CLASSES)[0] / np.float32(8),
    }
    nodes = [
        helper.make_node("MatMul", ["features", "hidden.weight"], ["hidden.product"], name="hidden.matmul"),
        helper.make_node("Add", ["hidden.product", "hidden.bias"], ["hidden.sum"], name="hidden.add"),
        helper.make_node("Relu", ["hidden.sum"], ["hidden.output"], name="hidden.relu"),
        helper.make_node("MatMul", ["hidden.output", "classes.weight"], ["classes.product"], name="classes.matmul"),
        helper.make_node("Add", ["classes.product", "classes.bias"], ["logits"], name="classes.add"),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", FEATURES])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, producer_name="hwc", opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    """Write the model and print its digest."""
    payload = build().SerializeToString(deterministic=True)
    Path(sys.argv[1]).write_bytes(payload)
    print(f"{len(payload)} bytes, sha256:{hashlib.sha256(payload).hexdigest()}")


if __name__ == "__main__":
    main()
