"""A small captured model whose weights arrived quantised, shared by tests of what is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from hwc import onnx_io
from hwc.capture import arrived
from hwc.capture.arrived import Arrived, Kept, Rows
from hwc.formats import BITS, Format
from hwc.quantise.codes import FP8_MAX, Codes, dequantise

ROWS, WIDTH, INNER = 320, 128, 64
IDS = np.array([[0, 5, 319], [7, 7, 100]], np.int64)
SHAPES = {"table": (ROWS, WIDTH), "up": (INNER, WIDTH), "down": (WIDTH, INNER)}
"""Layer to [N, K]."""


def random_codes(form: Format, n: int, k: int, seed: int = 0) -> Codes:
    """Return random codes of a format, as a file could hold them; scales of either sign."""
    rng = np.random.default_rng(seed)
    if form.kind == "fp8":
        import ml_dtypes

        values = np.clip(rng.standard_normal((n, k)) * 100, -FP8_MAX, FP8_MAX).astype(ml_dtypes.float8_e4m3fn)
        return Codes(kind="fp8", codes=values.view(np.uint8), scales=rng.random((n, 1)).astype(np.float32) / 1000)
    shape, top = (n, k // form.group_size), 1 << BITS[form.kind]
    scales = (rng.standard_normal(shape) / top).astype(np.float16)
    return Codes(
        kind=form.kind, codes=rng.integers(0, top, (n, k)).astype(np.uint8), scales=scales,
        zeros=rng.integers(0, top, shape).astype(np.uint8) if form.zeros == "point" else None,
        offsets=rng.standard_normal(shape).astype(np.float16) if form.zeros == "offset" else None,
    )


def graph(weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Return logits = (rows + down(up(rows))) · tableᵀ, rows of the table by number; not detached."""
    nodes = [
        helper.make_node("Gather", ["table.weight", "ids"], ["rows"]),
        helper.make_node("MatMul", ["rows", "up.weight"], ["inner"]),
        helper.make_node("MatMul", ["inner", "down.weight"], ["outer"]),
        helper.make_node("Add", ["rows", "outer"], ["sum"]),
        helper.make_node("Transpose", ["table.weight"], ["across"], perm=[1, 0]),
        helper.make_node("MatMul", ["sum", "across"], ["logits"]),
    ]
    for node in nodes:
        node.name = f"node.{node.output[0]}"
    made = helper.make_graph(
        nodes, "main_graph", [helper.make_tensor_value_info("ids", TensorProto.INT64, IDS.shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [*IDS.shape, ROWS])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def captured(
    folder: Path, codes: Mapping[str, Codes], *, types: Mapping[str, str] | None = None, broken: Sequence[str] = ()
) -> Path:
    """Write what capture writes of a model with these codes; other layers get float weights.

    ``types`` lists layers that arrived in a type whose codes have no form here; the weights of ``broken`` layers are
    not those that their codes stand for.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(5)
    weights: dict[str, np.ndarray] = {}
    for layer, shape in SHAPES.items():
        value = dequantise(codes[layer]) if layer in codes else rng.standard_normal(shape).astype(np.float32)
        value = value + np.float32(1e-3) if layer in broken else value
        weights[f"{layer}.weight"] = value if layer == "table" else value.T
    model = graph(weights)
    save_file(onnx_io.detach(model), folder / "weights.safetensors")
    onnx_io.save(model, folder / "graph.onnx")
    kept = [
        Arrived(name=f"{layer}.weight", type=f"type of {layer}", kept=kept_of(entry)) for layer, entry in codes.items()
    ]
    others = [Arrived(name=f"{layer}.weight", type=kind) for layer, kind in (types or {}).items()]
    arrived.write([*kept, *others], folder)
    return folder


def kept_of(entry: Codes, *, step: int = 50) -> Kept:
    """Return codes as a source yields them, some rows at a time."""
    n, k = entry.codes.shape

    def rows() -> Iterator[Rows]:
        for start in range(0, n, step):
            part = slice(start, start + step)
            yield Rows(
                codes=entry.codes[part], scales=entry.scales[part],
                zeros=None if entry.zeros is None else entry.zeros[part],
                offsets=None if entry.offsets is None else entry.offsets[part],
            )

    return Kept(kind=entry.kind, n=n, k=k, groups=entry.scales.shape[1], zeros=entry.zero_kind, rows=rows)
