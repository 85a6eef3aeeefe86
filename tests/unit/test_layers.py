"""The stream between layers is found by what reads what, and two runs part at the first layer that is off."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hwc import onnx_io
from hwc.capture import residual
from hwc.measure import layers

WIDTH, TOKENS, VOCABULARY = 4, 3, 7


def decoder(*, layers_: int = 2, shared_norm: bool = True) -> onnx.ModelProto:
    """Return a graph in the form of a decoder: norms before blocks, additions behind them, logits of some positions."""
    value = helper.make_tensor_value_info
    weights = {"model.embed.weight": [VOCABULARY, WIDTH], "model.norm.weight": [WIDTH]}
    nodes = [helper.make_node("Gather", ["model.embed.weight", "input_ids"], ["embedded"])]
    stream = "embedded"
    for layer in range(layers_):
        name = f"model.layers.{layer}"
        norm = f"model.layers.{0 if shared_norm else layer}.norm.weight"
        weights |= {norm: [WIDTH], f"{name}.up.weight": [WIDTH, WIDTH], f"{name}.down.weight": [WIDTH, WIDTH]}
        nodes += [
            helper.make_node("Mul", [stream, norm], [f"n{layer}"]),
            helper.make_node("MatMul", [f"n{layer}", f"{name}.up.weight"], [f"u{layer}"]),
            helper.make_node("Add", [stream, f"u{layer}"], [f"m{layer}"]),
            helper.make_node("MatMul", [f"m{layer}", f"{name}.down.weight"], [f"d{layer}"]),
            helper.make_node("Add", [f"m{layer}", f"d{layer}"], [f"h{layer}"]),
        ]
        stream = f"h{layer}"
    nodes += [
        helper.make_node("Mul", [stream, "model.norm.weight"], ["normed"]),
        helper.make_node("Gather", ["normed", "logit_index"], ["read"], axis=1),
        helper.make_node("MatMul", ["read", "model.head.weight"], ["logits"]),
    ]
    weights["model.head.weight"] = [WIDTH, VOCABULARY]
    inputs = [
        value("input_ids", TensorProto.INT64, [1, TOKENS]), value("logit_index", TensorProto.INT64, [1]),
        *(value(name, TensorProto.FLOAT, shape) for name, shape in weights.items()),
    ]
    graph = helper.make_graph(nodes, "g", inputs, [value("logits", TensorProto.FLOAT, [1, 1, VOCABULARY])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    onnx_io.set_weight_names(model, list(weights))
    return model


@pytest.mark.parametrize("shared_norm", [True, False])
def test_a_layer_hands_on_what_its_last_addition_makes(shared_norm: bool) -> None:
    found = residual.find(decoder(layers_=3, shared_norm=shared_norm))
    assert [(one.layer, one.value) for one in found] == [
        (residual.EMBEDDING, "embedded"), ("model.layers.0", "h0"), ("model.layers.1", "h1"),
        ("model.layers.2", "normed"),
    ]


def test_exposed_values_are_outputs_with_shapes_behind_those_there_were() -> None:
    model = decoder()
    residual.expose(model, residual.find(model))
    told = [
        (value.name, [dim.dim_value for dim in value.type.tensor_type.shape.dim]) for value in model.graph.output
    ]
    assert told[0][0] == "logits"
    assert told[1:] == [(name, [1, TOKENS, WIDTH]) for name in ("embedded", "h0", "normed")]


def stream(**changed: float) -> layers.Stream:
    rng = np.random.default_rng(0)
    found = {name: rng.normal(size=(TOKENS, WIDTH)).astype(np.float32) for name in ("a", "b", "c")}
    found["b"][0] *= 1e4  # as a language model's first position
    for name, by in changed.items():
        found[name][1] *= np.float32(1 + by)
    return found


def test_equal_runs_do_not_part() -> None:
    assert layers.first_parting(stream(), stream()) is None
    assert layers.furthest(stream(), stream()) == 0


def test_the_first_layer_past_the_bound_is_named_whatever_comes_after() -> None:
    found = layers.first_parting(stream(b=1e-3, c=5.0), stream())
    assert found is not None
    assert (found.layer, found.distance) == ("b", pytest.approx(1e-3, rel=1e-2))


def test_rounding_does_not_part_and_is_told() -> None:
    assert layers.first_parting(stream(b=1e-5), stream()) is None
    assert layers.furthest(stream(b=1e-5), stream()) == pytest.approx(1e-5, rel=0.05)


def test_what_is_not_a_number_parts() -> None:
    broken = stream()
    broken["a"][2, 1] = np.nan
    found = layers.first_parting(broken, stream())
    assert found is not None
    assert (found.layer, found.distance) == ("a", math.inf)


BUCKET = {"batch": 1, "sequence": 4, "logits": 1}


def test_a_text_goes_through_one_shape_filled_up_at_its_end() -> None:
    made = layers.cases(range(1, 7), BUCKET, 16)
    assert [case.feeds["input_ids"].tolist() for case in made] == [[[1, 2, 3, 4]], [[5, 6, 0, 0]]]
    assert [case.feeds["start"].tolist() for case in made] == [[0], [4]]


def test_near_the_end_of_the_cache_positions_are_computed_once_more() -> None:
    made = layers.cases(range(1, 7), BUCKET, 6)
    assert [case.feeds["start"].tolist() for case in made] == [[0], [2]]
    assert made[1].feeds["input_ids"].tolist() == [[3, 4, 5, 6]]
