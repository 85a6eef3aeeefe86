"""Quantised linears over devices: shares of one packed weight give the unsharded answer, and stay packed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_parts import model_of
from shard_parts import answer, compiled, loaded, module, plain
from vendor_parts import opened

from hwc import machine, onnx_io
from hwc.formats import Format, Kind
from hwc.lower import links
from hwc.lower.sharding import Sharded, shard
from hwc.quantise.codes import Codes, nearest
from hwc.quantise.encodings import Packed, pack
from hwc.quantise.graph import apply, onnx_tensors
from hwc.quantise.linears import assign, find

ROWS, WIDTH, INNER = 4, 128, 192
INT4 = Format(kind="int4", group_size=32)
FP8 = Format(kind="fp8")
FORMS = {
    "int4": INT4, "int4 zero points": replace(INT4, zeros="point"), "int4 offsets": replace(INT4, zeros="offset"),
    "int8": Format(kind="int8", group_size=32), "fp8": FP8, "fp8 dynamic": replace(FP8, activations="dynamic"),
    "fp8 static": replace(FP8, activations="static"), "int4 int8 activations": replace(INT4, activations="int8"),
}
ENCODINGS: dict[Kind, str] = {"int4": "i4-grouped", "int8": "i8-grouped", "fp8": "e4m3-bits"}
WORDS: dict[Kind, str] = {"int4": "u8-nibbles", "int8": "u8-words", "fp8": "e4m3-words"}
TILED: dict[Kind, str] = {"int4": "i4-tiled"}
Made = tuple[onnx.ModelProto, dict[str, np.ndarray], dict[str, Packed]]


def codes_of(weight: np.ndarray, form: Format) -> Codes:
    if form.zeros != "offset":
        return nearest(weight, form)
    made = nearest(weight, replace(form, zeros="none"))
    offsets = np.random.default_rng(5).normal(size=made.scales.shape).astype(np.float16)
    return replace(made, offsets=offsets)


def perceptron(form: Format, encodings: dict[Kind, str], *, width: int = WIDTH, inner: int = INNER) -> Made:
    """Return a quantised graph of two linears, its weights for ONNX Runtime, and its entries in an archive."""
    rng = np.random.default_rng(11)
    floats = {"up.weight": (width, inner), "up.bias": (inner,), "down.weight": (inner, width), "down.bias": (width,)}
    weights = {name: (rng.normal(size=shape) / 8).astype(np.float32) for name, shape in floats.items()}
    nodes = [
        helper.make_node("Gemm", ["x", "up.weight", "up.bias"], ["h"], name="up"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "down.weight", "down.bias"], ["y"], name="down"),
    ]
    model = onnx.shape_inference.infer_shapes(model_of(nodes, weights, width=width, out=width, rows=ROWS))
    onnx_io.detach(model)
    linears = [replace(linear, activation_scale=0.01) for linear in assign(find(model), {"linear": form})]
    apply(linears, model, where="test")
    feeds, entries = {}, {}
    for linear in linears:
        codes = codes_of(np.ascontiguousarray(weights[linear.weight].T), form)
        feeds |= onnx_tensors(linear, codes)
        entries |= pack(linear.layer, codes, encodings[form.kind])
    biases = {name: weights[name] for name in ("up.bias", "down.bias")}
    return model, {**feeds, **biases}, {**entries, **plain(biases)}


def whole_answer(made: Made, x: np.ndarray) -> np.ndarray:
    return answer(onnx_io.attach(made[0], made[1]), {"x": x})


CASES = [
    *((name, ENCODINGS, 2) for name in FORMS), *((name, WORDS, 2) for name in ("int4", "int8", "fp8")),
    ("int4", ENCODINGS, 3), ("int4 offsets", TILED, 2),
]
FEW = ("int4 zero points", "fp8 dynamic")


@pytest.mark.parametrize(
    ("name", "encodings", "devices"),
    [case if case[0] in FEW else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_shares_of_a_packed_weight_give_the_unsharded_answer(
    name: str, encodings: dict[Kind, str], devices: int, tmp_path: Path
) -> None:
    made = perceptron(FORMS[name], encodings)
    x = np.random.default_rng(3).normal(size=(ROWS, WIDTH)).astype(np.float32)
    expected = whole_answer(made, x)
    told = shard(made[0], devices)
    assert told == Sharded(columns=("up",), rows=("down",), whole=())
    text = module(made[0], tmp_path, devices, encodings)
    assert links.count(text.splitlines()) == by_hand(FORMS[name], devices)
    weights = [line for line in text.splitlines() if "util.global private @" in line and "packed." in line]
    assert weights
    assert all("stream.affinity" in line for line in weights)
    code = compiled(text, tmp_path)
    found = loaded(code, made[2], {"x": x}, expected.shape, devices).call("main", {"x": x})["y"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def by_hand(form: Format, devices: int) -> dict[str, int]:
    """Count what passes: the input out and the product back; for a scale a token, maxima of the parts back, scales out.

    Both find the scale of the input themselves.
    """
    each, more = ROWS * WIDTH * 4 * 2, 0
    if form.activations == "dynamic":
        more = 2
    return {"transfers": (2 + more) * (devices - 1), "bytes": (each + more * ROWS * 4) * (devices - 1)}


def test_a_group_of_codes_is_never_divided() -> None:
    """192 inputs are 6 groups: 3 a device on two; over four, the layer cannot be split by rows."""
    model, _, _ = perceptron(INT4, ENCODINGS)
    assert shard(model, 4) == Sharded(columns=("up", "down"), rows=(), whole=())


def test_a_tile_of_rows_is_never_divided() -> None:
    """224 outputs are 14 tiles of 16, 7 a device; 112 are 7, which two devices do not divide."""
    for inner, columns in ((224, ("up",)), (112, ("down",))):
        model, _, _ = perceptron(replace(INT4, group_size=16), ENCODINGS, inner=inner)
        assert shard(model, 2).columns == columns


def test_a_layer_that_divides_neither_way_stays_whole_and_is_told() -> None:
    model, _, _ = perceptron(INT4, ENCODINGS)
    assert shard(model, 5) == Sharded(columns=(), rows=(), whole=("up", "down"))


def test_a_vendors_kernel_takes_shares_of_whole_rows_and_the_compiler_the_others(tmp_path: Path) -> None:
    made = perceptron(FORMS["int4 zero points"], ENCODINGS)
    x = np.random.default_rng(3).normal(size=(ROWS, WIDTH)).astype(np.float32)
    expected = whole_answer(made, x)
    shard(made[0], 2)
    own = opened(tmp_path)
    text = module(made[0], tmp_path, 2, ENCODINGS, own)
    found = loaded(compiled(text, tmp_path), made[2], {"x": x}, x.shape, 2).call("main", {"x": x})["y"]
    assert text.count("flow.dispatch ") == 2
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["int4", pytest.param("fp8", marks=pytest.mark.slow)])
def test_shares_stay_packed_in_memory(name: str, tmp_path: Path) -> None:
    """Unpacked to float, or copied once a device, they would take 16 MiB; packed copies 1 MiB and more."""
    made = perceptron(FORMS[name], ENCODINGS, width=1024, inner=2048)
    shard(made[0], 2)
    code = compiled(module(made[0], tmp_path, 2, ENCODINGS), tmp_path)
    x = np.zeros((ROWS, 1024), np.float32)
    before = machine.private_bytes()
    session = loaded(code, made[2], {"x": x}, x.shape, 2)
    session.call("main", {"x": x})
    assert machine.private_bytes() - before < 1 << 20
