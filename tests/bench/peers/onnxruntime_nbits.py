"""Quantise an ONNX graph's linears with ONNX Runtime's own MatMulNBits quantiser, in a process of its own.

    onnxruntime_nbits.py METHOD GRAPH.onnx KEPT.json CASES.npz OUT.safetensors COST.json GROUP

METHOD is a key of METHODS. KEPT lists the weights to read back; other products with a weight stay float. CASES holds
the feeds of calibration, ``<case>/<input>``; only GPTQ looks at them. OUT holds each weight as float32 [K, N].
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

MS_DOMAIN = "com.microsoft"


def main(method: str, graph: Path, kept: list[str], cases: Path, out: Path, cost: Path, group: int) -> None:
    """Quantise, and write the weights and what it cost."""
    import onnx
    import onnxruntime
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits
    from safetensors.numpy import save_file

    model = onnx.load(graph)
    weights = {node.output[0]: node.input[1] for node in model.graph.node if node.op_type == "MatMul"}
    excluded = [node.name for node in model.graph.node if node.op_type == "MatMul" and node.input[1] not in kept]
    started, cpu = time.perf_counter(), time.process_time()
    config = METHODS[method](nbits, group, cases)
    quantiser = nbits.MatMulNBitsQuantizer(
        model, block_size=group, is_symmetric=method != "k_quant", nodes_to_exclude=excluded, algo_config=config
    )
    quantiser.process()
    told: dict[str, Any] = {
        "wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - cpu,
        "versions": {"onnxruntime": onnxruntime.__version__}, "settings": method,
    }
    save_file(read_back(quantiser.model.model, weights, kept), out)
    status = Path("/proc/self/status").read_text()
    told["peak_rss_bytes"] = int(status.split("VmHWM:")[1].split()[0]) * 1024
    cost.write_text(json.dumps(told))


def _gptq(nbits: Any, _group: int, cases: Path) -> Any:
    reader = Feeds(cases)
    return nbits.GPTQWeightOnlyQuantConfig(calibration_data_reader=reader, actorder=True, mse=True)


METHODS: Mapping[str, Callable[[Any, int, Path], Any]] = {
    "default-sym": lambda nbits, group, _: nbits.DefaultWeightOnlyQuantConfig(block_size=group, is_symmetric=True),
    "default-asym": lambda nbits, group, _: nbits.DefaultWeightOnlyQuantConfig(block_size=group, is_symmetric=False),
    "k_quant": lambda nbits, _group, _: nbits.KQuantWeightOnlyQuantConfig(),
    "hqq": lambda nbits, group, _: nbits.HQQWeightOnlyQuantConfig(block_size=group),
    "gptq": _gptq,
}


class Feeds:
    """The calibration data reader that ONNX Runtime asks for."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as stored:
            named = {name: stored[name] for name in stored.files}
        cases = sorted({name.partition("/")[0] for name in named}, key=int)
        self._rows = [
            {name.partition("/")[2]: value for name, value in named.items() if name.partition("/")[0] == case}
            for case in cases
        ]
        self._at = 0

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next call's feeds, or None."""
        self._at += 1
        return self._rows[self._at - 1] if self._at <= len(self._rows) else None

    def __iter__(self) -> Iterable[dict[str, np.ndarray]]:
        """Yield every call's feeds."""
        return iter(self._rows)


def read_back(model: Any, weights: Mapping[str, str], kept: Iterable[str]) -> dict[str, np.ndarray]:
    """Return the float32 [K, N] weight that every MatMulNBits stands for; raise SystemExit if a kept one has none.

    ``weights`` names the float weight of each product by the product's result.
    """
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type != "MatMulNBits" or node.domain != MS_DOMAIN:
            continue
        arrays = [numpy_helper.to_array(tensors[name]) for name in node.input[1:] if name]
        sizes = {entry.name: entry.i for entry in node.attribute}
        found[weights[node.output[0]]] = dequantise(*arrays, k=sizes["K"], n=sizes["N"], group=sizes["block_size"])
    if missing := sorted(set(kept) - set(found)):
        raise SystemExit(f"{len(missing)} weights were not quantised, as {missing[0]}")
    return {name: found[name] for name in kept}


def dequantise(
    codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None = None, *, k: int, n: int, group: int
) -> np.ndarray:
    """Return float32 [K, N] of MatMulNBits' 4-bit operands: the low nibble is the even k, no zeros means 8."""
    groups = -(-k // group)
    packed = codes.reshape(n, groups, group // 2)
    wide = np.stack([packed & 15, packed >> 4], axis=-1).reshape(n, groups, group).astype(np.float32)
    if zeros is None:
        middle = np.full((n, groups), 8, np.float32)
    elif zeros.dtype == np.uint8:
        nibbles = zeros.reshape(n, -1)
        middle = np.stack([nibbles & 15, nibbles >> 4], axis=-1).reshape(n, -1)[:, :groups].astype(np.float32)
    else:
        middle = zeros.reshape(n, groups).astype(np.float32)
    values = (wide - middle[..., None]) * scales.reshape(n, groups, 1).astype(np.float32)
    return np.ascontiguousarray(values.reshape(n, groups * group)[:, :k].T)


if __name__ == "__main__":
    main(
        sys.argv[1], Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text()), *map(Path, sys.argv[4:7]),
        int(sys.argv[7]),
    )
