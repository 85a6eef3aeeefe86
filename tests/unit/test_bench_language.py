"""The pure parts of the bench of language models' quality: peers' codes as floats, what it tells, where it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import language_page
import language_quality
from peers import onnxruntime_nbits

from hwc.capture.simplify import session
from hwc.formats import Format
from hwc.quantise import codes, quantise
from hwc.quantise.graph import onnx_tensors
from hwc.quantise.linears import ADJUSTED, Linear

K, N, GROUP = 96, 24, 32


def weight(k: int = K) -> np.ndarray:
    return np.random.default_rng(k).standard_normal((k, N)).astype(np.float32)


def float_model(k: int = K) -> onnx.ModelProto:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    sizes = {"x": k, "y": N}
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", size]) for name, size in sizes.items())
    graph = helper.make_graph([node], "g", [x], [y], initializer=[onnx.numpy_helper.from_array(weight(k), "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize(
    ("method", "k"), [("default-sym", 96), ("default-asym", 96), ("hqq", 96), ("k_quant", 128), ("gptq", 128)]
)
def test_weights_read_back_from_onnx_runtimes_quantiser_compute_what_its_model_does(
    method: str, k: int, tmp_path: Path
) -> None:
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits

    x = np.random.default_rng(1).standard_normal((256, k)).astype(np.float32)
    np.savez(tmp_path / "cases.npz", **{f"{at}/x": x[at::2] for at in range(2)})
    config = onnxruntime_nbits.METHODS[method](nbits, GROUP, tmp_path / "cases.npz")
    quantiser = nbits.MatMulNBitsQuantizer(
        float_model(k), block_size=GROUP, is_symmetric=method != "k_quant", algo_config=config
    )
    quantiser.process()
    found = onnxruntime_nbits.read_back(quantiser.model.model, {"y": "w"}, ["w"])["w"]
    assert 0.98 < np.corrcoef(found.ravel(), weight(k).ravel())[0, 1] < 1
    np.testing.assert_allclose(x @ found, session(quantiser.model.model).run(None, {"x": x})[0], atol=2e-5)


def test_a_weight_that_a_peer_left_out_is_an_error() -> None:
    with pytest.raises(SystemExit, match="1 weights were not quantised, as w"):
        onnxruntime_nbits.read_back(float_model(), {"y": "w"}, ["w"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A quantise step's output: a linear stored as [K, N], a table, and a bias that changed with the linear."""
    import dataclasses
    import json

    from safetensors.numpy import save_file

    form = Format(kind="int4", group_size=GROUP)
    linear = Linear(layer="a", weight="a.weight", k=K, n=N, transposed=False, format=form, adjusted="a.bias")
    table = Linear(layer="t", weight="t.weight", k=K, n=N, transposed=True, role="embedding", format=form)
    matrix = np.ascontiguousarray(weight().T)
    codes.save({"a": codes.nearest(matrix, form), "t": codes.nearest(matrix, form)}, tmp_path / quantise.CODES)
    rows = [dataclasses.asdict(one) for one in (linear, table)]
    (tmp_path / quantise.LAYERS).write_text(json.dumps(rows))
    save_file({"a.bias" + ADJUSTED: np.ones(N, np.float32)}, tmp_path / quantise.OVERRIDES)
    return tmp_path


def test_own_codes_become_the_floats_that_onnx_runtime_sees_and_tables_stay(folder: Path) -> None:
    found = language_quality.own_weights(folder)
    (linear, _), coded = quantise.read_layers(folder), codes.load(folder / quantise.CODES)["a"]
    tensors = onnx_tensors(linear, coded)
    seen = onnxruntime_nbits.dequantise(tensors["a.codes"], tensors["a.scales"], k=K, n=N, group=GROUP)
    assert set(found) == {"a.weight", "a.bias"}
    np.testing.assert_array_equal(found["a.weight"], seen)
    np.testing.assert_array_equal(found["a.bias"], np.ones(N))


def test_bits_count_codes_and_float16_scales_of_linears_alone(folder: Path) -> None:
    assert language_quality.own_bits(folder) == 4.5


def test_replaced_weights_must_fit_the_graph() -> None:
    floats = {"a": np.zeros((2, 3)), "b": np.zeros(1)}
    assert set(language_quality.merged(floats, {"a": np.ones((2, 3))})) == {"a", "b"}
    for wrong in ({"c": np.ones((2, 3))}, {"a": np.ones((3, 2))}):
        with pytest.raises(SystemExit, match="where the graph has"):
            language_quality.merged(floats, wrong)


def facts() -> dict:
    machine = {"machine": {"cpu_model": "A CPU"}, "measured_utc": "now", "busy_cores_before": 0.01, "quiet": True}
    number = {"value": 0.5, "standard_error": 0.01}
    metrics = dict.fromkeys(("kl_mean", "kl_p99", "top1", "perplexity_ratio"), number)
    cost = {"cpu_s": 60.0, "peak_rss_bytes": 2**30, "versions": {"tool": "1"}, "settings": "as they come"}
    better = {**metrics, "kl_mean": {"value": 0.1, "standard_error": None}}
    quality = {
        **machine, "reference": "float32, dequantised Q4_K_M", "data_sha256": "sha256:" + "0" * 64, "windows": 24,
        "calibration": {"items": 96, "window_tokens": 256},
        "rows": [
            {"name": "hwc w4a16-rtn", "bits": 4.5, "metrics": metrics, "cost": cost},
            {"name": "hwc w4a16", "bits": 4.5, "metrics": better, "cost": cost},
            {"name": "a peer", "absent": "it does not install"},
        ],
        "shipped": [{"scheme": "w4a16", "metrics": better}],
    }
    return {"quality": {"m": quality, "n": {**quality, "quiet": False}}}


def test_the_page_tells_figures_shares_absences_and_a_busy_machine() -> None:
    page = language_page.page(facts())
    assert "Reference: float32, dequantised Q4_K_M." in page
    assert "| hwc w4a16 | 4.500 | 0.1000 | 0.200 | 0.50 | 0.500 ± 0.010 | 0.5000 ± 0.0100 | 60 | 1024 |" in page
    assert page.index("| hwc w4a16 |") < page.index("| hwc w4a16-rtn |")
    assert "- a peer: it does not install" in page
    assert page.count("The machine was busy") == 1
