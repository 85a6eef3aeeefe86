"""Attention by heads: each device has its heads and their state, what leads there follows, and little passes."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from compiled_parts import FLAGS, LIMITS
from onnx import TensorProto, helper
from shard_parts import answer, compiled, loaded, module, plain

from hwc import onnx_io
from hwc.capture import state
from hwc.lower import iree, links
from hwc.lower.passes.devices import MOVE
from hwc.lower.passes.kept_state import KeptTensor
from hwc.lower.shard_rules import RULES, Follow, Seen
from hwc.lower.sharding import Sharded, shard

ROWS, WIDTH, HEADS, EACH, CONTEXT = 3, 32, 4, 8, 16
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def seen(
    shapes: list[tuple[int, ...]], results: list[tuple[int, ...]], axes: list[int | None],
    numbers: list[tuple[int, ...] | None] | None = None, **told: Any,
) -> Seen:
    return Seen(
        shapes=tuple(shapes), results=tuple(results), axes=tuple(axes), stored=(False,) * len(shapes),
        numbers=tuple(numbers or [None] * len(shapes)), told=told,
    )


FOLLOWED = [
    ("Reshape", seen([(1, 3, 32), (4,)], [(1, 3, 4, 8)], [2, None]), (2,)),
    ("Reshape", seen([(1, 3, 4, 8), (3,)], [(1, 3, 32)], [2, None]), (2,)),
    ("Reshape", seen([(1, 4, 3, 8), (5,)], [(1, 1, 4, 3, 8)], [1, None]), (2,)),
    ("Reshape", seen([(1, 2, 2, 3, 8), (4,)], [(1, 4, 3, 8)], [1, None]), (1,)),
    ("Reshape", seen([(3, 4, 8), (2,)], [(3, 32)], [2, None]), None),  # within a head
    ("Transpose", seen([(1, 3, 4, 8)], [(1, 4, 3, 8)], [2], perm=(0, 2, 1, 3)), (1,)),
    ("Unsqueeze", seen([(1, 2, 3, 8), (1,)], [(1, 2, 1, 3, 8)], [1, None], [None, (2,)]), (1,)),
    ("Unsqueeze", seen([(2, 3), (1,)], [(1, 2, 3)], [0, None], [None, (0,)]), (1,)),
    ("Squeeze", seen([(1, 2, 3), (1,)], [(2, 3)], [1, None], [None, (0,)]), (0,)),
    ("Squeeze", seen([(1, 2, 3), (1,)], [(2, 3)], [1, None], [None, None]), None),
    ("Expand", seen([(1, 2, 1, 3, 8), (5,)], [(1, 2, 2, 3, 8)], [1, None]), (1,)),
    ("MatMul", seen([(1, 4, 3, 8), (1, 4, 8, 16)], [(1, 4, 3, 16)], [1, 1]), (1,)),
    ("MatMul", seen([(1, 4, 3, 8), (8, 16)], [(1, 4, 3, 16)], [1, None]), (1,)),
    ("MatMul", seen([(1, 4, 3, 8), (1, 4, 8, 16)], [(1, 4, 3, 16)], [1, None]), None),  # another's heads lie whole
    ("MatMul", seen([(3, 8), (8, 16)], [(3, 16)], [1, 0]), None),  # over K: the sum is a linear's alone
    ("Softmax", seen([(1, 4, 3, 16)], [(1, 4, 3, 16)], [1], axis=-1), (1,)),
    ("Softmax", seen([(1, 4, 3, 16)], [(1, 4, 3, 16)], [3], axis=-1), None),
    ("LayerNormalization", seen([(1, 3, 4, 8), (8,)], [(1, 3, 4, 8)], [2, None], axis=-1), (2,)),
    ("LayerNormalization", seen([(1, 3, 32), (32,)], [(1, 3, 32)], [2, None], axis=-1), None),
    ("ReduceMean", seen([(1, 3, 4, 8), (1,)], [(1, 3, 4, 1)], [2, None], [None, (-1,)]), (2,)),
    ("ReduceMean", seen([(1, 3, 32), (1,)], [(1, 3, 1)], [2, None], [None, (-1,)]), None),
    ("ReduceMean", seen([(2, 3, 4), (1,)], [(3, 4)], [2, None], [None, (0,)], keepdims=0), (1,)),
    ("Slice", seen([(1, 4, 3, 8), *[(1,)] * 3], [(1, 4, 3, 4)], [1, *[None] * 3], [None, (0,), (4,), (3,)]), (1,)),
    ("Slice", seen([(1, 4, 3, 8), *[(1,)] * 3], [(1, 2, 3, 8)], [1, *[None] * 3], [None, (0,), (2,), (1,)]), None),
    ("Concat", seen([(1, 4, 3, 4), (1, 4, 3, 4)], [(1, 4, 3, 8)], [1, 1], axis=-1), (1,)),
    ("Concat", seen([(1, 4, 3, 4), (1, 4, 3, 4)], [(1, 4, 3, 8)], [1, None], axis=-1), None),
    ("Split", seen([(1, 4, 3, 8), (2,)], [(1, 4, 3, 4), (1, 4, 3, 4)], [1, None], axis=3), (1, 1)),
    ("Split", seen([(1, 3, 96), (3,)], [(1, 3, 32)] * 3, [2, None], axis=2), None),
    ("Add", seen([(1, 4, 3, 16), (1, 1, 3, 16)], [(1, 4, 3, 16)], [1, None]), (1,)),
    ("Add", seen([(1, 4, 3, 16), (4, 3, 16)], [(1, 4, 3, 16)], [1, None]), None),
]


@pytest.mark.parametrize(("op", "case", "outputs"), FOLLOWED)
def test_the_split_axis_is_followed_or_the_value_is_gathered(op: str, case: Seen, outputs: tuple[int, ...]) -> None:
    follow = RULES[op](case)
    assert (follow.outputs if isinstance(follow, Follow) else None) == outputs


def attention(*, kv_heads: int, cached: bool) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return a detached graph of one attention with grouped heads, with a cache or without, and its weights."""
    rng = np.random.default_rng(2)
    kv = kv_heads * EACH
    sizes = {"q": (WIDTH, WIDTH), "k": (WIDTH, kv), "v": (WIDTH, kv), "o": (WIDTH, WIDTH)}
    weights = {f"{name}.weight": (rng.normal(size=shape) / 6).astype(np.float32) for name, shape in sizes.items()}
    keys = CONTEXT if cached else ROWS
    per = HEADS // kv_heads
    shapes = {
        "heads": [1, ROWS, -1, EACH], "grouped": [1, kv_heads, per * ROWS, EACH], "apart": [1, HEADS, ROWS, keys],
        "again": [1, kv_heads, per * ROWS, keys], "back": [1, HEADS, ROWS, EACH], "flat": [1, ROWS, WIDTH],
    }
    constants = [helper.make_tensor(name, INT64, [len(value)], value) for name, value in shapes.items()]
    nodes = [helper.make_node("MatMul", ["x", f"{name}.weight"], [name], name=name) for name in "qkv"]
    for name in "qkv":
        nodes += [
            helper.make_node("Reshape", [name, "heads"], [f"{name}.apart"]),
            helper.make_node("Transpose", [f"{name}.apart"], [f"{name}.turned"], perm=[0, 2, 1, 3]),
        ]
    known, value = ("next.key.0", "next.value.0") if cached else ("k.turned", "v.turned")
    nodes += _written(kv_heads, constants) if cached else []
    nodes += [
        helper.make_node("Reshape", ["q.turned", "grouped"], ["q.grouped"]),
        helper.make_node("Transpose", [known], ["keys"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q.grouped", "keys"], ["scores"]),
        helper.make_node("Reshape", ["scores", "apart"], ["scores.apart"]),
        helper.make_node("Cast", ["seen"], ["seen.float"], to=FLOAT),
        helper.make_node("Mul", ["seen.float", "much"], ["mask"]),
        helper.make_node("Sub", ["scores.apart", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["shares"], axis=-1),
        helper.make_node("Reshape", ["shares", "again"], ["shares.grouped"]),
        helper.make_node("MatMul", ["shares.grouped", value], ["mixed"]),
        helper.make_node("Reshape", ["mixed", "back"], ["mixed.apart"]),
        helper.make_node("Transpose", ["mixed.apart"], ["mixed.turned"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["mixed.turned", "flat"], ["mixed.flat"]),
        helper.make_node("MatMul", ["mixed.flat", "o.weight"], ["y"], name="o"),
    ]
    constants.append(helper.make_tensor("much", FLOAT, [1, 1, ROWS, 1], [100.0] * ROWS))
    told = helper.make_tensor_value_info
    inputs = [told("x", FLOAT, [1, ROWS, WIDTH]), told("seen", INT64, [1, 1, 1, keys])]
    outputs = [told("y", FLOAT, [1, ROWS, WIDTH])]
    if cached:
        inputs.append(told("start", INT64, [1]))
        for name in ("key.0", "value.0"):
            inputs.append(told(f"cache.{name}", FLOAT, [1, kv_heads, CONTEXT, EACH]))
            outputs.append(told(f"next.{name}", FLOAT, [1, kv_heads, CONTEXT, EACH]))
    inputs += [told(name, FLOAT, value.shape) for name, value in weights.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "main_graph", inputs, outputs, constants),
        opset_imports=[helper.make_opsetid("", 20)], ir_version=9,
    )
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    onnx_io.set_weight_names(model, list(weights))
    return model, weights


def _written(kv_heads: int, constants: list[onnx.TensorProto]) -> list[onnx.NodeProto]:
    """Return the nodes that write keys and values at consecutive positions from `start`."""
    shape = (1, kv_heads, ROWS, 1)
    heads = np.broadcast_to(np.arange(kv_heads).reshape(1, -1, 1, 1), shape)
    rows = np.broadcast_to(np.arange(ROWS).reshape(1, 1, -1, 1), shape)
    fixed = {"batches": np.zeros(shape), "head": heads, "on": rows}
    constants += [helper.make_tensor(name, INT64, shape, value.astype(int).ravel()) for name, value in fixed.items()]
    return [
        helper.make_node("Add", ["on", "start"], ["positions"]),
        helper.make_node("Concat", ["batches", "head", "positions"], ["places"], axis=3),
        helper.make_node("ScatterND", ["cache.key.0", "places", "k.turned"], ["next.key.0"]),
        helper.make_node("ScatterND", ["cache.value.0", "places", "v.turned"], ["next.value.0"]),
    ]


def moved(model: onnx.ModelProto) -> list[str]:
    return [node.input[0] for node in model.graph.node if node.op_type == MOVE]


def test_attention_by_heads_answers_as_the_whole_one_and_passes_its_input_and_its_sum(tmp_path: Path) -> None:
    model, weights = attention(kv_heads=2, cached=False)
    rng = np.random.default_rng(3)
    feeds = {"x": rng.normal(size=(1, ROWS, WIDTH)).astype(np.float32), "seen": np.array([[[[0, 1, 0]]]], np.int64)}
    expected = answer(model, {**feeds, **weights})
    assert shard(model, 2) == Sharded(columns=("q", "k", "v"), rows=("o",), whole=())
    assert moved(model) == ["x", "seen", "y.product1"]
    text = module(model, tmp_path, 2, {})
    assert links.count(text.splitlines()) == {"transfers": 3, "bytes": 2 * ROWS * WIDTH * 4 + ROWS * 8}
    found = loaded(compiled(text, tmp_path), plain(weights), feeds, expected.shape, 2).call("main", feeds)["y"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def dispatches(stream: str) -> dict[str, Counter[str]]:
    """Return what each device of a module in stream IR dispatches, in work a call asks for."""
    found: dict[str, Counter[str]] = {}
    device = ""
    for line in stream[stream.index("util.func public") :].splitlines():
        if on := re.search(r"stream\.cmd\.execute .*?on\(#hal\.device\.affinity<@(\w+)>\)", line):
            device = on[1]
        if work := re.search(r"stream\.cmd\.dispatch @\S*dispatch_\d+_(\w+)", line):
            found.setdefault(device, Counter())[work[1]] += 1
    return found


def test_each_device_runs_its_own_half_in_the_artefact_too(tmp_path: Path) -> None:
    """What names no device, such as a norm of the input, once drew the first device's share to the second."""
    model, _ = attention(kv_heads=2, cached=False)
    shard(model, 2)
    path, _ = iree.compile_module(
        module(model, tmp_path, 2, {}), (*FLAGS, "--compile-to=stream"), work=tmp_path, limits=LIMITS
    )
    found = dispatches(path.read_text())
    first, second = ({name: n for name, n in found[f"device_{at}"].items() if "matmul" in name} for at in (0, 1))
    assert first == second
    assert sum(first.values()) >= 5


def test_each_device_keeps_the_state_of_its_heads_from_call_to_call(tmp_path: Path) -> None:
    model, weights = attention(kv_heads=2, cached=True)
    whole, _ = attention(kv_heads=2, cached=True)
    told = shard(model, 2)
    assert told.states == {
        f"{side}.{name}.0.part{device}": device
        for side in ("cache", "next") for name in ("key", "value") for device in (0, 1)
    }
    inputs, outputs = ([value.name for value in side] for side in (model.graph.input, model.graph.output))
    kept = [
        KeptTensor(
            symbol=one.name, argument=inputs.index(one.name), result=outputs.index(one.next),
            start=inputs.index(state.START), device=told.states[one.name],
        )
        for one in state.find(model)
    ]
    text = module(model, tmp_path, 2, {}, kept=kept)
    for device in (0, 1):  # one that names no device is written wherever the compiler finds its operands
        kind = f"{{stream.affinity = #hal.device.affinity<@device_{device}>}} = dense<"
        assert sum(kind in line for line in text.splitlines() if "util.global private mutable" in line) == 2
    assert links.count(text.splitlines())["bytes"] == 2 * ROWS * WIDTH * 4 + CONTEXT * 8
    steps = list(_steps())
    session = loaded(compiled(text, tmp_path), plain(weights), steps[0], (1, ROWS, WIDTH), 2)
    cache = {f"cache.{name}.0": np.zeros((1, 2, CONTEXT, EACH), np.float32) for name in ("key", "value")}
    for feeds in steps:
        expected, *written = answers(whole, {**feeds, **cache, **weights})
        cache = dict(zip(cache, written, strict=True))
        np.testing.assert_allclose(session.call("main", feeds)["y"], expected, rtol=0, atol=1e-5)


def _steps() -> Any:
    rng = np.random.default_rng(7)
    for call in range(3):
        hidden = np.arange(CONTEXT).reshape(1, 1, 1, -1) >= (call + 1) * ROWS
        x = rng.normal(size=(1, ROWS, WIDTH)).astype(np.float32)
        yield {"x": x, "seen": hidden.astype(np.int64), "start": np.array([call * ROWS], np.int64)}


def answers(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, feeds)
    return found


def test_heads_that_do_not_divide_are_gathered_and_their_state_stays_on_the_first_device() -> None:
    """One key head on two devices: linears are split by columns still; no device is sent the whole cache."""
    model, _ = attention(kv_heads=1, cached=True)
    told = shard(model, 2)
    assert (told.columns, told.rows, told.states) == (("q", "k", "v", "o"), (), {})
    assert not {"keys", "next.key.0", "next.value.0"} & set(moved(model))
    assert "cache.key.0" in [value.name for value in model.graph.input]
