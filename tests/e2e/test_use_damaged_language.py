"""Language models that are damaged or incomplete: told by what is wrong, with the exit code of its kind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from language_parts import language_toml

from command import Cli
from gguf_parts import RawFile

BUILD = ("-t", "llvm-cpu-host", "-q", "fp32")


@pytest.fixture
def own(language: Cli, tmp_path: Path) -> Cli:
    """A command line in a folder that holds a copy of the model as ``./model``."""
    shutil.copytree(language.cwd / "tiny-llama", tmp_path / "model")
    return Cli(home=language.home, store=tmp_path / "store", cwd=tmp_path)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def lose(tensors: dict[str, Any]) -> None:
    del tensors["model.layers.1.self_attn.k_proj.weight"]


def spoil(tensors: dict[str, Any]) -> None:
    tensors["model.layers.0.mlp.down_proj.weight"][1, 2] = float("nan")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lose, "lacks tensor `model.layers.1.self_attn.k_proj.weight`"),
        pytest.param(
            spoil, "weight `model.layers.0.mlp.down_proj.weight` holds NaN or infinity", marks=pytest.mark.slow
        ),
    ],
    ids=["missing", "NaN"],
)
def test_weights_that_are_not_all_there_are_named(
    change: Callable[[dict[str, Any]], None], told: str, own: Cli
) -> None:
    rewrite(own.cwd / "model", change)
    ran = own("build", "./model", *BUILD)
    assert ran.code == 6
    assert told in ran.stderr


@pytest.mark.slow
def test_tensors_that_the_model_does_not_have_are_told_and_left_out(own: Cli) -> None:
    import torch

    rewrite(own.cwd / "model", lambda tensors: tensors.update({"score.weight": torch.ones(2, 64)}))
    for _ in range(2):  # what comes from the cache is told again
        assert "no such tensors: score.weight" in own("build", "./model", *BUILD, "--smoke").ok().stderr


def test_a_tokenizer_that_is_missing_is_told(own: Cli) -> None:
    (own.cwd / "model" / "tokenizer.json").unlink()
    ran = own("build", "./model", *BUILD)
    assert ran.code == 2
    assert "the model has no tokenizer" in ran.stderr


@pytest.mark.slow
def test_a_tokenizer_of_another_model_is_refused(own: Cli) -> None:
    file = own.cwd / "model" / "tokenizer.json"
    table = json.loads(file.read_text())
    table["model"]["vocab"]["more"] = 300
    file.write_text(json.dumps(table))
    ran = own("build", "./model", *BUILD)
    assert ran.code == 6
    assert "the tokenizer does not belong to the model" in ran.stderr


@pytest.mark.parametrize(("data_bytes", "told"), [(511, "past the end"), (0, "past the end")])
def test_a_gguf_file_that_is_cut_off_is_refused(data_bytes: int, told: str, own: Cli) -> None:
    (own.cwd / "cut.gguf").write_bytes(RawFile(data_bytes=data_bytes).packed())
    ran = own("build", "./cut.gguf", *BUILD)
    assert ran.code == 6
    assert told in ran.stderr


def test_calibration_text_that_is_too_short_is_told_with_what_is_needed(own: Cli, built_language: object) -> None:
    assert built_language
    (own.cwd / "short.txt").write_text("A few words.\n\nAnd a few more words.\n")
    from hwc import digest

    text = language_toml(
        "short", own.cwd / "model",
        generation={"context_tokens": 192, "prefill_tokens": [16], "score_tokens": 16},
        calibration={"file": "short.txt", "sha256": digest.of_file(own.cwd / "short.txt"), "window_tokens": 16},
    )
    (own.cwd / "short.toml").write_text(text)
    ran = own("build", "short.toml", "-t", "llvm-cpu-host", "-q", "w4a16")
    assert ran.code == 2
    assert "calibration text too short: 16 tokens in windows of 16, 64 needed" in ran.stderr


def test_a_prompt_that_is_no_text_is_refused(language: Cli, built_language: object) -> None:
    assert built_language
    prompt = b"caf\xe9".decode(errors="surrogateescape")
    ran = language("run", "tiny-llama#llvm-cpu-host/fp32", "--prompt", prompt)
    assert ran.code == 2
    assert "not valid UTF-8" in ran.stderr
