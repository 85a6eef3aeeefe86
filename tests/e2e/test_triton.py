"""An exported repository under the real tritonserver: its answers over HTTP are the golden ones.

NOT RUN here: Triton's C++ ONNX Runtime backend, which the server on PyPI does not carry. Without it that server
parses the configuration and stops at the missing library; a stand-in in Python lets it check the rest.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from triton_server import CannotRunError, Installed, Server, install, serving

import hwc
from command import Cli
from hwc.api import find_variant
from hwc.bundle.program import copy_out
from hwc.capture.golden import load_cases, load_numbered

pytestmark = pytest.mark.slow
SCHEMES = ("fp32", "fp8", "w4a16", "w4a16-asym")
NO_LIBRARY = "unable to find backend library for backend 'onnxruntime'"
GOLDEN_MAX_ABS = 1e-6


@pytest.fixture(scope="module")
def installed(pytestconfig: pytest.Config) -> Installed:
    try:
        return install(pytestconfig.rootpath / ".pytest_cache" / "triton")
    except CannotRunError as reason:
        pytest.skip(f"NOT TESTED under tritonserver: {reason}")


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backend") / "onnxruntime"
    folder.mkdir()
    shutil.copyfile(Path(__file__).with_name("onnxruntime_stand_in.py"), folder / "model.py")
    return folder


@pytest.fixture(scope="module")
def exported(shared_quantised_mlp: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton") / "models"
    shared_quantised_mlp("export", "triton", "mlp", folder).ok()
    return folder


@pytest.fixture(scope="module")
def server(
    exported: Path, installed: Installed, stand_in: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("log") / "server"
    with serving(
        installed, exported, python_path=installed.python_path, log=log, extra_backends=[stand_in]
    ) as running:
        assert {state for state, _ in running.states().values()} == {"READY"}, running.states()
        yield running


def assert_golden(server: Server, model: str, reference: str, cli: Cli, bound: float, count: int = 8) -> None:
    """Hold a model's answers to the golden cases of every shape."""
    variant = find_variant(reference, store=cli.store)
    with tempfile.TemporaryDirectory() as work:
        golden = copy_out(variant, "golden", Path(work))
        expected = golden / "reference.npz"
        outputs = load_numbered(expected if expected.is_file() else golden / "expected.npz")
        cases = list(zip(load_cases(golden), outputs, strict=True))
    for case, wanted in [*cases[:count], *cases[-count:]]:
        found = server.infer(model, case.feeds)
        assert set(found) == set(wanted)
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, atol=bound, rtol=0)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_compiled_code_gives_the_golden_output_over_http(
    scheme: str, server: Server, shared_quantised_mlp: Cli
) -> None:
    assert_golden(
        server, f"mlp-llvm-cpu-host-{scheme}-iree", f"mlp#llvm-cpu-host/{scheme}", shared_quantised_mlp, 5e-5
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_onnx_repository_gives_the_golden_output_through_a_stand_in_for_its_backend(
    scheme: str, server: Server, shared_quantised_mlp: Cli
) -> None:
    assert_golden(
        server, f"mlp-{scheme}-onnxruntime", f"mlp#llvm-cpu-host/{scheme}", shared_quantised_mlp, GOLDEN_MAX_ABS
    )


@pytest.mark.parametrize("rows", [1, 5, 16])
def test_any_batch_is_answered_exactly_as_hwc_answers_it(rows: int, server: Server, shared_quantised_mlp: Cli) -> None:
    x = np.random.default_rng(rows).uniform(-1, 1, (rows, 256)).astype(np.float32)
    model = hwc.open("mlp#llvm-cpu-host/w4a16", store=shared_quantised_mlp.store)
    found = server.infer("mlp-llvm-cpu-host-w4a16-iree", {"features": x})
    assert np.array_equal(found["logits"], model.run({"features": x})["logits"])


def test_requests_that_come_together_each_get_their_own_answer(server: Server, shared_quantised_mlp: Cli) -> None:
    model = hwc.open("mlp#llvm-cpu-host/fp32", store=shared_quantised_mlp.store)
    asked = [np.random.default_rng(seed).uniform(-1, 1, (1 + seed % 3, 256)).astype(np.float32) for seed in range(40)]
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda x: server.infer("mlp-llvm-cpu-host-fp32-iree", {"features": x}), asked))
    for x, answer in zip(asked, found, strict=True):
        np.testing.assert_allclose(answer["logits"], model.run({"features": x})["logits"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(17, 256), (1, 255), (0, 256)])
def test_a_wrong_request_is_refused_and_the_server_goes_on(shape: tuple[int, int], server: Server) -> None:
    with pytest.raises(ValueError, match=r"batch|shape|size|dims"):
        server.infer("mlp-llvm-cpu-host-fp32-iree", {"features": np.zeros(shape, np.float32)})
    assert server.infer("mlp-llvm-cpu-host-fp32-iree", {"features": np.zeros((1, 256), np.float32)})


def broken(repository: Path, name: str, change: Callable[[Path], object]) -> None:
    """Copy a model under another name and damage the copy."""
    folder = repository / name
    source = "mlp-w4a16-onnxruntime" if name.startswith("onnx") else "mlp-llvm-cpu-host-w4a16-iree"
    shutil.copytree(repository / source, folder)
    config = folder / "config.pbtxt"
    config.write_text(config.read_text().replace(f'name: "{source}"', f'name: "{name}"'))
    change(folder)


def edited(old: str, new: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        text = (folder / "config.pbtxt").read_text()
        assert old in text
        (folder / "config.pbtxt").write_text(text.replace(old, new, 1))

    return change


def flipped(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        payload = bytearray((folder / "1" / name).read_bytes())
        payload[-1] ^= 1
        (folder / "1" / name).write_bytes(payload)

    return change


def test_what_was_altered_is_not_served(exported: Path, installed: Installed, stand_in: Path, tmp_path: Path) -> None:
    repository = shutil.copytree(exported, tmp_path / "models")
    expected = {
        "code": (flipped("module.vmfb"), "module.vmfb does not match its digest"),
        "weights": (flipped("linears.irpa"), "linears.irpa does not match its digest"),
        "program": (flipped("program.json"), "program.json does not match its digest"),
        "onnx-type": (edited("TYPE_FP32", "TYPE_INVALID"), "must specify 'data_type'"),
        "onnx-dims": (edited("dims: [ 10 ]", "dims: [ 0 ]"), "dimension must be integer >= 1"),
        "onnx-warm-up": (edited('"0-0"', '"absent"'), "failed to open text file"),
    }
    for name, (change, _) in expected.items():
        broken(repository, name, change)
    with serving(
        installed, repository, python_path=installed.python_path, log=tmp_path / "log", extra_backends=[stand_in]
    ) as running:
        states = running.states()
    for name, (_, reason) in expected.items():
        assert states[name][0] == "UNAVAILABLE"
        assert reason in states[name][1]
    assert states["mlp-llvm-cpu-host-w4a16-iree"][0] == states["mlp-w4a16-onnxruntime"][0] == "READY"


def test_without_its_library_the_onnx_configuration_is_parsed_and_only_the_library_is_missing(
    exported: Path, installed: Installed, tmp_path: Path
) -> None:
    repository = tmp_path / "models"
    for scheme in SCHEMES:
        shutil.copytree(exported / f"mlp-{scheme}-onnxruntime", repository / f"mlp-{scheme}-onnxruntime")
    broken(repository, "onnx-syntax", edited("instance_group", "instance_grope"))
    broken(repository, "onnx-batching", edited("preferred_batch_size: [ 16 ]", "preferred_batch_size: [ 17 ]"))
    with serving(installed, repository, python_path=installed.python_path, log=tmp_path / "log") as running:
        states = running.states()
    assert all(NO_LIBRARY in states[f"mlp-{scheme}-onnxruntime"][1] for scheme in SCHEMES)
    assert NO_LIBRARY not in states["onnx-syntax"][1] + states["onnx-batching"][1]
    log = (tmp_path / "log").read_text()
    assert "failed to read text proto" in log
    assert "preferred size must be <= max batch size" in log


def test_a_numpy_that_the_stub_reads_wrongly_is_refused(exported: Path, installed: Installed, tmp_path: Path) -> None:
    if int(np.__version__.partition(".")[0]) < 2:
        pytest.skip("this Python has NumPy 1, which the stub reads rightly")
    repository = tmp_path / "models"
    shutil.copytree(exported / "mlp-llvm-cpu-host-fp32-iree", repository / "mlp-llvm-cpu-host-fp32-iree")
    newer = installed.python_path.partition(":")[2]
    with serving(installed, repository, python_path=newer, log=tmp_path / "log") as running:
        ((state, reason),) = running.states().values()
    assert state == "UNAVAILABLE"
    assert f"cannot handle NumPy {np.__version__}" in reason


def test_minilm_gives_the_golden_sentences_over_http(installed: Installed, stand_in: Path, cli: Cli) -> None:
    cli("build", "minilm", "-t", "llvm-cpu-host", "-q", "fp32", "-q", "w4a16", "--smoke").ok()
    cli("export", "triton", "minilm", cli.cwd / "models").ok()
    with serving(
        installed, cli.cwd / "models", python_path=installed.python_path, log=cli.cwd / "log",
        extra_backends=[stand_in],
    ) as running:
        assert {state for state, _ in running.states().values()} == {"READY"}, running.states()
        for scheme in ("fp32", "w4a16"):
            reference = f"minilm#llvm-cpu-host/{scheme}"
            assert_golden(running, f"minilm-llvm-cpu-host-{scheme}-iree", reference, cli, 5e-6, count=3)
            assert_golden(running, f"minilm-{scheme}-onnxruntime", reference, cli, GOLDEN_MAX_ABS, count=3)
        odd = {"input_ids": np.array([[101, 7592, 2088, 102]]), "attention_mask": np.ones((1, 4), np.int64)}
        left = running.infer("minilm-llvm-cpu-host-fp32-iree", odd)
        right = running.infer("minilm-fp32-onnxruntime", odd)
        np.testing.assert_allclose(left["sentence_embedding"], right["sentence_embedding"], atol=5e-6, rtol=0)
