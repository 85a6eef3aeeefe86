"""Inputs scaled where their makers take it back: the same output, better codes, nothing but the scheme's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from calibration_parts import capture, deep, linears, rows, save_cases, scheme_of
from onnx import helper
from onnx_parts import detached_ones

from hwc import onnx_io
from hwc.errors import UsageError
from hwc.quantise import awq, bias, codes
from hwc.quantise.awq import Place, choose, fold, folds, places
from hwc.quantise.codes import Codes, dequantise, int4
from hwc.quantise.finished import Finished
from hwc.quantise.fit import Fit
from hwc.quantise.graph import apply, onnx_tensors
from hwc.quantise.quantise import quantise, read_layers, read_overrides
from hwc.quantise.segments import Group, cut

WIDTH, HIDDEN = 64, 96


def groups_of(model: onnx.ModelProto) -> list[Group]:
    return [group for segment in cut(model, linears(model)) for group in segment.groups]


def found(model: onnx.ModelProto) -> dict[str, Place]:
    return places(model, groups_of(model), bias.find(model, linears(model)))


GATED = [
    helper.make_node("Mul", ["norm", "x"], ["n"]),
    helper.make_node("MatMul", ["n", "gate.weight"], ["g"]),
    helper.make_node("MatMul", ["n", "up.weight"], ["u"]),
    helper.make_node("Sigmoid", ["g"], ["s"]),
    helper.make_node("Mul", ["s", "u"], ["h"]),
    helper.make_node("MatMul", ["h", "down.weight"], ["d"]),
]
WEIGHTS: dict[str, tuple[int, ...]] = {
    "norm": (WIDTH,), "gate.weight": (WIDTH, HIDDEN), "up.weight": (WIDTH, HIDDEN), "down.weight": (HIDDEN, WIDTH),
}


def test_a_norm_before_linears_and_a_linear_before_a_product_are_places() -> None:
    gated = detached_ones(GATED, WEIGHTS, ("d",), width=WIDTH)
    assert found(gated) == {"n": Place(weights=("norm",)), "h": Place(layer="up")}
    model = deep(2)
    onnx_io.detach(model)
    assert found(model) == {
        **{f"block.{i}.n": Place(weights=(f"block.{i}.norm.weight",)) for i in range(2)},
        **{f"block.{i}.h": Place(layer=f"block.{i}.up") for i in range(2)},
    }


@pytest.mark.parametrize(
    ("nodes", "outputs", "left"),
    [
        ([helper.make_node("Neg", ["n"], ["m"])], ("d", "m"), {"h"}),
        ([helper.make_node("Neg", ["norm"], ["m"])], ("d", "m"), {"h"}),
        ([helper.make_node("Neg", ["u"], ["m"])], ("d", "m"), {"n"}),
        ([], ("d", "h"), {"n"}),
    ],
)
def test_what_something_else_reads_too_is_no_place(
    nodes: list[onnx.NodeProto], outputs: tuple[str, ...], left: set[str]
) -> None:
    assert set(found(detached_ones([*GATED, *nodes], WEIGHTS, outputs, width=WIDTH))) == left


def output(model: onnx.ModelProto, weights: dict[str, np.ndarray]) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(onnx_io.attach(model, weights).SerializeToString(), options)
    return np.concatenate([session.run(["y"], row)[0] for row in rows(8, seed=99)])


class Fixed(Fit):
    """Scales every input that can be by the same numbers."""

    def scale(self, group: Group, weights: object, moments: object) -> np.ndarray | None:
        k = group.linears[0].k
        return np.geomspace(0.25, 4, k).astype(np.float32) if group.source in self.places else None


def test_scaled_inputs_change_what_codes_stand_for_and_not_what_the_model_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph that is served equals the float graph with each code's value over the scale of its input."""
    monkeypatch.setattr("hwc.quantise.quantise.Fit", Fixed)
    model, weights = capture(tmp_path / "captured", deep(3))
    save_cases(tmp_path / "cases", rows(12))
    (tmp_path / "out").mkdir()
    quantise(scheme_of("w4a16-awq"), (), tmp_path / "captured", tmp_path / "out", tmp_path / "cases", tmp_path / "work")
    layers = read_layers(tmp_path / "out")
    finished = Finished(tmp_path / "work" / "layers", layers)
    effective = dict(weights)
    for linear in layers:
        solved = finished.read(linear.layer)
        assert solved.scale is not None
        effective[linear.weight] = np.ascontiguousarray((dequantise(solved.codes) / solved.scale).T)
        effective |= {name: value for name, value in solved.changed.items() if name.endswith("bias")}
    served = apply(layers, onnx_io.load_graph(tmp_path / "captured" / "graph.onnx"), where="test")
    coded = codes.load(tmp_path / "out" / "codes.safetensors")
    made = dict(weights) | read_overrides(tmp_path / "out")
    for linear in layers:
        made |= onnx_tensors(linear, coded[linear.layer])
    expected = output(model, effective)
    assert sorted(read_overrides(tmp_path / "out")) == sorted(
        f"block.{i}.{name}.adjusted" for i in range(3) for name in ("norm.weight", "up.bias")
    )
    np.testing.assert_allclose(output(served, made), expected, atol=2e-3 * np.abs(expected).max())


def test_scales_that_are_powers_of_two_fold_exactly() -> None:
    weight = (np.random.default_rng(0).standard_normal((8, 64)) * 0.1).astype(np.float32)
    made = int4(weight, group_size=32, symmetric=True)
    scale = np.exp2(np.arange(-4, 4)).astype(np.float32)
    assert folds(made, scale)
    np.testing.assert_array_equal(dequantise(fold(made, scale)) * scale[:, None], dequantise(made))


def test_a_scale_that_float16_cannot_hold_is_not_folded() -> None:
    small = Codes(kind="int4", codes=np.zeros((2, 32), np.uint8), scales=np.full((2, 1), 1e-6, np.float16))
    assert not folds(small, np.full(2, 7, np.float32))
    large = Codes(kind="int4", codes=np.zeros((2, 32), np.uint8), scales=np.full((2, 1), 6e4, np.float16))
    assert not folds(large, np.full(2, 0.1, np.float32))


def test_the_best_candidate_is_chosen_and_none_if_it_hardly_helps() -> None:
    inputs = np.geomspace(0.01, 100, WIDTH)

    def best_at(x: float) -> np.ndarray | None:
        wanted = np.log(inputs) * x
        return choose(inputs, np.ones(WIDTH), lambda scale: [1 + float(np.var(np.log(scale) - wanted))])

    for x in (0.125, 0.25):
        scale = best_at(x)
        assert scale is not None
        np.testing.assert_allclose(np.polyfit(np.log(inputs), np.log(scale), 1)[0], x, rtol=1e-3)
    assert best_at(0.0) is None
    assert choose(inputs, np.ones(WIDTH), lambda _: [0.0]) is None


def test_a_scheme_scales_inputs_only_if_it_says_so_and_only_where_it_can() -> None:
    assert not scheme_of("w4a16").scaled_inputs
    named = scheme_of("w4a16(inputs=awq, zeros=asym)")
    assert (named.name, named.scaled_inputs, named.method[:4]) == ("w4a16-asym-awq", True, "AWQ ")
    for name in ("fp8-awq", "w8a16-awq", "w4a16-awq-rtn"):
        with pytest.raises(UsageError, match="scaled"):
            scheme_of(name)


def test_channels_of_unlike_size_are_fitted_better_with_scales(tmp_path: Path) -> None:
    capture(tmp_path / "captured", deep(1))
    save_cases(tmp_path / "cases", rows(16))
    errors = {}
    for name, range_ in (("scaled", awq.RANGE), ("plain", 1.0)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(awq, "RANGE", range_)
            (tmp_path / name).mkdir()
            work = tmp_path / f"{name}-work"
            quantise(scheme_of("w4a16-awq"), (), tmp_path / "captured", tmp_path / name, tmp_path / "cases", work)
        finished = Finished(work / "layers", read_layers(tmp_path / name))
        errors[name] = [finished.read(f"block.0.{part}").relative_error or 0.0 for part in ("gate", "up")]
    assert all(scaled < plain for scaled, plain in zip(errors["scaled"], errors["plain"], strict=True))
