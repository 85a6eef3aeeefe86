"""The linears of a graph are found with their sizes, and each that stays in float says why."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_parts import linear, model_of

from hwc import onnx_io
from hwc.formats import Format
from hwc.quantise.linears import Linear, assign, find


def detached(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], *, width: int, out: int) -> onnx.ModelProto:
    model = model_of(nodes, weights, width=width, out=out)
    onnx_io.detach(model)
    return model


def gemm(**attributes: float) -> onnx.ModelProto:
    shape = (48, 64) if attributes.get("transB") else (64, 48)
    weights = {"fc.weight": np.ones(shape, np.float32), "fc.bias": np.ones(48, np.float32)}
    node = helper.make_node("Gemm", ["x", "fc.weight", "fc.bias"], ["y"], name="/fc/Gemm", **attributes)
    return detached([node], weights, width=64, out=48)


def one(model: onnx.ModelProto, *, exclude: tuple[str, ...] = (), group_size: int = 32) -> Linear:
    (found,) = assign(find(model, exclude=exclude), {"linear": Format(kind="int4", group_size=group_size)})
    return found


def test_a_matmul_with_a_weight_is_a_linear() -> None:
    model = linear(64, 48)
    onnx_io.detach(model)
    found = one(model)
    assert (found.layer, found.weight, found.k, found.n, found.transposed, found.skip) == (
        "fc", "fc.weight", 64, 48, False, "",
    )
    assert found.parameters == 64 * 48


def test_a_gemm_with_a_transposed_weight_is_a_linear_of_the_same_sizes() -> None:
    found = one(gemm(transB=1))
    assert (found.k, found.n, found.transposed, found.skip) == (64, 48, True, "")


@pytest.mark.parametrize("attributes", [{"alpha": 0.5}, {"beta": 2.0}, {"transA": 1}])
def test_a_gemm_that_scales_or_transposes_its_input_stays_in_float(attributes: dict[str, float]) -> None:
    assert "alpha, beta or transA" in one(gemm(**attributes)).skip


@pytest.mark.parametrize("pattern", ["fc", "f*", "*"])
def test_an_excluded_layer_stays_in_float_and_names_the_pattern(pattern: str) -> None:
    assert one(gemm(), exclude=("other", pattern)).skip == f"excluded by {pattern!r}"


def test_a_pattern_matches_the_layer_and_not_its_weight() -> None:
    assert one(gemm(), exclude=("*.weight", "FC")).skip == ""


def test_a_width_that_cannot_be_grouped_stays_in_float() -> None:
    model = linear(40, 48)
    onnx_io.detach(model)
    assert one(model).skip == "K = 40 is no multiple of the group of 32"
    assert one(model, group_size=8).skip == ""


def test_a_weight_that_two_nodes_share_stays_in_float_and_is_listed_once() -> None:
    weights = {"tied": np.ones((64, 64), np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "tied"], ["h"]), helper.make_node("MatMul", ["h", "tied"], ["y"])]
    assert one(detached(nodes, weights, width=64, out=64)).skip == "the weight is shared with another node"


def test_products_of_activations_and_of_stacked_weights_are_no_linears() -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"]), helper.make_node("MatMul", ["x", "t"], ["y"]),
        helper.make_node("MatMul", ["x", "stack"], ["z"]),
    ]
    model = detached(nodes, {"stack": np.ones((3, 64, 8), np.float32)}, width=64, out=2)
    assert find(model) == []


def test_linears_come_in_the_order_of_the_graph() -> None:
    weights = {f"l{i}.weight": np.ones((64, 64), np.float32) for i in (2, 0, 1)}
    nodes = [
        helper.make_node("MatMul", ["x", "l1.weight"], ["a"]), helper.make_node("MatMul", ["a", "l2.weight"], ["b"]),
        helper.make_node("MatMul", ["b", "l0.weight"], ["y"]),
    ]
    found = find(detached(nodes, weights, width=64, out=64))
    assert [entry.layer for entry in found] == ["l1", "l2", "l0"]
