"""`hwc export onnx`: what it writes, that other runtimes compute the bundle's result with it, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

import hwc
from command import Cli
from hwc import digest
from hwc.bundle.open import Variant, open_bundle
from hwc.bundle.program import copy_out
from hwc.bundle.reference import parse
from hwc.capture import state
from hwc.capture.golden import load_cases, load_numbered
from hwc.errors import InternalError, UsageError
from hwc.oci_layout import Layout
from hwc.serve import onnx_export, onnx_export_weights
from hwc.serve.onnx_export_proof import Caller, prove_language
from hwc.serve.onnx_model import detached_graph, opened

SCHEMES = ("fp32", "fp8", "w4a16", "w4a16-asym")
FORMS = ("matmulnbits", "dequantize-linear")
GOLDEN_MAX_ABS = 1e-6


def variant_of(cli: Cli, name: str, scheme: str) -> Variant:
    reference = parse(name, default_store=str(cli.store))
    return open_bundle(Layout(reference.store), reference).variant("llvm-cpu-host", scheme)


def session_of(folder: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    for name, value in json.loads((folder / "hwc-export.json").read_text())["session_options"].items():
        options.add_session_config_entry(name, value)
    return onnxruntime.InferenceSession(str(folder / "model.onnx"), options)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_onnx_runtime_gives_the_golden_result_at_any_batch(
    scheme: str, form: str, shared_quantised_mlp: Cli, tmp_path: Path
) -> None:
    variant, folder = variant_of(shared_quantised_mlp, "mlp:dev", scheme), tmp_path / "m"
    made = onnx_export.export(variant, folder, form=form)
    golden = copy_out(variant, "golden", tmp_path / "golden")
    cases = load_cases(golden)
    expected = load_numbered(golden / ("expected.npz" if scheme == "fp32" else "reference.npz"))
    onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)
    session = session_of(folder)
    for case, outputs in zip(cases, expected, strict=True):
        (found,) = session.run(["logits"], case.feeds)
        np.testing.assert_allclose(found, outputs["logits"], atol=GOLDEN_MAX_ABS, rtol=0)
    five = np.repeat(cases[0].feeds["features"], 5, axis=0)
    (found,) = session.run(["logits"], {"features": five})
    np.testing.assert_allclose(found, np.repeat(expected[0]["logits"], 5, axis=0), atol=GOLDEN_MAX_ABS, rtol=0)
    assert made.proof.calls == len({json.dumps(case.bucket) for case in cases})
    assert made.proof.max_abs <= GOLDEN_MAX_ABS


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_standard_form_needs_no_operator_of_onnx_runtime(
    scheme: str, shared_quantised_mlp: Cli, tmp_path: Path
) -> None:
    variant, folder = variant_of(shared_quantised_mlp, "mlp:dev", scheme), tmp_path / "m"
    onnx_export.export(variant, folder, form="dequantize-linear")
    model = onnx.load(folder / "model.onnx")
    assert {entry.domain for entry in model.opset_import} == {""} == {node.domain for node in model.graph.node}
    golden = copy_out(variant, "golden", tmp_path / "golden")
    expected = load_numbered(golden / ("expected.npz" if scheme == "fp32" else "reference.npz"))
    (found,) = ReferenceEvaluator(model).run(["logits"], load_cases(golden)[0].feeds)
    np.testing.assert_allclose(found, expected[0]["logits"], atol=1e-5, rtol=0)


def test_the_command_tells_its_proof_and_writes_the_same_bytes_again(shared_quantised_mlp: Cli, tmp_path: Path) -> None:
    export = ("export", "onnx", "mlp#llvm-cpu-host/w4a16")
    ran = shared_quantised_mlp(*export, tmp_path / "a", "--form", "dequantize-linear").ok()
    assert ran.stdout == f"{tmp_path / 'a'}\n"
    assert "golden calls in ONNX Runtime (session.qdq_matmulnbits_accuracy_level=1): largest difference" in ran.stderr
    shared_quantised_mlp(*export, tmp_path / "b", "--form", "dequantize-linear").ok()
    first, second = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "a", tmp_path / "b")
    )
    assert first == second
    places = [str(shared_quantised_mlp.home).encode(), str(Path(onnxruntime.__file__).parents[1]).encode()]
    assert not any(place in payload for place in places for payload in first.values())
    told = json.loads(first[Path("hwc-export.json")])
    assert told["files"] == {"model.onnx": digest.of_bytes(first[Path("model.onnx")])}
    assert [port["shape"] for port in told["inputs"]] == [["batch", 256]]
    assert set(map(str, first)) >= {"README.md", "hwc-export.json", "model.onnx"}


def test_only_an_earlier_export_makes_way_and_only_when_told(shared_quantised_mlp: Cli, tmp_path: Path) -> None:
    export = ("export", "onnx", "mlp#llvm-cpu-host/w4a16")
    shared_quantised_mlp(*export, tmp_path / "m").ok()
    before = (tmp_path / "m" / "model.onnx").read_bytes()
    refused = shared_quantised_mlp(*export, tmp_path / "m", "--form", "dequantize-linear")
    assert (refused.code, refused.stdout) == (2, "")
    assert (tmp_path / "m" / "model.onnx").read_bytes() == before
    shared_quantised_mlp(*export, tmp_path / "m", "--form", "dequantize-linear", "--force").ok()
    assert (tmp_path / "m" / "model.onnx").read_bytes() != before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    refused = shared_quantised_mlp(*export, tmp_path / "other", "--force")
    assert refused.code == 2
    assert "or an earlier export" in refused.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "other"]


def test_one_variant_is_asked_for(shared_quantised_mlp: Cli, tmp_path: Path) -> None:
    refused = shared_quantised_mlp("export", "onnx", "mlp", tmp_path / "m")
    assert refused.code == 2
    assert "llvm-cpu-host/w4a16-asym" in refused.stderr
    assert shared_quantised_mlp("export", "onnx", "mlp#llvm-cpu-host/fp8", tmp_path / "m", "--form", "gguf").code == 2
    assert list(tmp_path.iterdir()) == []


def test_an_altered_blob_leaves_the_earlier_export(warm: Cli, tmp_path: Path) -> None:
    warm("export", "onnx", "mlp", tmp_path / "out" / "m").ok()
    before = (tmp_path / "out" / "m" / "model.onnx").read_bytes()
    blob = variant_of(warm, "mlp:dev", "fp32").files["weights/linears.irpa"]
    payload = bytearray(blob.path.read_bytes())
    payload[blob.offset + blob.length - 1] ^= 1
    blob.path.chmod(0o644)
    blob.path.write_bytes(payload)
    assert warm("export", "onnx", "mlp", tmp_path / "out" / "m", "--force").code == 6
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["m"]
    assert (tmp_path / "out" / "m" / "model.onnx").read_bytes() == before


def test_a_model_that_answers_otherwise_than_the_bundle_is_not_handed_over(
    shared_quantised_mlp: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant, whole = variant_of(shared_quantised_mlp, "mlp:dev", "w4a16"), onnx_export_weights.tensors

    def spoilt(*arguments: Any, **options: Any) -> Any:
        for tensor in whole(*arguments, **options):
            payload = tensor.payload.copy()
            payload.reshape(-1).view(np.uint8)[0] ^= 0xFF
            yield dataclasses.replace(tensor, payload=payload)

    monkeypatch.setattr(onnx_export_weights, "tensors", spoilt)
    with pytest.raises(InternalError, match="differs by"):
        onnx_export.export(variant, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_of_an_older_hwc_is_refused(shared_quantised_mlp: Cli, tmp_path: Path) -> None:
    variant = variant_of(shared_quantised_mlp, "mlp:dev", "w4a16")
    files = {role: blob for role, blob in variant.files.items() if "graph" not in role}
    with pytest.raises(UsageError, match="no ONNX graph"):
        onnx_export.export(dataclasses.replace(variant, files=files), tmp_path / "m")
    lower = {key: value for key, value in variant.facts["lower"].items() if key != "encodings"}
    with pytest.raises(UsageError, match="build it again"):
        onnx_export.export(dataclasses.replace(variant, facts={**variant.facts, "lower": lower}), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def likeliest(language: Cli, scheme: str, prompt: str, count: int) -> list[int]:
    """Return what the bundle's compiled code goes on with."""
    model = hwc.open(f"tiny-llama#llvm-cpu-host/{scheme}", store=language.store)
    return list(model.generate(prompt, max_new_tokens=count).token_ids)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scheme", ["fp32", "w4a16", "fp8"])
def test_a_language_model_goes_on_as_the_bundle_does(
    scheme: str, form: str, language: Cli, built_language: Mapping[str, Any], tmp_path: Path
) -> None:
    assert built_language
    made = onnx_export.export(variant_of(language, "tiny-llama:dev", scheme), tmp_path / "m", form=form)
    assert made.proof.calls == 4
    assert made.proof.max_abs < 1e-4
    assert made.proof.greedy_tokens == 16
    ran = subprocess.run(
        [sys.executable, tmp_path / "m" / "generate.py", "a prompt", "--max-new-tokens", "12", "--ids"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )
    assert json.loads(ran.stdout) == likeliest(language, scheme, "a prompt", 12)
    told = json.loads((tmp_path / "m" / "hwc-export.json").read_text())
    assert {port["name"]: port["shape"] for port in told["inputs"]} == {
        "input_ids": ["batch", "sequence"], "start": ["batch"], "logit_index": ["batch", "logits"],
    }
    assert (told["state"][0]["input"], told["state"][0]["output"]) == ("cache.key.0", "next.key.0")
    assert {path.name for path in (tmp_path / "m" / "tokenizer").iterdir()} >= {"tokenizer.json"}


@pytest.mark.parametrize("scheme", ["fp32", "w4a16", "fp8"])
def test_the_reference_implementation_of_onnx_computes_the_same_logits_and_cache(
    scheme: str, language: Cli, built_language: Mapping[str, Any], tmp_path: Path
) -> None:
    assert built_language
    onnx_export.export(variant_of(language, "tiny-llama:dev", scheme), tmp_path / "m", form="dequantize-linear")
    model, session = onnx.load(tmp_path / "m" / "model.onnx"), session_of(tmp_path / "m")
    onnx.checker.check_model(model, full_check=True)
    state_inputs = {value.name: value.shape for value in session.get_inputs() if value.name.startswith("cache.")}
    feeds = {name: np.zeros([1, shape[1], 24, shape[3]], np.float32) for name, shape in state_inputs.items()}
    feeds |= {"input_ids": np.array([[5, 6, 7]]), "start": np.array([0]), "logit_index": np.array([[0, 2]])}
    found, expected = ReferenceEvaluator(model).run(None, feeds), session.run(None, feeds)
    assert len(found) == 1 + len(state_inputs)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)


def test_large_weights_lie_beside_the_model(
    language: Cli, built_language: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert built_language
    monkeypatch.setattr(onnx_export_weights, "INSIDE_BYTES", 0)
    made = onnx_export.export(variant_of(language, "tiny-llama:dev", "w4a16"), tmp_path / "m", form="dequantize-linear")
    files = {path.name: path.stat().st_size for path in (tmp_path / "m").iterdir() if path.name.startswith("model")}
    assert set(files) == {"model.onnx", "model.onnx.data"}
    assert made.model_bytes == sum(files.values())
    assert made.proof.greedy_tokens == 16
    assert set(json.loads((tmp_path / "m" / "hwc-export.json").read_text())["files"]) == set(files)


def test_a_language_model_that_answers_otherwise_is_noticed(
    language: Cli, built_language: Mapping[str, Any], tmp_path: Path
) -> None:
    assert built_language
    variant, other = (variant_of(language, "tiny-llama:dev", scheme) for scheme in ("w4a16", "fp32"))
    onnx_export.export(other, tmp_path / "m")
    session, states = opened(tmp_path / "m" / "model.onnx", {}), state.find(detached_graph(other))

    def fresh() -> Caller:
        return Caller(session, states, context_tokens=192, output="logits")

    prove_language(other, fresh(), 1e-3)
    with pytest.raises(InternalError, match="logits differ by"):
        prove_language(variant, fresh(), 1e-3)
    (measurement,) = other.measurements
    check = measurement.documents["check.json"]
    wrong = {**check, "greedy_tokens": [(token + 1) % 259 for token in check["greedy_tokens"]]}
    changed = dataclasses.replace(measurement, documents={**measurement.documents, "check.json": wrong})
    with pytest.raises(InternalError, match="goes on with token"):
        prove_language(dataclasses.replace(other, measurements=(changed,)), fresh(), 1e-3)
