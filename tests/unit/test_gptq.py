"""Codes fitted to calibration inputs: better than rounding by their own measure, standard in form, repeatable."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from calibration_parts import capture, deep, linears, rows, save_cases, scheme_of

from hwc import onnx_io
from hwc.errors import IntegrityError, StepError
from hwc.formats import Kind
from hwc.quantise import bias, codes, encode
from hwc.quantise.codes import dequantise, int4
from hwc.quantise.gptq import Polish, descend, loss, refit, solve, sweep
from hwc.quantise.graph import apply, onnx_tensors
from hwc.quantise.grid import FP8_MAX, Grid, Int4Grid, round_e4m3, search_fp8, search_int4
from hwc.quantise.hessian import Moments, Problem, metric_of, problem, shift
from hwc.quantise.quantise import quantise, read_layers, read_overrides
from hwc.quantise.restore import restore

K, N = 96, 40
ENCODINGS: dict[Kind, str] = {"int4": "i4-grouped"}
BOTH = pytest.mark.parametrize("symmetric", [True, False])


def inputs(count: int = 600, seed: int = 0) -> np.ndarray:
    """Return correlated activations [T, K] with a mean and a few large channels."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(5).standard_normal((K, K)) / 6 + np.diag(np.geomspace(0.05, 4, K))
    return (rng.standard_normal((count, K)) @ mix + np.linspace(-1, 1, K)).astype(np.float32)


def weight(seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((N, K)) * 0.1).astype(np.float32)


def moments(exact: np.ndarray, seen: np.ndarray | None = None) -> Moments:
    made = Moments(K)
    made.add(exact, exact if seen is None else seen)
    made.flush()
    return made


def stated(centred: bool = False) -> Problem:
    return problem(weight(), moments(inputs()), centred=centred, drift_share=0.0)


def grid_of(given: Problem, symmetric: bool = True) -> Int4Grid:
    importance = given.metric.hessian.diagonal()
    return search_int4(given.target, importance, group_size=32, symmetric=symmetric)


def loss_of(given: Problem, values: np.ndarray) -> float:
    return loss(given.target.T, given.metric.hessian, values)


def rounded(grid: Grid, of: np.ndarray) -> np.ndarray:
    """Return the values on a grid, [K, N], nearest to a weight [N, K]."""
    return np.stack([grid.nearest(of[:, column], column) for column in range(K)])


@BOTH
def test_the_sweep_beats_rounding_to_the_same_grid_and_the_polish_beats_the_sweep(symmetric: bool) -> None:
    given = stated()
    grid = grid_of(given, symmetric)
    nearest = loss_of(given, rounded(grid, given.target))
    swept = loss_of(given, sweep(given, grid))
    polished = loss_of(given, solve(given, grid, Polish())[1])
    assert swept < 0.7 * nearest
    assert polished < swept


@BOTH
def test_codes_keep_their_canonical_form_in_the_order_of_the_weights_columns(symmetric: bool) -> None:
    given = stated()
    grid, made = solve(given, grid_of(given, symmetric), Polish())
    finished = grid.finish(made)
    np.testing.assert_array_equal(dequantise(finished), made.T)
    assert (finished.codes.shape, finished.scales.shape, finished.scales.dtype) == ((N, K), (N, K // 32), np.float16)
    assert (finished.zeros is None) == symmetric
    correlation = np.corrcoef(dequantise(finished).ravel(), weight().ravel())[0, 1]
    assert correlation > 0.98


def test_no_step_of_the_polish_raises_the_loss() -> None:
    given = stated()
    grid = grid_of(given)
    hessian, target = given.metric.hessian, given.target.T.copy()
    made = sweep(given, grid)
    losses = [loss_of(given, made)]
    for _ in range(3):
        descend(target, hessian, grid, made)
        losses.append(loss_of(given, made))
        grid, made = refit(target, hessian, grid, made)
        losses.append(loss_of(given, made))
    assert all(after <= before * (1 + 1e-4) for before, after in itertools.pairwise(losses))
    assert losses[-1] < losses[0]


def test_on_independent_inputs_of_one_size_the_sweep_is_round_to_nearest() -> None:
    given = Problem(target=weight(), metric=metric_of(np.eye(K)))
    grid = grid_of(given)
    np.testing.assert_array_equal(sweep(given, grid), rounded(grid, given.target))


def test_a_signed_scale_gives_the_longer_side_of_zero_the_ninth_step() -> None:
    one_sided = np.linspace(0, 1, 32, dtype=np.float32).reshape(1, 32)
    up = search_int4(one_sided, np.ones(32, np.float32), group_size=32, symmetric=True)
    down = search_int4(-one_sided, np.ones(32, np.float32), group_size=32, symmetric=True)
    assert up.scales[0, 0] < 0 < down.scales[0, 0]


def test_the_searched_scale_is_better_than_the_plain_search_by_the_measure_that_counts() -> None:
    importance = np.geomspace(0.01, 100, K).astype(np.float32)
    grid = search_int4(weight(), importance, group_size=32, symmetric=True)
    ours = grid.finish(rounded(grid, weight()))
    plain = int4(weight(), group_size=32, symmetric=True)

    def error(made: codes.Codes) -> float:
        return float((((dequantise(made) - weight()) ** 2) * importance).sum())

    assert error(ours) < error(plain)


def test_fp8_scales_clip_nothing_and_make_no_nan() -> None:
    grid = search_fp8(weight(), np.ones(K, np.float32))
    made = rounded(grid, weight() * 2)
    decoded = grid.finish(made).codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    assert np.isfinite(decoded).all()
    assert (grid.scales >= np.abs(weight()).max(axis=1) / 448 * (1 - 1e-6)).all()
    np.testing.assert_array_equal(dequantise(grid.finish(made)), made.T)


def test_rounding_to_e4m3_is_what_a_cast_does() -> None:
    every = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    every = np.unique(every[np.isfinite(every)])
    between = (every[1:] + every[:-1]) / 2
    random = (np.random.default_rng(0).standard_normal(20000) * np.geomspace(1e-4, 100, 20000)).astype(np.float32)
    values = np.clip(np.concatenate([every, between, np.nextafter(between, np.float32(0)), random]), -FP8_MAX, FP8_MAX)
    np.testing.assert_array_equal(round_e4m3(values), values.astype(ml_dtypes.float8_e4m3fn).astype(np.float32))


def test_a_channel_that_is_always_zero_costs_nothing_and_breaks_nothing() -> None:
    given = problem(weight(), moments(inputs() * (np.arange(K) % 7 > 0)), centred=False, drift_share=0.5)
    grid, made = solve(given, grid_of(given), Polish())
    assert np.isfinite(made).all()
    assert np.isfinite(grid.scales).all()


def test_no_rows_at_all_leave_round_to_nearest() -> None:
    empty = Moments(K)
    empty.flush()
    given = problem(weight(), empty, centred=True, drift_share=0.5)
    np.testing.assert_array_equal(given.target, weight())
    assert not shift(weight(), weight(), empty).any()


def test_what_earlier_layers_lost_is_made_up_for() -> None:
    exact = inputs()
    seen = exact * np.float32(0.8)
    moved = problem(weight(), moments(exact, seen), centred=False, drift_share=1.0)
    kept = problem(weight(), moments(exact, seen), centred=False, drift_share=0.0)

    def miss(target: np.ndarray) -> float:
        return float(((exact @ weight().T - seen @ target.T) ** 2).sum())

    assert miss(moved.target) < 0.1 * miss(kept.target)


def test_a_shifted_bias_gives_the_mean_output_back() -> None:
    exact, seen = inputs(seed=1), inputs(seed=2) + np.float32(0.1)
    coarse = np.round(weight() * 8) / 8
    added = shift(weight(), coarse, moments(exact, seen))
    np.testing.assert_allclose((seen @ coarse.T).mean(0) + added, (exact @ weight().T).mean(0), atol=1e-4)


def test_moments_do_not_depend_on_how_rows_come_in_portions() -> None:
    whole, parts = moments(inputs(3000), inputs(3000, 1)), Moments(K)
    for first, second in zip(np.array_split(inputs(3000), 11), np.array_split(inputs(3000, 1), 11), strict=True):
        parts.add(first, second)
    parts.flush()
    np.testing.assert_allclose(parts.gram, whole.gram, rtol=1e-3, atol=1e-2)
    assert parts.rows == whole.rows == 3000


def test_a_hessian_that_is_not_positive_is_told_as_such() -> None:
    with pytest.raises(StepError, match="no positive Hessian"):
        metric_of(-np.eye(K))


def test_a_metric_solves_with_its_hessian_whatever_the_size() -> None:
    for size in (5, 64, 200):
        rows = np.random.default_rng(size).standard_normal((3 * size, size))
        hessian, right = rows.T @ rows, rows[:7].T.copy()
        np.testing.assert_allclose(metric_of(hessian).solve(right), np.linalg.solve(hessian, right), rtol=1e-8)


def quantised(tmp_path: Path, scheme: str, *, data: bool = True, name: str = "out") -> Path:
    out = tmp_path / name
    out.mkdir()
    calibration = tmp_path / "cases" if data else None
    quantise(scheme_of(scheme), (), tmp_path / "captured", out, calibration)
    return out


def captured(tmp_path: Path) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    save_cases(tmp_path / "cases", rows(24))
    return capture(tmp_path / "captured", deep(3))


def output(model: onnx.ModelProto, weights: dict[str, np.ndarray]) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(onnx_io.attach(model, weights).SerializeToString(), options)
    return np.concatenate([session.run(["y"], row)[0] for row in rows(8, seed=99)])


def served(tmp_path: Path, out: Path, weights: dict[str, np.ndarray]) -> np.ndarray:
    graph = apply(read_layers(out), onnx_io.load_graph(tmp_path / "captured" / "graph.onnx"), where="test")
    made = dict(weights) | read_overrides(out)
    coded = codes.load(out / "codes.safetensors")
    for linear in read_layers(out):
        made |= onnx_tensors(linear, coded[linear.layer])
    return output(graph, made)


@pytest.mark.parametrize("scheme", ["w4a16", "w4a16-asym", "fp8"])
def test_a_model_fitted_to_data_is_nearer_to_float_on_other_data_than_a_rounded_one(
    tmp_path: Path, scheme: str
) -> None:
    model, weights = captured(tmp_path)
    exact = output(model, weights)
    errors = {}
    for data in (True, False):
        out = quantised(tmp_path, scheme, data=data, name=str(data))
        errors[data] = float(((served(tmp_path, out, weights) - exact) ** 2).mean())
    assert errors[True] < 0.6 * errors[False]


def test_a_bias_that_changed_is_the_schemes_own_and_comes_back_from_its_archive(tmp_path: Path) -> None:
    model, weights = captured(tmp_path)
    out = quantised(tmp_path, "w4a16")
    assert bias.find(model, linears(model)) == {f"block.{i}.up": f"block.{i}.up.bias" for i in range(3)}
    assert sorted(read_overrides(out)) == [f"block.{i}.up.bias.adjusted" for i in range(3)]
    archives = tmp_path / "archives"
    for name, folder, scheme in (("fp32", quantised(tmp_path, "fp32", name="fp32"), "fp32"), ("w4", out, "w4a16")):
        (archives / name).mkdir(parents=True)
        encode.encode(scheme_of(scheme), ENCODINGS, tmp_path / "captured", folder, archives / name)
    assert (archives / "fp32" / "float.irpa").read_bytes() == (archives / "w4" / "float.irpa").read_bytes()
    graph = onnx_io.load_graph(archives / "w4" / "graph.onnx")
    stored = encode.read_archive(archives / "w4" / "float.irpa") | encode.read_archive(archives / "w4" / "linears.irpa")
    back = restore(graph, stored, ENCODINGS)
    np.testing.assert_array_equal(output(graph, back), served(tmp_path, out, weights))


def test_the_audit_tells_the_method_that_was_used_and_the_data(tmp_path: Path) -> None:
    captured(tmp_path)
    (tmp_path / "cases" / "calibration.json").write_text(json.dumps({"name": "rows", "sha256": "sha256:0"}))
    out = quantised(tmp_path, "w4a16")
    (tmp_path / "archives").mkdir()
    encode.encode(scheme_of("w4a16"), ENCODINGS, tmp_path / "captured", out, tmp_path / "archives")
    facts = json.loads((tmp_path / "archives" / "audit.json").read_text())
    assert facts["method"].startswith("GPTQ")
    assert facts["calibration"] == {"name": "rows", "sha256": "sha256:0", "cases": 24}


def test_the_same_data_gives_the_same_bytes_and_leaves_no_live_values(tmp_path: Path) -> None:
    captured(tmp_path)
    first, second = (quantised(tmp_path, "w4a16", name=name) for name in "ab")
    assert sorted(path.name for path in first.iterdir()) == [
        "codes.safetensors", "layers.json", "method.json", "overrides.safetensors",
    ]
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_padded_rows_shape_no_hessian(tmp_path: Path) -> None:
    model = deep(1)
    model.graph.input.append(onnx.helper.make_tensor_value_info("attention_mask", 7, ["batch", "sequence"]))
    capture(tmp_path / "captured", model)
    clean = [{**row, "attention_mask": np.ones((1, 24), np.int64)} for row in rows(4)]
    padded = [
        {
            "x": np.pad(row["x"], ((0, 0), (0, 8), (0, 0)), constant_values=0.3),
            "attention_mask": np.pad(row["attention_mask"], ((0, 0), (0, 8))),
        }
        for row in clean
    ]
    made = {}
    for name, data in (("clean", clean), ("padded", padded)):
        save_cases(tmp_path / name, data)
        (tmp_path / f"out-{name}").mkdir()
        quantise(scheme_of("w4a16"), (), tmp_path / "captured", tmp_path / f"out-{name}", tmp_path / name)
        made[name] = codes.load(tmp_path / f"out-{name}" / "codes.safetensors")
    np.testing.assert_array_equal(made["clean"]["block.0.gate"].codes, made["padded"]["block.0.gate"].codes)


def test_calibration_data_that_breaks_the_model_is_refused(tmp_path: Path) -> None:
    capture(tmp_path / "captured", deep(1))
    for name, value, error in (("nan", np.nan, IntegrityError), ("shape", None, StepError)):
        row = rows(1)[0]
        broken = {"x": row["x"][..., :9] if value is None else row["x"] * np.float32(value)}
        (tmp_path / f"out-{name}").mkdir()
        with pytest.raises(error, match="calibration data"):
            quantise(
                scheme_of("w4a16"), (), tmp_path / "captured", tmp_path / f"out-{name}",
                save_cases(tmp_path / name, [broken]),
            )
