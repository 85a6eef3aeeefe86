"""A deep gated network as hwc captures one, and calibration cases for it, shared by tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from hwc import onnx_io
from hwc.quantise import scheme as schemes
from hwc.quantise.linears import Linear, assign, find
from hwc.quantise.scheme import Scheme


def deep(blocks: int, *, width: int = 64, hidden: int = 96, seed: int = 0) -> onnx.ModelProto:
    """Return y = x + Σ down(relu(gate(n)) · (up(n) + bias)), n = norm(x), float32 [batch, sequence, width].

    As in an exported model, one value made from the inputs alone (a scale) is read in every block.
    """
    rng = np.random.default_rng(seed)
    nodes = [helper.make_node("ReduceMax", ["x"], ["scale"], keepdims=1)]
    weights: dict[str, np.ndarray] = {}
    value = "x"
    for block in range(blocks):
        name = f"block.{block}"
        weights[f"{name}.norm.weight"] = (1 + 0.3 * rng.standard_normal(width)).astype(np.float32)
        for part, shape in {"gate": (width, hidden), "up": (width, hidden), "down": (hidden, width)}.items():
            made = rng.standard_normal(shape) / np.sqrt(shape[0])
            weights[f"{name}.{part}.weight"] = made.astype(np.float32)
        weights[f"{name}.up.bias"] = (0.1 * rng.standard_normal(hidden)).astype(np.float32)
        nodes += _block(name, value, last=block == blocks - 1)
        value = f"{name}.y"
    axes = ["batch", "sequence", width]
    graph = helper.make_graph(
        nodes, "graph", [helper.make_tensor_value_info("x", TensorProto.FLOAT, axes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, axes)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _block(name: str, x: str, *, last: bool) -> list[onnx.NodeProto]:
    def at(part: str) -> str:
        return f"{name}.{part}"

    return [
        helper.make_node("LayerNormalization", [x, at("norm.weight")], [at("n")]),
        helper.make_node("MatMul", [at("n"), at("gate.weight")], [at("g")]),
        helper.make_node("MatMul", [at("n"), at("up.weight")], [at("u")]),
        helper.make_node("Add", [at("up.bias"), at("u")], [at("ub")]),
        helper.make_node("Relu", [at("g")], [at("r")]),
        helper.make_node("Mul", [at("r"), at("ub")], [at("h")]),
        helper.make_node("MatMul", [at("h"), at("down.weight")], [at("d")]),
        helper.make_node("Div", [at("d"), "scale"], [at("s")]),
        helper.make_node("Add", [x, at("s")], ["y" if last else at("y")]),
    ]


def capture(folder: Path, model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Write what capture writes; return the detached graph and the weights."""
    folder.mkdir(parents=True)
    weights = onnx_io.detach(model)
    onnx_io.save(model, folder / "graph.onnx")
    save_file(weights, folder / "weights.safetensors")
    return model, weights


def rows(cases: int, *, sequence: int = 24, width: int = 64, seed: int = 1) -> list[dict[str, np.ndarray]]:
    """Return cases whose channels have different sizes, are correlated and have a mean, as activations have."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(7).standard_normal((width, width)) / 8 + np.diag(np.geomspace(0.1, 3, width))
    offset = np.random.default_rng(8).standard_normal(width)
    return [
        {"x": (rng.standard_normal((1, sequence, width)) @ mix + offset).astype(np.float32)} for _ in range(cases)
    ]


def save_cases(folder: Path, cases: list[dict[str, np.ndarray]]) -> Path:
    """Write cases as golden cases lie in a store."""
    folder.mkdir(parents=True)
    arrays = {f"{number:04d}.{name}": value for number, row in enumerate(cases) for name, value in row.items()}
    np.savez(folder / "cases.npz", **arrays)
    return folder


def linears(model: onnx.ModelProto) -> list[Linear]:
    """Return the linears that may be quantised in groups of 32."""
    return [linear for linear in assign(find(model), scheme_of("w4a16").formats) if linear.format]


def scheme_of(name: str) -> Scheme:
    """Return a scheme that leaves embeddings in float."""
    return schemes.find(name).of_model("float")
