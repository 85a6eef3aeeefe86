"""A specialised graph has a number for every size: passes match shapes, and leave alone what they cannot tell."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwc.capture.simplify import specialise
from hwc.spec.model import ModelSpec


def places_of_tokens() -> onnx.ModelProto:
    """Return start + 0, 1, 2, …, as decoders have it, with a size of torch's name wherever tokens are counted."""
    def told(name: str, shape: list[str]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.INT64, shape)

    nodes = [
        helper.make_node("Shape", ["ids"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["count"], axis=0),
        helper.make_node("Range", ["zero", "count", "one"], ["steps"]),
        helper.make_node("Unsqueeze", ["steps", "first"], ["row"]),
        helper.make_node("Unsqueeze", ["start", "last"], ["from"]),
        helper.make_node("Add", ["from", "row"], ["places"]),
        helper.make_node("Neg", ["places"], ["turned"]),
        helper.make_node("Abs", ["turned"], ["found"]),
    ]
    constants = {"one": 1, "zero": 0, "first": [0], "last": [1]}
    graph = helper.make_graph(
        nodes, "places", [told("ids", ["batch", "s70"]), told("start", ["batch"])], [told("found", ["batch", "s70"])],
        initializer=[numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()],
        value_info=[told(name, ["batch", "s70"]) for name in ("places", "turned")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


@pytest.mark.parametrize("tokens", [1, 16, 128])
def test_no_size_is_left_a_name(tokens: int) -> None:
    spec = ModelSpec.model_validate({
        "name": "places", "source": {"kind": "onnx", "path": "x.onnx"}, "outputs": ["found"],
        "inputs": {
            "ids": {"dtype": "int64", "shape": ["batch", "sequence"], "low": 0, "high": 9},
            "start": {"dtype": "int64", "shape": ["batch"], "low": 0, "high": 9},
        },
        "buckets": [{"batch": 1, "sequence": tokens}],
    })
    graph = specialise(places_of_tokens(), spec, spec.buckets[0]).graph
    sizes = {
        value.name: [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output)
    }
    assert {"turned", "found"} <= {*sizes}
    assert [1, tokens] == sizes["turned"] == sizes["found"]
    assert all(isinstance(size, int) for shape in sizes.values() for size in shape)
