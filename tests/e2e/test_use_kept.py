"""Weights that arrive quantised go into the bundle with the codes they came with, and compute what they did before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from language_parts import causal_folder

from command import Cli
from compressed_parts import write
from gguf_parts import tiny_config, tiny_model, write_model
from hwc.capture.gguf import arrived
from hwc.quantise import codes as canonical


def build(shared: Cli, folder: Path, source: str) -> tuple[Cli, Mapping[str, Any]]:
    """Build a model with ``keep`` alone; return the command line and its serving.json."""
    cli = type(shared)(home=folder / "home", store=folder / "store", cwd=folder)
    ran = cli("build", source, "-t", "llvm-cpu-host", "-q", "keep", "--smoke", "--format", "json").ok()
    (document,) = ran.json()[0]["variants"]
    return cli, document


def metrics(document: Mapping[str, Any]) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in document["quality"]}


def sources(cli: Cli) -> list[dict[str, Any]]:
    (path,) = cli.home.glob("store/encode/*/audit.json")
    found: list[dict[str, Any]] = json.loads(path.read_text())["sources"]
    return found


def test_a_gguf_file_s_codes_are_the_bundle_s(shared_mlp: Cli, tmp_path: Path) -> None:
    model = tiny_model(tiny_config("llama", max_position_embeddings=192, num_hidden_layers=1))
    path = write_model(model, tmp_path / "tiny.gguf", kind="Q4_0")
    cli, document = build(shared_mlp, tmp_path, "./tiny.gguf")
    told = metrics(document)
    assert told["greedy_tokens"] == 64
    assert abs(told["kl_mean"]) < 1e-6
    kept = canonical.load(next(cli.home.glob("store/quantise/*/codes.safetensors")))
    for one in arrived([path]):
        codes = kept[f"model.{one.name.removesuffix('.weight')}"]
        (rows,) = one.kept.rows()
        assert np.array_equal(codes.codes, rows.codes)
        assert np.array_equal(codes.scales, rows.scales)
    assert {row["codes"]: row.get("stored") for row in sources(cli)} == {"kept": "int4 g32", "float": "float32"}


@pytest.mark.slow
@pytest.mark.parametrize("form", [("int4", 32, True), ("int8", 0, False), ("fp8", 0, False)], ids=str)
def test_a_compressed_folder_s_codes_are_the_bundle_s(
    form: tuple[str, int, bool], shared_mlp: Cli, tmp_path: Path
) -> None:
    kind, group, zeros = form
    given = write(causal_folder(tmp_path / "tiny", num_hidden_layers=1), kind, group=group, zeros=zeros)
    cli, document = build(shared_mlp, tmp_path, "./tiny")
    told = metrics(document)
    assert told["greedy_tokens"] == 64
    assert abs(told["kl_mean"]) < 1e-6
    kept = canonical.load(next(cli.home.glob("store/quantise/*/codes.safetensors")))
    assert {layer.removeprefix("model."): True for layer in kept} == dict.fromkeys(given, True)
    assert all(np.array_equal(kept[f"model.{module}"].codes, one.codes) for module, one in given.items())


def test_a_model_of_float_weights_cannot_be_kept(shared_mlp: Cli) -> None:
    ran = shared_mlp("build", "mlp", "-t", "llvm-cpu-host", "-q", "keep", "--smoke")
    assert ran.code == 2
    assert "no weight of this model arrived quantised" in ran.stderr
    assert "w4a16" in ran.stderr
