"""A build killed in the middle of quantising goes on there, and makes the bundle that an undisturbed one makes."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from command import RUN_TIMEOUT_S, Cli

LAYERS, WIDTH = 24, 256
BUILD = ("build", "./stack.onnx", "-t", "llvm-cpu-host", "-q", "w4a16", "--smoke", "--format", "json")


def stack(path: Path) -> None:
    """Write x → relu(x · W) again and again."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for layer in range(LAYERS):
        made = rng.standard_normal((WIDTH, WIDTH)) * np.sqrt(2 / WIDTH)
        weights.append(numpy_helper.from_array(made.astype(np.float32), f"layer.{layer}.weight"))
        nodes.append(helper.make_node("MatMul", [f"x{layer}", f"layer.{layer}.weight"], [f"p{layer}"]))
        nodes.append(helper.make_node("Relu", [f"p{layer}"], [f"x{layer + 1}"]))
    graph = helper.make_graph(
        nodes, "stack", [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info(f"x{LAYERS}", TensorProto.FLOAT, ["batch", WIDTH])], weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)


def kept(cli: Cli) -> set[Path]:
    return set((cli.home / "work").glob("quantise-*/layers/*.codes.safetensors"))


def test_a_build_killed_while_it_quantises_goes_on_there_to_the_same_bundle(cli: Cli, tmp_path: Path) -> None:
    stack(tmp_path / "stack.onnx")
    process = cli.start(*BUILD)
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while len(kept(cli)) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "nothing was quantised"
        time.sleep(0.005)
    process.kill()
    process.communicate()
    left = kept(cli)
    assert 3 <= len(left) < LAYERS
    again = cli(*BUILD).ok().json()
    assert kept(cli) == set()
    assert list((cli.home / "work").iterdir()) == []
    log = next((cli.home / "store" / "quantise").glob("*/step.log")).read_text()
    assert f"layer {len(left)} of {LAYERS}" not in log
    assert f"layer {LAYERS} of {LAYERS}" in log
    undisturbed = Cli(home=tmp_path / "other", store=tmp_path / "other-store", cwd=tmp_path)
    whole = undisturbed(*BUILD).ok().json()
    assert _content(again) == _content(whole)


def _content(built: list[dict[str, object]]) -> list[object]:
    return [variant["identity"]["content_sha256"] for bundle in built for variant in bundle["variants"]]
