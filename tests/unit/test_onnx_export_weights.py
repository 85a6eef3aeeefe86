"""Weights of an exported model: one at a time in memory, inside the file or beside it, to the same result."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from onnx_parts import linear, model_of

from hwc import onnx_io
from hwc.formats import BITS, Format
from hwc.quantise import blocked
from hwc.quantise.blocked_weights import Tensor, of_array
from hwc.quantise.codes import Codes, dequantise, fp8
from hwc.quantise.encodings import ENCODINGS, pack
from hwc.quantise.graph import apply
from hwc.quantise.linears import assign, find
from hwc.quantise.restore import layers
from hwc.serve.onnx_export import session_options
from hwc.serve.onnx_export_weights import ALIGNED_BYTES, tensors, write

WIDTH, OUT = 64, 48


def values() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "weight": rng.standard_normal((WIDTH, OUT)).astype(np.float32),
        "bias": rng.standard_normal(OUT).astype(np.float32),
    }


def graph() -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["p"]), helper.make_node("Add", ["p", "bias"], ["y"])]
    return model_of(nodes, {}, width=WIDTH, out=OUT)


@pytest.mark.parametrize("beside", [False, True])
def test_the_file_computes_with_its_weights(beside: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write(graph(), (of_array(name, value) for name, value in values().items()), path, beside=beside)
    onnx.checker.check_model(str(path), full_check=True)
    assert (tmp_path / "model.onnx.data").exists() == beside
    x = np.ones((2, WIDTH), np.float32)
    (found,) = onnxruntime.InferenceSession(str(path)).run(None, {"x": x})
    np.testing.assert_allclose(found, x @ values()["weight"] + values()["bias"], rtol=0, atol=1e-4)


FORMATS = [
    *(Format(kind=kind, group_size=32, zeros=zeros) for kind in ("int4", "int8") for zeros in ("none", "point")),
    Format(kind="int4", group_size=32, zeros="offset"),  # ONNX Runtime has no kernel for int8 with offsets
]


@pytest.mark.parametrize("standard", [False, True], ids=["matmulnbits", "dequantize-linear"])
@pytest.mark.parametrize("form", [*FORMATS, Format(kind="fp8")], ids=Format.told)
def test_both_forms_multiply_by_what_the_archives_hold(form: Format, standard: bool, tmp_path: Path) -> None:
    codes = coded(form)
    model = linear(WIDTH, OUT)
    onnx_io.detach(model)
    model = apply(assign(find(model), {"linear": form, "embedding": None}), model, where="test")
    encodings = {form.kind: ENCODINGS[form.kind][0]}
    stored = {name: part.payload.tobytes() for name, part in pack("fc", codes, encodings[form.kind]).items()}
    found = tuple(layers(model))
    whole = blocked.rewrite(model, found) if standard else model
    made = list(tensors(model, found, stored, encodings, standard=standard))
    del whole.graph.input[1:]
    write(whole, made, tmp_path / "m.onnx", beside=True)
    options = onnxruntime.SessionOptions()
    for name, value in session_options(found, standard=standard).items():
        options.add_session_config_entry(name, value)
    x = np.random.default_rng(1).standard_normal((2, WIDTH)).astype(np.float32)
    (y,) = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), options).run(None, {"x": x})
    expected = x @ dequantise(codes).T
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(dequantise(codes)).max() * WIDTH)


def coded(form: Format) -> Codes:
    """Return a weight in any format; zero points and offsets are not what rounding would choose."""
    rng = np.random.default_rng(2)
    if form.kind == "fp8":
        return fp8(rng.standard_normal((OUT, WIDTH)).astype(np.float32))
    most, groups = 1 << BITS[form.kind], WIDTH // form.group_size
    points = rng.integers(0, most, (OUT, groups)).astype(np.uint8)
    offsets = rng.standard_normal((OUT, groups)).astype(np.float16)
    return Codes(
        kind=form.kind, codes=rng.integers(0, most, (OUT, WIDTH)).astype(np.uint8),
        scales=rng.uniform(0.001, 0.02, (OUT, groups)).astype(np.float16),
        zeros=points if form.zeros == "point" else None, offsets=offsets if form.zeros == "offset" else None,
    )


def test_weights_beside_the_file_can_be_mapped_and_leave_no_gap_but_that(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write(graph(), (of_array(name, value) for name, value in values().items()), path, beside=True)
    told = onnx.load(path, load_external_data=False).graph.initializer
    facts = [{entry.key: entry.value for entry in tensor.external_data} for tensor in told]
    assert [fact["location"] for fact in facts] == ["model.onnx.data"] * 2
    assert [int(fact["offset"]) for fact in facts] == [0, WIDTH * OUT * 4]
    assert WIDTH * OUT * 4 % ALIGNED_BYTES == 0
    assert (tmp_path / "model.onnx.data").stat().st_size == WIDTH * OUT * 4 + OUT * 4
    assert path.stat().st_size < 1000


def test_memory_holds_one_weight_at_a_time(tmp_path: Path) -> None:
    alive: list[weakref.ref[np.ndarray]] = []

    def made() -> Iterator[Tensor]:
        for number in range(4):
            assert sum(value() is not None for value in alive) <= 1
            tensor = of_array(f"w{number}", np.zeros(1 << 16, np.float32))
            alive.append(weakref.ref(tensor.payload))
            yield tensor
            del tensor

    write(graph(), made(), tmp_path / "model.onnx", beside=True)
    assert len(alive) == 4


def test_no_file_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        write(graph(), [], tmp_path / "model.onnx", beside=False)
