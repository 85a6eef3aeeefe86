"""A graph cut at its linears computes, part by part, what it computes whole; calibration stays bounded in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from calibration_parts import capture, deep, linears, rows, save_cases, scheme_of
from onnx import TensorProto, helper

from hwc import onnx_io
from hwc.errors import IntegrityError, StepError
from hwc.quantise import quantise
from hwc.quantise.live import Cases, LiveValues, Stream
from hwc.quantise.segments import Segment, cut, subgraph
from hwc.quantise.together import together
from hwc.quantise.weights import Weights

BLOCKS = 3


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray], outputs: list[str]) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(outputs, session.run(outputs, feeds), strict=True))


def parts(tmp_path: Path) -> tuple[onnx.ModelProto, dict[str, np.ndarray], list[Segment]]:
    model, weights = capture(tmp_path / "captured", deep(BLOCKS))
    return model, weights, cut(model, linears(model))


def test_segments_run_one_after_another_make_every_linears_input_as_the_whole_graph_does(tmp_path: Path) -> None:
    model, weights, segments = parts(tmp_path)
    values = dict(rows(1)[0])
    sources = [group.source for segment in segments for group in segment.groups]
    whole = onnx.ModelProto.FromString(model.SerializeToString())
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sources)
    expected = run(whole, values | weights, sources)
    for segment in segments:
        if not segment.outputs:
            continue
        types = dict.fromkeys((*segment.inputs, *segment.weights), TensorProto.FLOAT)
        feeds = {name: values[name] for name in segment.inputs} | {name: weights[name] for name in segment.weights}
        values |= run(subgraph(model, segment, types), feeds, list(segment.outputs))
    assert len(sources) == 2 * BLOCKS
    for name in sources:
        np.testing.assert_allclose(values[name], expected[name], rtol=1e-6, atol=1e-6)


def test_every_node_is_in_one_segment_and_few_values_cross(tmp_path: Path) -> None:
    model, _, segments = parts(tmp_path)
    placed = [node for segment in segments for node in segment.nodes]
    assert len(placed) == len(set(placed)) == len(model.graph.node) - 3  # the last three are not needed
    assert len(segments) == 2 * BLOCKS + 1
    assert max(len(segment.outputs) for segment in segments) == 2


def test_linears_that_read_one_value_are_one_group_and_no_segment_holds_more_than_its_own_weights(
    tmp_path: Path,
) -> None:
    model, _, segments = parts(tmp_path)
    assert [[linear.layer for group in segment.groups for linear in group.linears] for segment in segments[1:3]] == [
        ["block.0.gate", "block.0.up"], ["block.0.down"],
    ]
    assert all(len({name.split(".")[1] for name in segment.weights}) <= 2 for segment in segments)
    assert len(onnx_io.weight_names(model)) == 5 * BLOCKS


def test_what_is_made_of_weights_alone_is_made_in_every_segment_that_reads_it() -> None:
    weights = {"a.weight": np.ones((64, 64), np.float32), "b.weight": np.ones((64, 64), np.float32)}
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Constant", [], ["two"], value_float=2.0),
                helper.make_node("Mul", ["x", "two"], ["x2"]),
                helper.make_node("MatMul", ["x2", "a.weight"], ["p"]),
                helper.make_node("Mul", ["p", "two"], ["q"]),
                helper.make_node("MatMul", ["q", "b.weight"], ["y"]),
            ],
            "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 64])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 64])],
            [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 21)],
    )
    onnx_io.detach(model)
    first, second, last = cut(model, linears(model))
    assert (first.outputs, second.inputs, second.outputs, last.nodes) == (("x2",), ("x2",), ("q",), ())
    assert 0 in first.nodes
    assert 0 in second.nodes


def test_weights_are_mapped_and_equal_what_was_saved(tmp_path: Path) -> None:
    _, weights, _ = parts(tmp_path)
    mapped = Weights(tmp_path / "captured" / "weights.safetensors")
    for name, value in weights.items():
        np.testing.assert_array_equal(mapped[name], value)
    with pytest.raises(IntegrityError, match="no readable weight 'other'"):
        mapped["other"]


def test_live_values_leave_the_disk_after_their_last_reader(tmp_path: Path) -> None:
    live = LiveValues(tmp_path)
    live.put("float", "v", 0, np.ones(3, np.float32))
    assert live.get("quantised", "v", 0).tolist() == [1, 1, 1]
    live.put("quantised", "v", 0, np.zeros(3, np.float32))
    assert live.get("quantised", "v", 0).tolist() == [0, 0, 0]
    live.drop("v")
    assert not list(tmp_path.iterdir())


def test_two_streams_may_be_written_at_once_and_what_is_written_is_found_again(tmp_path: Path) -> None:
    live = LiveValues(tmp_path)
    sizes: dict[Stream, int] = {"float": 3, "quantised": 5}

    def write(stream: Stream, size: int) -> None:
        for number in range(40):
            for case in range(3):
                live.put(stream, f"v{number}", case, np.full((case + 1, size), number, np.float32))

    together(*(partial(write, stream, size) for stream, size in sizes.items()))
    assert len({entry["number"] for entry in live.index.values()}) == len(list(tmp_path.iterdir())) == 80
    (tmp_path / "999.bin").write_bytes(b"left by a process that was killed")
    again = LiveValues(tmp_path, json.loads(json.dumps(live.index)))
    assert len(list(tmp_path.iterdir())) == 80
    for stream, size in sizes.items():
        for number in range(40):
            expected = np.full((3, size), number, np.float32)
            np.testing.assert_array_equal(again.get(stream, f"v{number}", 2), expected)


def test_an_input_that_cases_leave_out_is_an_empty_cache(tmp_path: Path) -> None:
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"]),
        helper.make_tensor_value_info("cache.key.0", TensorProto.FLOAT, ["batch", 3, 128, 64]),
    ]
    model = helper.make_model(helper.make_graph([], "g", inputs, []))
    folder = save_cases(tmp_path / "cases", [{"input_ids": np.ones((2, 5), np.int64)}])
    cache = Cases(folder, model).read(0, "cache.key.0")
    assert (cache.shape, cache.dtype, cache.any()) == ((2, 3, 128, 64), np.float32, False)


def test_data_without_a_case_is_refused(tmp_path: Path) -> None:
    model, _ = capture(tmp_path / "captured", deep(1))
    with pytest.raises(StepError, match="holds no case"):
        Cases(save_cases(tmp_path / "cases", []), model)


MEASURED = """
import sys, json
from pathlib import Path
from hwc.quantise.quantise import quantise
from hwc.quantise.scheme import SCHEMES
folder = Path(sys.argv[1])
cases = folder / "cases"
scheme = SCHEMES["w4a16"].of_model("float")
quantise(scheme, (), folder / "captured", folder / "out", cases if cases.is_dir() else None)
status = Path("/proc/self/status").read_text().splitlines()
print(json.dumps({key: int(value.split()[0]) for key, _, value in (line.partition(":") for line in status)
                  if key in ("VmHWM", "RssAnon")}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("cases", [8, 0], ids=["fitted", "rounded"])
def test_peak_memory_does_not_grow_with_depth(tmp_path: Path, cases: int) -> None:
    """Four times the blocks may add what is known of each layer, and neither weights nor activations nor codes."""
    peaks, model_bytes = {}, {}
    for blocks in (4, 16):
        folder = tmp_path / str(blocks)
        _, weights = capture(folder / "captured", deep(blocks, width=512, hidden=1024))
        model_bytes[blocks] = sum(value.nbytes for value in weights.values())
        if cases:
            save_cases(folder / "cases", rows(cases, sequence=64, width=512))
        (folder / "out").mkdir()
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, str(folder)], capture_output=True, text=True, check=True,
            env={"OPENBLAS_NUM_THREADS": "1", "PATH": ""},
        )
        peaks[blocks] = json.loads(done.stdout)["VmHWM"] * 1024
    told = {blocks: f"{model_bytes[blocks] >> 20} MiB of weights, peak {peaks[blocks] >> 20} MiB" for blocks in peaks}
    codes_bytes = (model_bytes[16] - model_bytes[4]) // 4
    assert peaks[16] - peaks[4] < codes_bytes // 3, told


def test_a_scheme_that_rounds_needs_no_data_and_says_so(tmp_path: Path) -> None:
    capture(tmp_path / "captured", deep(1))
    for scheme, data in (("w4a16", None), ("w4a16-rtn", save_cases(tmp_path / "cases", rows(1)))):
        out = tmp_path / scheme
        out.mkdir()
        quantise.quantise(scheme_of(scheme), (), tmp_path / "captured", out, data)
        told = json.loads((out / "method.json").read_text())
        assert told["method"].startswith("round to nearest")
        assert told["calibration"] is None
