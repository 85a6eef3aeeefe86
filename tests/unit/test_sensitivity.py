"""A budget goes to the layers that cost most, and is never overspent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from onnx_parts import model_of

from hwc import onnx_io
from hwc.capture.capture import save_weights
from hwc.errors import UsageError
from hwc.formats import Format
from hwc.quantise import sensitivity
from hwc.quantise.linears import Linear
from hwc.quantise.sensitivity import SENSITIVITY, WIDE, Question, choose, measure

NARROW = Format(kind="int4", group_size=32)


def linear(layer: str, n: int) -> Linear:
    return Linear(layer=layer, weight=f"{layer}.weight", k=64, n=n, transposed=False, format=NARROW)


LAYERS = [linear("a", 64), linear("b", 64), linear("c", 128)]


def bits(chosen: dict[str, Format]) -> float:
    total = sum(layer.parameters for layer in LAYERS)
    return sum(layer.parameters * chosen.get(layer.layer, NARROW).bits for layer in LAYERS) / total


def test_the_layers_that_cost_most_for_each_weight_come_first() -> None:
    costs = {"a": 0.1, "b": 0.3, "c": 0.5}  # b costs most for each weight, then c
    assert set(choose(LAYERS, costs, 5.5)) == {"b"}
    assert set(choose(LAYERS, costs, 7.5)) == {"b", "c"}
    assert choose(LAYERS, costs, 8.5) == dict.fromkeys("abc", WIDE)


@pytest.mark.parametrize("budget", [4.5, 4.6, 5.5, 6.0, 7.4, 8.5])
def test_a_budget_is_never_overspent(budget: float) -> None:
    assert bits(choose(LAYERS, {"a": 1.0, "b": 2.0, "c": 3.0}, budget)) <= budget


def test_a_layer_too_large_for_what_is_left_makes_room_for_a_smaller_one() -> None:
    assert set(choose(LAYERS, {"a": 0.1, "b": 0.01, "c": 9.0}, 5.6)) == {"a"}


def test_a_budget_below_the_narrow_format_is_refused() -> None:
    with pytest.raises(UsageError, match="below the"):
        choose(LAYERS, dict.fromkeys("abc", 1.0), 4.4)


def test_the_cost_of_logits_is_the_divergence_of_what_they_say() -> None:
    exact, other = np.array([[[0.0, 0.0]]], np.float32), np.array([[[np.log(3.0), 0.0]]], np.float32)
    assert sensitivity._kl(exact, other) == pytest.approx(0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25))
    assert sensitivity._kl(exact, exact + 7) == pytest.approx(0.0, abs=1e-12)


def test_the_measured_cost_is_that_of_each_layer_alone(tmp_path: Path) -> None:
    """Of two layers one has weights on the grid of int4: rounding it costs nothing; the other is multiplied by 1."""
    rng = np.random.default_rng(0)
    exact = rng.integers(-7, 8, (32, 64)).astype(np.float32)
    exact[0] = 7  # every column's scale is 1
    rough = rng.standard_normal((64, 32)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "exact.weight"], ["h"]),
        helper.make_node("MatMul", ["h", "rough.weight"], ["y"]),
    ]
    model = model_of(nodes, {"exact.weight": exact, "rough.weight": rough}, width=32, out=32)
    weights = onnx_io.detach(model)
    onnx_io.save(model, tmp_path / "graph.onnx")
    save_weights(weights, tmp_path / "weights.safetensors")
    cases = {f"{number:04}.x": rng.standard_normal((2, 32)).astype(np.float32) for number in range(3)}
    np.savez(tmp_path / "cases.npz", **cases)
    measure(Question(form=NARROW, output="y", language=False, cases=2), tmp_path, tmp_path, tmp_path)
    told = json.loads((tmp_path / SENSITIVITY).read_text())
    assert told["cases"] == 2
    assert told["costs"]["exact"] < 1e-10
    assert 1e-3 < told["costs"]["rough"] < 0.1
