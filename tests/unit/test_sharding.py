"""Sharding: linears split by columns, then rows, over devices of one artefact, give the unsharded model's answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from shard_parts import answer, flow_and_code, loaded, plain

from hwc import onnx_io
from hwc.bundle.fanout import fanout
from hwc.lower import links
from hwc.lower.passes.devices import MOVE, PART, write_parts
from hwc.lower.sharding import Sharded, shard
from hwc.serve.candidate import Candidate, Cell
from hwc.serve.request import Request
from hwc.serve.router import decide
from hwc.spec.target import TargetSpec

ROWS, WIDTH, INNER = 4, 16, 32
NODES: dict[str, list[tuple[Any, ...]]] = {
    "mlp": [
        ("MatMul", ["x", "up"], "h"), ("Add", ["h", "up_bias"], "b"), ("Tanh", ["b"], "t"),
        ("MatMul", ["t", "down"], "d"), ("Add", ["d", "x"], "y"),
    ],
    "gated": [
        ("MatMul", ["x", "gate"], "g"), ("Sigmoid", ["g"], "s"), ("MatMul", ["x", "up"], "u"),
        ("Mul", ["s", "u"], "p"), ("MatMul", ["p", "down"], "y"),
    ],
    "softmax between": [("MatMul", ["x", "up"], "h"), ("Softmax", ["h"], "s"), ("MatMul", ["s", "down"], "y")],
    "split result": [("MatMul", ["x", "up"], "h"), ("Relu", ["h"], "y")],
    "gemm": [
        ("Gemm", ["x", "up_t", "up_bias"], "h", {"transB": 1}), ("Relu", ["h"], "r"),
        ("Gemm", ["r", "down_t", "down_bias"], "y", {"transB": 1}),
    ],
}
SHAPES = {
    "up": (WIDTH, INNER), "gate": (WIDTH, INNER), "down": (INNER, WIDTH), "up_t": (INNER, WIDTH),
    "down_t": (WIDTH, INNER), "up_bias": (INNER,), "down_bias": (WIDTH,),
}


def graph(nodes: list[tuple[Any, ...]]) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return a detached static graph and its weights."""
    used = {name for node in nodes for name in node[1]}
    rng = np.random.default_rng(11)
    weights = {name: rng.normal(size=SHAPES[name]).astype(np.float32) for name in SHAPES if name in used}
    made = [
        helper.make_node(op, inputs, [output], name=f"/{output}", **(more[0] if more else {}))
        for op, inputs, output, *more in nodes
    ]
    last = INNER if len(nodes) == 2 else WIDTH
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (ROWS, WIDTH))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, (ROWS, last))
    inputs = [x, *(helper.make_tensor_value_info(n, TensorProto.FLOAT, v.shape) for n, v in weights.items())]
    model = helper.make_model(
        helper.make_graph(made, "main_graph", inputs, [y]), opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    )
    model = onnx.shape_inference.infer_shapes(model)
    onnx_io.set_weight_names(model, list(weights))
    return model, weights


def run(code: Path, weights: dict[str, np.ndarray], x: np.ndarray, shape: tuple[int, ...], devices: int) -> np.ndarray:
    return loaded(code, plain(weights), {"x": x}, shape, devices).call("main", {"x": x})["y"]


@pytest.mark.parametrize(("name", "devices"), [*((name, 2) for name in NODES), ("mlp", 4)])
def test_a_sharded_model_answers_as_the_whole_one(name: str, devices: int, tmp_path: Path) -> None:
    whole, weights = graph(NODES[name])
    x = np.random.default_rng(3).normal(size=(ROWS, WIDTH)).astype(np.float32)
    expected = answer(whole, {"x": x, **weights})
    split, _ = graph(NODES[name])
    told = shard(split, devices)
    assert told.columns
    assert told.whole == ()
    flow, code = flow_and_code(split, tmp_path, devices)
    for device in range(devices):
        assert f"affinity<@device_{device}>" in flow
    moved = links.transfers(flow)["main"]
    assert moved["transfers"] == sum(node.op_type == MOVE for node in split.graph.node)
    found = run(code, weights, x, expected.shape, devices)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=5e-6)


def test_an_artefact_of_two_chips_is_refused_on_one(tmp_path: Path) -> None:
    split, weights = graph(NODES["mlp"])
    shard(split, 2)
    _, code = flow_and_code(split, tmp_path, 2)
    with pytest.raises(Exception, match="device_1"):
        run(code, weights, np.zeros((ROWS, WIDTH), np.float32), (ROWS, WIDTH), devices=1)


def sharded(name: str, devices: int = 2) -> tuple[Sharded, onnx.ModelProto]:
    model, _ = graph(NODES[name])
    return shard(model, devices), model


def test_between_a_split_by_columns_and_one_by_rows_nothing_passes() -> None:
    told, model = sharded("mlp")
    assert (told.columns, told.rows) == (("up",), ("down",))
    moves = [node.input[0] for node in model.graph.node if node.op_type == MOVE]
    assert moves == ["x", "d.product1"]  # the input once, and one product back


def test_two_linears_of_one_input_share_its_transfer() -> None:
    _, model = sharded("gated")
    assert [node.input[0] for node in model.graph.node if node.op_type == MOVE] == ["x", "y.product1"]


def test_what_is_not_elementwise_gets_its_input_whole() -> None:
    told, model = sharded("softmax between")
    assert told.columns == ("up", "down")
    assert [node.op_type for node in model.graph.node].count("Concat") == 2


def test_a_bias_is_added_once() -> None:
    _, model = sharded("gemm")
    biased = [node for node in model.graph.node if "down_bias" in node.input]
    assert [node.op_type for node in biased] == ["Add"]


def test_extents_that_do_not_divide_stay_on_the_first_chip() -> None:
    told, model = sharded("mlp", 3)
    assert told == Sharded(columns=(), rows=(), whole=("up", "down"))
    assert not any(node.op_type in (MOVE, PART) for node in model.graph.node)


def test_a_part_of_what_is_no_parameter_is_refused() -> None:
    text = (
        'module {\n  func.func @main_graph(%arg0: !torch.vtensor<[4,4],f32>) {\n'
        '    %0 = torch.operator "onnx.HwcPart"(%arg0) {torch.onnx.axis = 1 : si64, torch.onnx.device = 1 : si64, '
        "torch.onnx.start = 2 : si64} : (!torch.vtensor<[4,4],f32>) -> !torch.vtensor<[4,2],f32> \n  }\n}\n"
    )
    with pytest.raises(ValueError, match="%arg0 is no parameter"):
        write_parts(text, "model")


def target(**told: Any) -> TargetSpec:
    lowering = {"backend": "llvm-cpu", "cpu": "x86-64-v3", **told.pop("lowering", {})}
    return TargetSpec.model_validate(
        {
            "name": "pair", "title": "Two of them", "kind": "asic", "hardware_status": "software",
            "execution": {"driver": "local-sync"}, "lowering": lowering,
            "sources": {"hardware": {"kind": "assumed"}} if "hardware" in told else {}, **told,
        }
    )


def test_more_shards_than_chips_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`lowering\.shards` = 4, but `hardware\.system\.chips` = 2"):
        target(lowering={"shards": 4}, hardware={"system": {"chips": 2}})


def test_the_fan_out_is_priced_by_the_link_between_chips() -> None:
    latency = {"low": 1e-6, "base": 2e-6, "high": 3e-6}
    link = {"peer": "chip", "bytes_per_s": 1e9, "latency_s": latency, "pj_per_byte": 10}
    chips = target(lowering={"shards": 2}, hardware={"system": {"chips": 2}, "links": {"board": link}})
    lowered = {
        "functions": [{"name": "b2_s8", "bucket": {"batch": 2, "sequence": 8}}],
        "sharding": {"chips": 2, "functions": {"b2_s8": {"transfers": 3, "bytes": 4000}}},
    }
    told = fanout(chips, lowered, language=False)
    assert told is not None
    (cell,) = told.cells
    assert (told.chips, told.link, told.unit, cell.link_bytes_per_unit) == (2, "board", "item", 2000)
    assert cell.link_s is not None
    assert cell.link_j is not None
    assert (cell.link_s.low, cell.link_s.base, cell.link_s.high) == pytest.approx((7e-6, 10e-6, 13e-6))
    assert cell.link_j.base == pytest.approx(4e-8)
    tokens = fanout(chips, lowered, language=True)
    assert tokens is not None
    assert tokens.cells[0].link_bytes_per_unit == 250


def test_a_variant_of_one_device_has_no_fan_out() -> None:
    assert fanout(target(), {"functions": []}, language=False) is None


def test_the_router_tells_the_chips_and_the_bytes_of_a_request() -> None:
    cell = Cell(bucket="b8", batch=8, dims=(), typical_ms=1.0, bound_ms=2.0, basis="measured")
    pair = Candidate(
        node="a", bundle="m:dev", variant="pair/fp32", model="m", verified=True, cells=(cell,), quality={},
        usd_per_ms=1e-9, margin_share=0.0, chips=2, link_bytes={"b8": 1000},
    )
    found = decide(Request(model="m", items=20, slo_p99_ms=50.0), [pair], {})
    assert (found.chips, found.calls, found.link_bytes) == (2, 3, 3000.0)
