"""Operators that IREE computes inexactly are spelled out, and then compute what they should."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hwc import onnx_io
from hwc.lower import exact, iree
from hwc.lower.flags import compiler_flags
from hwc.lower.passes.merge import merge_buckets
from hwc.program import Device, Function, Port, Program, Slice
from hwc.runtime.session import Session
from hwc.spec.target import Lowering

LIMITS = iree.Limits(timeout_s=120, memory_bytes=8 << 30)
FLAGS = compiler_flags(Lowering(backend="llvm-cpu", cpu="x86-64-v3"), quantised=False)


def graph(operator: str, dtype: int = TensorProto.FLOAT, **attributes: str) -> onnx.ModelProto:
    node = helper.make_node(operator, ["x"], ["y"], name="n", **attributes)
    values = [helper.make_tensor_value_info(name, dtype, [4, 512]) for name in ("x", "y")]
    made = helper.make_graph([node], "main_graph", values[:1], values[1:])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def computed(model: onnx.ModelProto, x: np.ndarray, work: Path) -> np.ndarray:
    """Compile a graph of one input and one output, and run it."""
    onnx_io.save(model, work / "f.onnx")
    text = iree.import_graph(work / "f.onnx", inputs=None, work=work, limits=LIMITS)
    code, _ = iree.compile_module(merge_buckets({"f": text}), FLAGS, work=work, limits=LIMITS)
    ports = [Port(name=name, dtype="float32", shape=(4, 512)) for name in ("x", "y")]
    function = Function(name="f", bucket={}, inputs=(ports[0],), outputs=(ports[1],))
    program = Program(
        code=Slice(path=code), parameters=(), functions=(function,), device=Device(driver="local-sync")
    )
    return Session(program).call("f", {"x": x})["y"]


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize(
    ("model", "true", "largest"),
    [
        (graph("Gelu", approximate="tanh"), gelu, 9.0),
        (graph("Sin"), np.sin, 30_000.0),
        (graph("Cos"), np.cos, 30_000.0),
    ],
    ids=["gelu", "sin", "cos"],
)
def test_what_is_spelled_out_is_computed_to_the_last_bits_of_float32(
    model: onnx.ModelProto, true: Callable[[np.ndarray], np.ndarray], largest: float, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).uniform(-largest, largest, (4, 512)).astype(np.float32)
    exact.spell_out(model)
    onnx.checker.check_model(model, full_check=True)
    assert np.abs(computed(model, x, tmp_path) - true(x.astype(np.float64))).max() < 1e-6


@pytest.mark.parametrize("model", [graph("Gelu", approximate="none"), graph("Tanh"), graph("Sin", TensorProto.DOUBLE)])
def test_other_operators_and_types_stay_as_they_are(model: onnx.ModelProto) -> None:
    before = model.SerializeToString(deterministic=True)
    exact.spell_out(model)
    assert model.SerializeToString(deterministic=True) == before


def test_every_node_gets_values_of_its_own() -> None:
    model = graph("Sin")
    model.graph.node.append(helper.make_node("Cos", ["x"], ["z"], name="m"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [4, 512]))
    exact.spell_out(model)
    results = [name for node in model.graph.node for name in node.output]
    constants = [tensor.name for tensor in model.graph.initializer]
    assert len(results) == len(set(results)) == 18
    assert len(constants) == len(set(constants)) == 4
