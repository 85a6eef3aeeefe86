"""Running a variant, from Python and from the command line: the right numbers for any number of items."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from use_parts import cosine

import hwc
from hwc.errors import UsageError
from hwc.spec.project import facts_dir

if TYPE_CHECKING:
    from pathlib import Path

    from command import Cli

FLOORS = {"fp32": 0.999999, "fp8": 0.997, "w4a16": 0.985, "w4a16-asym": 0.985}


def features(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).uniform(-1, 1, (rows, 256)).astype(np.float32)


def by_torch(x: np.ndarray) -> np.ndarray:
    import torch

    from hwc.capture.module import make_module

    with torch.no_grad():
        return make_module(facts_dir("models") / "mlp.py", "mlp.py:create", None)(torch.from_numpy(x)).numpy()


@pytest.fixture(scope="module")
def fp32(shared_quantised_mlp: Cli) -> hwc.Model:
    return hwc.open("mlp:dev#llvm-cpu-host/fp32", store=shared_quantised_mlp.store)


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 40])
def test_any_number_of_rows_comes_out_as_torch_computes_it(rows: int, fp32: hwc.Model) -> None:
    np.testing.assert_allclose(fp32.run({"features": features(rows)})["logits"], by_torch(features(rows)), atol=1e-5)


@pytest.mark.parametrize("scheme", FLOORS)
def test_every_scheme_stays_close_to_torch(scheme: str, shared_quantised_mlp: Cli) -> None:
    model = hwc.open(f"mlp:dev#llvm-cpu-host/{scheme}", store=shared_quantised_mlp.store)
    outputs = model.run({"features": features(64)})
    assert cosine(outputs["logits"], by_torch(features(64))) > FLOORS[scheme]


def test_an_item_does_not_depend_on_what_it_is_batched_with(fp32: hwc.Model) -> None:
    x = features(17)
    alone = np.concatenate([fp32.run({"features": row[None]})["logits"] for row in x])
    np.testing.assert_allclose(fp32.run({"features": x})["logits"], alone, atol=1e-5)


def test_plain_lists_and_wider_floats_are_taken(fp32: hwc.Model) -> None:
    x = features(2)
    expected = fp32.run({"features": x})["logits"]
    np.testing.assert_array_equal(fp32.run({"features": x.tolist()})["logits"], expected)
    np.testing.assert_array_equal(fp32.run({"features": x.astype(np.float64)})["logits"], expected)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "missing input `features`"),
        ({"feature": np.zeros((1, 256))}, "unknown input `feature`"),
        ({"features": np.zeros((1, 256)), "mask": np.zeros((1, 256))}, "unknown input `mask`"),
        ({"features": np.zeros((1, 255))}, "size 255 where the model takes 256"),
        ({"features": np.zeros(256)}, r"has shape \[256\]"),
        ({"features": np.zeros((0, 256))}, "size 0"),
        ({"features": np.full((1, 256), "a")}, "holds <U1"),
        ({"features": np.zeros((1, 256), complex)}, "holds complex128"),
        ({"features": [[1.0, 2.0], [3.0]]}, "is not an array"),
    ],
)
def test_wrong_arrays_are_refused_by_name(given, told: str, fp32: hwc.Model) -> None:
    with pytest.raises(UsageError, match=told):
        fp32.run(given)


@pytest.mark.parametrize("texts", [["a text"], "a text"])
def test_text_for_a_model_without_a_tokenizer_is_refused(texts, fp32: hwc.Model) -> None:
    with pytest.raises(UsageError, match=r"tokenizer|a list of texts"):
        fp32.run(texts)


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("mlp:dev", "4 variants"),
        ("mlp:dev#llvm-cpu-host/w4", "no variant 'llvm-cpu-host/w4'"),
        ("mlp:1.0.0#llvm-cpu-host/fp32", "no bundle 'mlp:1.0.0'"),
        ("mpl:dev#llvm-cpu-host/fp32", "did you mean mlp:dev"),
        ("mlp:dev#fp32", "TARGET/SCHEME"),
        ("oci://example.org/mlp:dev#llvm-cpu-host/fp32", "hwc pull"),
    ],
)
def test_a_name_that_does_not_lead_to_one_variant_is_refused(reference, told, shared_quantised_mlp: Cli) -> None:
    with pytest.raises(UsageError) as refused:
        hwc.open(reference, store=shared_quantised_mlp.store)
    assert told in str(refused.value)


def test_the_command_line_runs_arrays_and_writes_them(shared_quantised_mlp: Cli, tmp_path: Path) -> None:
    x = features(3)
    np.savez(tmp_path / "in.npz", features=x)
    ran = shared_quantised_mlp(
        "run", "mlp:dev#llvm-cpu-host/fp32", "--input", tmp_path / "in.npz", "--output", tmp_path / "out.npz",
        "--format", "json",
    ).ok()
    with np.load(tmp_path / "out.npz") as written:
        np.testing.assert_allclose(written["logits"], by_torch(x), atol=1e-5)
        np.testing.assert_allclose(json.loads(ran.stdout)["logits"], written["logits"], rtol=1e-6)


def test_the_command_line_draws_outputs_with_their_shape(shared_quantised_mlp: Cli, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", features=features(3))
    ran = shared_quantised_mlp("run", "mlp:dev#llvm-cpu-host/w4a16", "--input", tmp_path / "in.npz").ok()
    assert ran.stdout.startswith("logits float32[3, 10]\n[[")


def test_the_command_line_takes_texts(build_path, paths_cli: Cli) -> None:
    build_path("./tiny-sentences", "fp32")
    texts = ["--text", "the dog sat", "--text", "a cat ran"]
    ran = paths_cli("run", "tiny-sentences:dev#llvm-cpu-host/fp32", *texts, "--format", "json").ok()
    model = hwc.open("tiny-sentences:dev#llvm-cpu-host/fp32", store=paths_cli.store)
    expected = model.run(["the dog sat", "a cat ran"])["sentence_embedding"]
    np.testing.assert_allclose(ran.json()["sentence_embedding"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--text", "a", "--input", "in.npz"),
        ("--input", "absent.npz"),
        ("--input", "in.npy"),
        ("--input", "broken.npz"),
        ("--input", "in.npz", "--output", "no/such/folder/out.npz"),
    ],
)
def test_a_wrong_call_on_the_command_line_is_refused(arguments, shared_quantised_mlp: Cli, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", features=features(1))
    np.save(tmp_path / "in.npy", features(1))
    (tmp_path / "broken.npz").write_bytes((tmp_path / "in.npz").read_bytes()[:200])
    here = type(shared_quantised_mlp)(home=shared_quantised_mlp.home, store=shared_quantised_mlp.store, cwd=tmp_path)
    ran = here("run", "mlp:dev#llvm-cpu-host/fp32", *arguments)
    assert ran.code in (2, 4)
    assert ran.stdout == ""
    assert "error: " in ran.stderr
