"""`hwc export triton`: what it writes, that its ONNX files compute what was checked, and what it refuses."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from command import Cli
from hwc.bundle.open import Bundle, Variant, open_bundle
from hwc.bundle.program import copy_out
from hwc.bundle.reference import parse
from hwc.capture.golden import load_cases, load_numbered
from hwc.errors import GateError, InternalError, UsageError
from hwc.oci_layout import Layout
from hwc.serve import triton
from hwc.serve.first_cases import first_cases
from hwc.serve.onnx_model import prove

SCHEMES = ("fp32", "fp8", "w4a16", "w4a16-asym")
GOLDEN_MAX_ABS = 1e-6


def opened(cli: Cli, name: str = "mlp:dev") -> Bundle:
    reference = parse(name, default_store=str(cli.store))
    return open_bundle(Layout(reference.store), reference)


@pytest.fixture(scope="module")
def repository(shared_quantised_mlp: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton") / "models"
    assert shared_quantised_mlp("export", "triton", "mlp", folder).ok().stdout == f"{folder}\n"
    return folder


@pytest.fixture
def variant(shared_quantised_mlp: Cli) -> Variant:
    return opened(shared_quantised_mlp).variant("llvm-cpu-host", "w4a16")


def test_every_variant_has_a_model_for_each_backend(repository: Path) -> None:
    expected = {f"mlp-llvm-cpu-host-{scheme}-iree" for scheme in SCHEMES}
    expected |= {f"mlp-{scheme}-onnxruntime" for scheme in SCHEMES}
    assert {folder.name for folder in repository.iterdir()} == expected
    assert oct(repository.stat().st_mode)[-3:] == "755"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_onnx_file_equals_the_golden_reference_at_any_batch(
    scheme: str, repository: Path, tmp_path: Path, shared_quantised_mlp: Cli
) -> None:
    golden = copy_out(opened(shared_quantised_mlp).variant("llvm-cpu-host", scheme), "golden", tmp_path)
    expected = load_numbered(golden / ("expected.npz" if scheme == "fp32" else "reference.npz"))
    session = onnxruntime.InferenceSession(str(repository / f"mlp-{scheme}-onnxruntime" / "1" / "model.onnx"))
    for case, outputs in zip(load_cases(golden), expected, strict=True):
        (found,) = session.run(["logits"], case.feeds)
        np.testing.assert_allclose(found, outputs["logits"], atol=GOLDEN_MAX_ABS, rtol=0)
    five = np.repeat(load_cases(golden)[0].feeds["features"], 5, axis=0)
    (found,) = session.run(["logits"], {"features": five})
    np.testing.assert_allclose(found, np.repeat(expected[0]["logits"], 5, axis=0), atol=GOLDEN_MAX_ABS, rtol=0)


def test_no_file_names_a_place_of_this_machine(repository: Path, shared_quantised_mlp: Cli) -> None:
    places = [str(shared_quantised_mlp.home).encode(), str(Path(onnxruntime.__file__).parents[1]).encode()]
    for path in repository.rglob("*"):
        if path.is_file() and path.name != "module.vmfb":
            assert not any(place in path.read_bytes() for place in places), path


def test_the_model_knows_the_digest_of_everything_it_reads(repository: Path, variant: Variant) -> None:
    folder = repository / "mlp-llvm-cpu-host-w4a16-iree"
    payload = (folder / "1" / "program.json").read_bytes()
    config = (folder / "config.pbtxt").read_text()
    assert f"sha256:{hashlib.sha256(payload).hexdigest()}" in config
    assert variant.content_sha256 in config
    told = json.loads(payload)["files"]
    assert set(told) == {"module.vmfb", "float.irpa", "linears.irpa"}
    for name, sha256 in told.items():
        assert sha256 == f"sha256:{hashlib.sha256((folder / '1' / name).read_bytes()).hexdigest()}"


def test_a_second_export_writes_the_same_bytes(repository: Path, shared_quantised_mlp: Cli, tmp_path: Path) -> None:
    shared_quantised_mlp("export", "triton", "mlp:dev", tmp_path / "again").ok()
    first, second = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (repository, tmp_path / "again")
    )
    assert first == second


def test_one_variant_and_one_backend_can_be_chosen(shared_quantised_mlp: Cli, tmp_path: Path) -> None:
    shared_quantised_mlp("export", "triton", "mlp#llvm-cpu-host/fp8", tmp_path / "m", "--backend", "onnxruntime").ok()
    assert [folder.name for folder in (tmp_path / "m").iterdir()] == ["mlp-fp8-onnxruntime"]


def test_a_taken_destination_and_an_unknown_bundle_are_refused(shared_quantised_mlp: Cli, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    taken = shared_quantised_mlp("export", "triton", "mlp", tmp_path / "taken")
    assert (taken.code, taken.stdout) == (2, "")
    assert "not an empty folder" in taken.stderr
    unknown = shared_quantised_mlp("export", "triton", "mlpp", tmp_path / "new")
    assert unknown.code == 2
    assert "did you mean mlp:dev" in unknown.stderr
    assert shared_quantised_mlp("export", "triton", "mlp", tmp_path / "new", "--backend", "vllm").code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_an_unverified_variant_is_exported_on_request_alone(warm: Cli, tmp_path: Path) -> None:
    warm("build", "mlp", "-t", "aarch64-neoverse", "-q", "fp32", "--smoke", "--tag", "arm").ok()
    refused = warm("export", "triton", "mlp:arm", tmp_path / "m")
    assert refused.code == 3
    assert "--allow-unverified" in refused.stderr
    assert not (tmp_path / "m").exists()
    warm("export", "triton", "mlp:arm", tmp_path / "m", "--allow-unverified").ok()
    program = json.loads((tmp_path / "m" / "mlp-aarch64-neoverse-fp32-iree" / "1" / "program.json").read_text())
    assert program["device"]["architecture"] == "aarch64"
    assert "asimd" in program["device"]["cpu_flags"]


@pytest.fixture
def changed(variant: Variant) -> Callable[..., Variant]:
    def change(**device: str) -> Variant:
        return dataclasses.replace(variant, facts={**variant.facts, "device": {**variant.facts["device"], **device}})

    return change


def test_a_device_that_no_server_can_open_is_refused_for_code_alone(changed, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="driver 'none'"):
        triton.export([changed(driver="none")], tmp_path / "m")
    triton.export([changed(driver="none")], tmp_path / "m", backends=("onnxruntime",))


def test_a_bundle_without_a_graph_can_still_give_its_code(variant: Variant, tmp_path: Path) -> None:
    files = {role: blob for role, blob in variant.files.items() if "graph" not in role}
    old = dataclasses.replace(variant, files=files)
    with pytest.raises(UsageError, match="no ONNX graph"):
        triton.export([old], tmp_path / "m")
    triton.export([old], tmp_path / "m", backends=("iree",))


def test_two_variants_of_one_name_are_refused(variant: Variant) -> None:
    twin = dataclasses.replace(variant, target="llvm-cpu", scheme="host-w4a16")
    with pytest.raises(UsageError, match="would both be called mlp-llvm-cpu-host-w4a16-iree"):
        triton.plan([variant, twin], backends=("iree",), allow_unverified=False)
    with pytest.raises(GateError):
        triton.plan([dataclasses.replace(variant, status="unverified")], backends=("iree",), allow_unverified=False)


def test_an_altered_blob_leaves_nothing_behind(warm: Cli, tmp_path: Path) -> None:
    blob = opened(warm).variants[0].files["weights/linears.irpa"]
    payload = bytearray(blob.path.read_bytes())
    payload[blob.offset + blob.length - 1] ^= 1
    blob.path.chmod(0o644)
    blob.path.write_bytes(payload)
    refused = warm("export", "triton", "mlp", tmp_path / "out" / "m")
    assert refused.code == 6
    assert list((tmp_path / "out").iterdir()) == []


def test_a_model_that_computes_something_else_is_not_exported(repository: Path, variant: Variant) -> None:
    path = repository / "mlp-w4a16-onnxruntime" / "1" / "model.onnx"
    (case, *_) = first_cases(variant)
    prove(path, [case], GOLDEN_MAX_ABS)
    wrong = dataclasses.replace(case, expected={"logits": case.expected["logits"] + 1e-4})
    with pytest.raises(InternalError, match="differs by"):
        prove(path, [wrong], GOLDEN_MAX_ABS)
