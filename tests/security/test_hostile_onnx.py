"""Models from strangers: no file outside the model's folder is read, no code is run, and damage is told as damage."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from hwc import onnx_io
from hwc.capture import module
from hwc.capture.source import external_names, locate, refuse_pickles
from hwc.cli.bundle_action import _arrays
from hwc.errors import IntegrityError, UsageError
from hwc.spec import infer
from hwc.spec.model import OnnxSource

WIDTH, OUT = 64, 48


def write(folder: Path, *, location: str, data: bytes | None = None, **entries: str) -> Path:
    """Write a model whose weight lies outside of it, at a location and with entries of the test's choice."""
    folder.mkdir(parents=True, exist_ok=True)
    tensor = TensorProto(name="fc.weight", data_type=TensorProto.FLOAT, dims=[WIDTH, OUT])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "fc.weight"], ["y"], name="/fc/MatMul")], "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, OUT])],
    )
    graph.initializer.append(tensor)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    if data is not None:
        (folder / "weights.bin").write_bytes(data)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


WEIGHTS = np.arange(WIDTH * OUT, dtype=np.float32).tobytes()


def test_honest_external_data_is_read(tmp_path: Path) -> None:
    model = onnx_io.load(write(tmp_path, location="weights.bin", data=WEIGHTS))
    assert numpy_helper.to_array(model.graph.initializer[0]).tobytes() == WEIGHTS


def test_honest_external_data_is_mapped_where_that_is_asked_for(tmp_path: Path) -> None:
    outside: dict[str, np.ndarray] = {}
    model = onnx_io.load(write(tmp_path, location="weights.bin", data=WEIGHTS), outside)
    assert isinstance(outside["fc.weight"].base, np.memmap)
    assert model.ByteSize() < 1000
    assert onnx_io.detach(model, outside)["fc.weight"].tobytes() == WEIGHTS


def test_honest_external_data_at_an_offset_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, location="weights.bin", data=b"x" * 4096 + WEIGHTS, offset="4096", length=str(len(WEIGHTS)))
    assert numpy_helper.to_array(onnx_io.load(path).graph.initializer[0]).tobytes() == WEIGHTS


@pytest.mark.parametrize(
    "location",
    [
        "../secret.bin", "sub/../../secret.bin", "{absolute}", "..\\secret.bin", "", ".", "./", "weights.bin\0",
        "missing.bin",
    ],
)
def test_external_data_outside_the_models_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(WEIGHTS)
    path = write(tmp_path / "model", location=location.format(absolute=tmp_path / "secret.bin"))
    for outside in (None, {}):
        with pytest.raises(IntegrityError):
            onnx_io.load(path, outside)


@pytest.mark.parametrize("inside", [False, True], ids=["to outside", "to inside"])
def test_external_data_through_a_link_is_refused(tmp_path: Path, inside: bool) -> None:
    path = write(tmp_path / "model", location="link.bin")
    target = (tmp_path / "model" if inside else tmp_path) / "data.bin"
    target.write_bytes(WEIGHTS)
    (tmp_path / "model" / "link.bin").symlink_to(target)
    with pytest.raises(IntegrityError, match=r"link|regular file"):
        onnx_io.load(path)


def test_external_data_through_a_linked_folder_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "model", location="sub/data.bin")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "data.bin").write_bytes(WEIGHTS)
    (tmp_path / "model" / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="through a link"):
        onnx_io.load(path)


def test_external_data_in_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    path = write(tmp_path, location="pipe")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(IntegrityError, match="regular file"):
        onnx_io.load(path)


@pytest.mark.parametrize(
    "entries",
    [
        {"length": str(2**62)},
        {"offset": "-4096", "length": "64"},
        {"offset": str(len(WEIGHTS)), "length": "1"},
        {"offset": "4", "length": str(len(WEIGHTS))},
        {"length": "-1"},
        {"length": "much"},
        {"offset": "0x10"},
        {"offset": "9" * 5000},
        {"length": "4"},
    ],
    ids=lambda entries: ",".join(f"{key}={value[:12]}" for key, value in entries.items()),
)
def test_external_data_that_claims_other_bytes_than_there_are_is_refused(
    tmp_path: Path, entries: dict[str, str]
) -> None:
    for outside in (None, {}):
        with pytest.raises(IntegrityError):
            onnx_io.load(write(tmp_path, location="weights.bin", data=WEIGHTS, **entries), outside)


def test_external_data_shorter_than_the_tensor_is_refused(tmp_path: Path) -> None:
    for outside in (None, {}):
        with pytest.raises(IntegrityError):
            onnx_io.load(write(tmp_path, location="weights.bin", data=WEIGHTS[:-4]), outside)


def test_external_data_of_a_tensor_inside_a_subgraph_is_confined_too(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(WEIGHTS)
    outer = onnx.load_model(write(tmp_path / "model", location="../secret.bin"), load_external_data=False)
    hidden = outer.graph.initializer.pop()
    then = helper.make_graph(
        [helper.make_node("MatMul", ["x", "fc.weight"], ["inner"])], "then", [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, [1, OUT])],
    )
    then.initializer.append(hidden)
    condition = numpy_helper.from_array(np.array(True), "yes")
    branch = helper.make_node("If", ["yes"], ["y"], then_branch=then, else_branch=then)
    graph = helper.make_graph([branch], "graph", outer.graph.input, outer.graph.output, [condition])
    path = tmp_path / "model" / "nested.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]).SerializeToString())
    for outside in (None, {}):
        with pytest.raises(IntegrityError, match="leaves its folder"):
            onnx_io.load(path, outside)


def whole(tmp_path: Path) -> bytes:
    weight = np.random.default_rng(0).standard_normal((WIDTH, OUT)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "fc.weight"], ["y"])], "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, OUT])],
        [numpy_helper.from_array(weight, "fc.weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()


def without_nodes(payload: bytes) -> bytes:
    model = onnx.load_from_string(payload)
    del model.graph.node[:]
    return model.SerializeToString()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda payload: payload[: len(payload) // 2],
        lambda payload: payload[:-1],
        lambda payload: b"",
        lambda payload: b"this is no model at all",
        lambda payload: b"\x00" * 1000,
        lambda payload: b"\x80\x04\x95" + payload,
        lambda payload: b"PK\x03\x04" + payload,
        lambda payload: payload[:20] + b"\xff" * 20 + payload[40:],
        without_nodes,
    ],
    ids=["half", "last byte cut", "empty", "text", "zeros", "pickle", "zip", "overwritten", "no nodes"],
)
def test_a_file_that_is_no_whole_model_is_refused_as_such(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(spoil(whole(tmp_path)))
    with pytest.raises(IntegrityError):
        onnx_io.load(path)
    with pytest.raises(IntegrityError):
        infer.infer(str(path))


@pytest.mark.parametrize("seed", range(20))
def test_random_damage_is_refused_or_harmless_but_never_a_crash(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    payload = bytearray(whole(tmp_path))
    for place in rng.integers(0, len(payload), 8):
        payload[place] = rng.integers(0, 256)
    for place in rng.integers(0, 200, 3):  # the structure, not the weights
        payload[place] = rng.integers(0, 256)
    path = tmp_path / "model.onnx"
    path.write_bytes(payload)
    with contextlib.suppress(IntegrityError):
        onnx_io.detach(onnx_io.load(path))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_a_weight_that_is_not_finite_is_refused_by_name(tmp_path: Path, bad: float, dtype: str) -> None:
    import ml_dtypes

    value = np.ones((8, 8), ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    value[3, 4] = bad
    model = onnx.load_from_string(whole(tmp_path))
    model.graph.initializer.append(numpy_helper.from_array(value, "layer.bad"))
    with pytest.raises(IntegrityError, match=r"layer\.bad"):
        onnx_io.detach(model)


def test_a_nan_in_a_small_constant_is_refused_and_an_infinity_is_not(tmp_path: Path) -> None:
    model = onnx.load_from_string(whole(tmp_path))
    model.graph.initializer.append(numpy_helper.from_array(np.array([-np.inf], np.float32), "mask"))
    onnx_io.detach(model)
    model = onnx.load_from_string(whole(tmp_path))
    model.graph.initializer.append(numpy_helper.from_array(np.array([np.nan], np.float32), "eps"))
    with pytest.raises(IntegrityError, match="eps"):
        onnx_io.detach(model)


def test_changed_external_data_is_another_source_however_long_its_name(tmp_path: Path) -> None:
    name = "w" * 200 + ".bin"
    path = write(tmp_path, location=name)
    (tmp_path / name).write_bytes(WEIGHTS)
    before = locate(OnnxSource(kind="onnx", path="model.onnx"), tmp_path).content_sha256
    (tmp_path / name).write_bytes(WEIGHTS[::-1])
    after = locate(OnnxSource(kind="onnx", path="model.onnx"), tmp_path).content_sha256
    assert external_names(path) == [name]
    assert before != after


def test_locating_a_model_reads_no_file_outside_its_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "secret.bin")  # reading it would hang
    path = write(tmp_path / "model", location=str(tmp_path / "secret.bin"))
    locate(OnnxSource(kind="onnx", path=path.name), path.parent)
    path = write(tmp_path / "model", location="../secret.bin")
    locate(OnnxSource(kind="onnx", path=path.name), path.parent)


class Canary:
    """Unpickling this creates a file: the payload of the attack."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_the_canary_sings_when_it_is_unpickled(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Canary(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", ["model.pt", "model.bin", "pytorch_model.pth", "model.ckpt", "model.safetensors"])
def test_a_checkpoint_that_asks_to_run_code_is_refused_and_runs_none(tmp_path: Path, name: str) -> None:
    torch.save({"weight": torch.ones(2), "x": Canary(tmp_path / "canary")}, tmp_path / name)
    with pytest.raises(IntegrityError):
        module.load_checkpoint(tmp_path / name)
    (tmp_path / name).write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    with pytest.raises(IntegrityError):
        module.load_checkpoint(tmp_path / name)
    assert not (tmp_path / "canary").exists()


def test_an_honest_checkpoint_is_read(tmp_path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.ones(2)}}, tmp_path / "model.pt")
    assert torch.equal(module.load_checkpoint(tmp_path / "model.pt")["weight"], torch.ones(2))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pkl"])
def test_a_folder_that_holds_pickles_alone_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    with pytest.raises(IntegrityError, match="pickle"):
        refuse_pickles(tmp_path)
    with pytest.raises(IntegrityError, match="pickle"):
        infer.infer(str(tmp_path / name))
    assert not (tmp_path / "canary").exists()


def test_an_npz_with_pickled_objects_is_refused_and_runs_no_code(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", features=np.array([Canary(tmp_path / "canary")], dtype=object))
    (tmp_path / "canary").unlink(missing_ok=True)
    with pytest.raises(UsageError, match="plain arrays"):
        _arrays(tmp_path / "x.npz")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "payload", [b"", b"PK\x03\x04 not a zip", b"\x93NUMPY\x01\x00", b"text", b"\x80\x04K\x01."],
    ids=["empty", "broken zip", "broken npy", "text", "pickle"],
)
def test_an_input_file_that_is_no_npz_is_a_usage_error(tmp_path: Path, payload: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(payload)
    with pytest.raises(UsageError):
        _arrays(tmp_path / "x.npz")


def test_a_single_unnamed_array_is_a_usage_error_that_says_how_to_name_it(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones(3))
    with pytest.raises(UsageError) as caught:
        _arrays(tmp_path / "x.npy")
    assert "np.savez" in caught.value.hint


FACTORIES = {
    "raises on import": "raise RuntimeError('inside')\n",
    "leaves on import": "import sys; sys.exit(0)\n",
    "raises": "def create(): raise RuntimeError('inside')\n",
    "leaves": "import sys\ndef create(): sys.exit(0)\n",
    "returns no module": "def create(): return 3\n",
    "is absent": "def other(): return 3\n",
    "does not parse": "def create(:\n",
}


@pytest.mark.parametrize("text", FACTORIES.values(), ids=FACTORIES.keys())
def test_a_factory_that_fails_is_a_usage_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(UsageError):
        module.make_module(tmp_path / "own.py", "own.py:create", None)


def test_a_checkpoint_of_another_module_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("import torch\ndef create(): return torch.nn.Linear(2, 2)\n")
    torch.save({"other": torch.ones(2)}, tmp_path / "model.pt")
    with pytest.raises(UsageError, match="does not fit the module"):
        module.make_module(tmp_path / "own.py", "own.py:create", tmp_path / "model.pt")
    torch.save([torch.ones(2)], tmp_path / "model.pt")
    with pytest.raises(IntegrityError, match="not a state dict"):
        module.make_module(tmp_path / "own.py", "own.py:create", tmp_path / "model.pt")
