"""Models without a TOML: a folder, an .onnx file or a factory is built as it lies, and says what was inferred."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from use_parts import FIXED_WIDTH, cosine, linear_onnx, run_onnx, token_vectors

import hwc

if TYPE_CHECKING:
    from command import Cli

SOURCES = {
    "./tiny-sentences": ("fp32",),
    "./tiny-bert": ("fp32",),
    "linears.onnx": ("fp32", "w4a16"),
    "beside/external.onnx": ("fp32",),
    "./turned.onnx": ("w4a16",),
    "module.py:create": ("fp32", "fp8"),
}
TOLD = {
    "./tiny-sentences": ("sentence-embedding", "attention_mask: int64[batch, sequence]", "batch 8, sequence 16"),
    "./tiny-bert": ("feature-extraction", "token_type_ids: int64[batch, sequence]", "batch 8, sequence 64"),
    "linears.onnx": ("outputs y", f"x: float32[n, {FIXED_WIDTH}]", "n 8"),
    "beside/external.onnx": ("outputs y", f"x: float32[n, {FIXED_WIDTH}]", "n 8"),
    "./turned.onnx": ("outputs y", f"x: float32[n, {FIXED_WIDTH}]", "n 8"),
    "module.py:create": ("outputs output", f"x: float32[batch, {FIXED_WIDTH}]", "batch 8"),
}
TEXTS = ["the dog sat on the mat", "a cat", "the river bank is green and the sky is blue and a dog ran to the road"]


def open_model(cli: Cli, name: str, scheme: str) -> hwc.Model:
    return hwc.open(f"{name}:dev#llvm-cpu-host/{scheme}", store=cli.store)


@pytest.mark.parametrize("source", SOURCES)
def test_a_path_builds_verified_variants_and_shows_what_was_inferred(source, build_path) -> None:
    found = build_path(source, *SOURCES[source])
    assert [variant["status"] for variant in found.built["variants"]] == ["verified"] * len(SOURCES[source])
    assert f"inferred from {source}" in found.told
    for part in TOLD[source]:
        assert part in found.told


@pytest.mark.parametrize("source", SOURCES)
def test_the_toml_that_models_new_writes_builds_the_same_bytes(source, build_path, paths_cli: Cli, tmp_path) -> None:
    found = build_path(source, *SOURCES[source])
    toml = tmp_path / "models" / f"{found.name}.toml"
    assert paths_cli("models", "new", source, "-o", toml).ok().stdout.strip() == str(toml)
    chosen = [part for scheme in found.schemes for part in ("-q", scheme)]
    again = type(paths_cli)(home=paths_cli.home, store=tmp_path / "store", cwd=tmp_path)
    built = again("build", toml, "-t", "llvm-cpu-host", *chosen, "--smoke", "--format", "json").ok().json()[0]
    rows = {row["identity"]["variant_id"]: row["identity"]["content_sha256"] for row in built["variants"]}
    assert found.content() == rows


def test_models_new_keeps_an_existing_file_unless_forced(paths_cli: Cli, tmp_path) -> None:
    toml = tmp_path / "linears.toml"
    toml.write_text("mine")
    refused = paths_cli("models", "new", "linears.onnx", "-o", toml)
    assert (refused.code, toml.read_text()) == (2, "mine")
    paths_cli("models", "new", "linears.onnx", "-o", toml, "--force").ok()
    assert 'kind = "onnx"' in toml.read_text()


@pytest.mark.parametrize("source", ["linears.onnx", "beside/external.onnx"])
@pytest.mark.parametrize("rows", [1, 3, 8, 19])
def test_an_onnx_file_of_a_dynamic_batch_takes_any_number_of_rows(rows, source, build_path, paths_cli: Cli) -> None:
    found = build_path(source, *SOURCES[source])
    x = np.random.default_rng(rows).uniform(-1, 1, (rows, FIXED_WIDTH)).astype(np.float32)
    outputs = open_model(paths_cli, found.name, "fp32").run({"x": x})
    np.testing.assert_allclose(outputs["y"], run_onnx(found.file, x), atol=1e-5)


def test_weights_behind_a_transpose_are_found_and_quantised(build_path, paths_cli: Cli) -> None:
    found = build_path("./turned.onnx", "w4a16")
    x = np.random.default_rng(1).uniform(-1, 1, (5, FIXED_WIDTH)).astype(np.float32)
    model = open_model(paths_cli, found.name, "w4a16")
    assert model.variant.facts["audit"]["layers_quantised"] == 2
    assert model.variant.facts["audit"]["bits_per_parameter"] < 16  # with headers, of 6912 weights
    assert cosine(model.run({"x": x})["y"], run_onnx(found.file, x)) > 0.98


def test_bytes_of_external_data_are_part_of_what_is_built(cli: Cli) -> None:
    file = linear_onnx(cli.cwd / "external.onnx", external=True)
    plan = ["plan", file, "-t", "llvm-cpu-host", "-q", "fp32", "--format", "json"]
    before = {row["stage"] if "stage" in row else row["step"]: row["key"] for row in cli(*plan).ok().json()}
    weights = cli.cwd / "external.weights"
    payload = bytearray(weights.read_bytes())
    payload[100] ^= 1
    weights.write_bytes(payload)
    after = {row["stage"] if "stage" in row else row["step"]: row["key"] for row in cli(*plan).ok().json()}
    assert before.keys() == after.keys()
    assert {step for step in before if before[step] == after[step]} == set()


def test_a_sentence_folder_embeds_texts_as_torch_does(build_path, paths_cli: Cli) -> None:
    found = build_path("./tiny-sentences", "fp32")
    model = open_model(paths_cli, found.name, "fp32")
    expected = np.stack([token_vectors(found.file, text)[:16].mean(axis=0) for text in TEXTS[:2]])
    np.testing.assert_allclose(model.run(TEXTS[:2])["sentence_embedding"], expected, atol=1e-4)


@pytest.mark.parametrize("count", [1, 3, 9])
def test_a_plain_encoder_gives_each_text_its_own_tokens_and_no_filling(count, build_path, paths_cli: Cli) -> None:
    found = build_path("./tiny-bert", "fp32")
    texts = (TEXTS * 3)[:count]
    states = open_model(paths_cli, found.name, "fp32").run(texts)["last_hidden_state"]
    alone = [token_vectors(found.file, text) for text in texts]
    assert states.shape == (count, max(map(len, alone)), 64)
    for got, expected in zip(states, alone, strict=True):
        np.testing.assert_allclose(got[: len(expected)], expected, atol=1e-4)


def test_a_factory_of_a_fixed_size_keeps_every_row_of_its_output(cli: Cli) -> None:
    (cli.cwd / "fixed.py").write_text(
        "import torch\nfrom torch import nn\nEXAMPLE_INPUTS = {'x': torch.zeros(3, 32)}\n"
        "class Fixed(nn.Module):\n    def __init__(self):\n        super().__init__()\n        torch.manual_seed(1)\n"
        "        self.inner = nn.Linear(32, 5)\n    def forward(self, x):\n"
        "        return self.inner(x.reshape(3, 32)) - x.mean()\n"
        "def create():\n    return Fixed()\n"
    )
    ran = cli("build", "fixed.py:create", "-t", "llvm-cpu-host", "-q", "fp32", "--smoke").ok()
    assert "shapes static" in ran.stderr
    x = np.random.default_rng(2).uniform(-1, 1, (3, 32)).astype(np.float32)
    model = open_model(cli, "fixed", "fp32")
    import torch

    torch.manual_seed(1)
    inner = torch.nn.Linear(32, 5)
    expected = (inner(torch.from_numpy(x)) - x.mean()).detach().numpy()
    np.testing.assert_allclose(model.run({"x": x})["output"], expected, atol=1e-5)
    with pytest.raises(hwc.errors.UsageError, match="size 4 where the model takes 3"):
        model.run({"x": np.ones((4, 32), np.float32)})


def test_a_bare_folder_name_works_like_a_path(build_path, paths_cli: Cli) -> None:
    found = build_path("./tiny-bert", "fp32")
    shown = paths_cli("models", "show", "tiny-bert", "--format", "json").ok().json()
    assert shown["name"] == found.name


def test_an_onnx_file_whose_external_data_is_gone_is_refused(cli: Cli) -> None:
    file = linear_onnx(cli.cwd / "kept" / "external.onnx", external=True)
    moved = shutil.copy(file, cli.cwd / "alone.onnx")
    ran = cli("build", moved, "-t", "llvm-cpu-host", "-q", "fp32", "--smoke")
    assert ran.code in (2, 6)
    assert "external.weights" in ran.stderr
    assert cli.tags() == {}
