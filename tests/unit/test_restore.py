"""A quantised graph and the archives of any encoding give back the model that was checked, to the bit."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_parts import model_of

from hwc import onnx_io
from hwc.capture.capture import save_weights
from hwc.errors import IntegrityError
from hwc.quantise import codes as canonical
from hwc.quantise import encode as encoding_stage
from hwc.quantise.graph import onnx_tensors
from hwc.quantise.linears import assign, find
from hwc.quantise.restore import restore
from hwc.quantise.scheme import SCHEMES, Scheme

WIDTH, OUT = 96, 48
PLACE = "/home/somebody/model.py"


def captured(folder: Path, scheme: Scheme) -> dict[str, np.ndarray]:
    """Write what capture and quantise would have written; return the weights that the graph is to get back."""
    rng = np.random.default_rng(3)
    weights = {
        "fc.weight": rng.standard_normal((WIDTH, OUT)).astype(np.float32),
        "fc.bias": rng.standard_normal(OUT).astype(np.float32),
    }
    node = helper.make_node("Gemm", ["x", "fc.weight", "fc.bias"], ["y"], name="fc", doc_string=PLACE)
    node.metadata_props.add(key="stack_trace", value=f"File {PLACE}, line 1")
    model = model_of([node], weights, width=WIDTH, out=OUT)
    onnx_io.detach(model)
    onnx_io.save(model, folder / "graph.onnx")
    save_weights(weights, folder / "weights.safetensors")
    (linear,) = assign(find(model), scheme.of_model("float").formats)
    coded = {}
    if scheme.linears is not None:
        coded = {"fc": canonical.nearest(np.ascontiguousarray(weights.pop("fc.weight").T), scheme.linears)}
        weights.update(onnx_tensors(linear, coded["fc"]))
    canonical.save(coded, folder / "codes.safetensors")
    rows = [asdict(linear)]
    (folder / "layers.json").write_text(json.dumps(rows))
    return weights


@pytest.mark.parametrize(
    ("scheme", "encoding"),
    [
        ("fp32", "none"), ("w4a16", "i4-grouped"), ("w4a16", "u8-nibbles"), ("w4a16-asym", "i4-grouped"),
        ("w4a16-asym", "u8-nibbles"), ("w4a8", "i4-tiled"), ("w8a16", "i8-grouped"), ("w8a16", "u8-words"),
        ("fp8", "e4m3-bits"), ("fp8", "e4m3-words"),
    ],
)
def test_every_encoding_gives_the_graph_its_weights_back(scheme: str, encoding: str, tmp_path: Path) -> None:
    expected = captured(tmp_path, SCHEMES[scheme])
    out = tmp_path / "out"
    out.mkdir()
    encodings = dict.fromkeys(SCHEMES[scheme].of_model("float").kinds, encoding)
    encoding_stage.encode(SCHEMES[scheme], encodings, tmp_path, tmp_path, out)
    stored = {
        key: value
        for name in (encoding_stage.FLOAT_ARCHIVE, encoding_stage.LINEAR_ARCHIVE)
        for key, value in encoding_stage.read_archive(out / name).items()
    }
    graph = onnx_io.load_graph(out / encoding_stage.GRAPH)

    restored = restore(graph, stored, encodings)

    assert set(restored) == set(expected) == set(onnx_io.weight_names(graph))
    for name, value in expected.items():
        assert restored[name].dtype == value.dtype
        assert restored[name].tobytes() == value.tobytes()
        assert restored[name].shape == value.shape
    onnx.checker.check_model(onnx_io.attach(graph, restored))


def test_the_graph_names_no_place_of_the_machine_that_made_it(tmp_path: Path) -> None:
    captured(tmp_path, SCHEMES["w4a16"])
    out = tmp_path / "out"
    out.mkdir()
    encoding_stage.encode(SCHEMES["w4a16"], {"int4": "i4-grouped"}, tmp_path, tmp_path, out)

    assert PLACE.encode() in (tmp_path / "graph.onnx").read_bytes()
    assert PLACE.encode() not in (out / encoding_stage.GRAPH).read_bytes()


@pytest.mark.parametrize("change", [lambda payload: payload[:-4], lambda payload: b""], ids=["short", "absent"])
def test_archives_that_do_not_fit_the_graph_are_refused(change, tmp_path: Path) -> None:
    captured(tmp_path, SCHEMES["fp32"])
    out = tmp_path / "out"
    out.mkdir()
    encoding_stage.encode(SCHEMES["fp32"], {}, tmp_path, tmp_path, out)
    stored = encoding_stage.read_archive(out / encoding_stage.FLOAT_ARCHIVE)
    stored["fc.bias"] = change(stored["fc.bias"])

    stored["fc.weight"] = bytes(4 * WIDTH * OUT)

    with pytest.raises(IntegrityError, match=r"fc\.bias"):
        restore(onnx_io.load_graph(out / encoding_stage.GRAPH), stored, {})
