"""The error of what a linear's output is added to is met by the linear, as far as its inputs tell of it."""

from __future__ import annotations

import numpy as np
import onnx
from calibration_parts import linears
from onnx import helper
from onnx_parts import detached_ones

from hwc.quantise import bias, residual
from hwc.quantise.hessian import Moments, problem, shift

K, N = 64, 32
WEIGHTS = {"a.weight": (K, K), "a.bias": (K,), "b.weight": (K, K)}

FIRST = [helper.make_node("MatMul", ["x", "a.weight"], ["p"]), helper.make_node("Add", ["p", "a.bias"], ["q"])]
SECOND = [helper.make_node("Relu", ["r"], ["s"]), helper.make_node("MatMul", ["s", "b.weight"], ["t"])]


def found(nodes: list[onnx.NodeProto], outputs: tuple[str, ...] = ("y",)) -> dict[str, str]:
    model = detached_ones(nodes, WEIGHTS, outputs, width=K)
    return residual.find(model, linears(model), bias.find(model, linears(model)))


def test_the_other_side_of_a_sum_is_found_behind_a_bias_too() -> None:
    nodes = [
        *FIRST, helper.make_node("Add", ["x", "q"], ["r"]), *SECOND, helper.make_node("Add", ["t", "r"], ["y"]),
    ]
    assert found(nodes) == {"a": "x", "b": "r"}


def test_a_bias_alone_or_an_output_read_elsewhere_is_no_residual() -> None:
    assert found([*FIRST, helper.make_node("Relu", ["q"], ["r"]), *SECOND], ("t",)) == {}
    both = [*FIRST, helper.make_node("Add", ["x", "q"], ["r"]), *SECOND, helper.make_node("Add", ["t", "r"], ["y"])]
    assert found(both, ("y", "q", "t")) == {}


def test_what_the_inputs_tell_of_a_residuals_error_is_made_up_for() -> None:
    rng = np.random.default_rng(0)
    inputs = (rng.standard_normal((2000, K)) + 0.5).astype(np.float32)
    lost = (inputs @ rng.standard_normal((K, N)) * 0.1 + rng.standard_normal((2000, N)) * 0.1).astype(np.float32)
    weight = rng.standard_normal((N, K)).astype(np.float32)
    for centred in (False, True):
        moments = Moments(K)
        for part in np.split(np.arange(2000), 5):
            moments.add(inputs[part], inputs[part], lost[part])
        moments.flush()
        stated = problem(weight, moments, centred=centred, drift_share=1.0)
        added = shift(weight, stated.target, moments, drift_share=1.0) if centred else 0.0
        left = inputs @ weight.T + lost - inputs @ stated.target.T - added
        assert (left**2).mean() < 0.2 * (lost**2).mean()
        assert abs(left.mean()) < 0.02
