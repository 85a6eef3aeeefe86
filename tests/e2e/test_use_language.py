"""A language model from its folder to text: the bundle goes on as torch does, whatever the prompt's length."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from language_parts import causal_folder, greedy

import hwc
from command import Cli

MODEL = "tiny-llama"


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """A command line with the model built in two schemes. Read it, never change it."""
    folder = tmp_path_factory.mktemp("language")
    causal_folder(folder / MODEL)
    return Cli(home=folder / "home", store=folder / "store", cwd=folder)


@pytest.fixture(scope="module")
def built(language: Cli) -> Mapping[str, Any]:
    schemes = ("-q", "fp32", "-q", "w4a16", "-q", "fp8")
    ran = language("build", f"./{MODEL}", "-t", "llvm-cpu-host", *schemes, "--format", "json").ok()
    documents = ran.json()[0]["variants"]
    return {document["identity"]["variant_id"].partition("/")[2]: document for document in documents}


@pytest.fixture(scope="module")
def fp32(language: Cli, built: Mapping[str, Any]) -> hwc.Model:
    assert set(built) == {"fp32", "w4a16", "fp8"}
    return hwc.open(f"{MODEL}#llvm-cpu-host/fp32", store=language.store)


def metrics(document: Mapping[str, Any]) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in document["quality"]}


def test_float_code_is_the_model_in_torch(built: Mapping[str, Any]) -> None:
    told = metrics(built["fp32"])
    assert told["greedy_tokens"] == 64
    assert abs(told["kl_mean"]) < 1e-6
    assert told["parity_max_abs"] < 1e-4


def test_quantised_code_is_the_quantised_graph_in_onnx_runtime_and_near_the_model(built: Mapping[str, Any]) -> None:
    for scheme, kl in (("fp8", 0.1), ("w4a16", 1.0)):
        told = metrics(built[scheme])
        assert told["parity_max_abs"] < 1e-3
        assert 0 < told["kl_mean"] < kl


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 100, 140])
def test_a_prompt_of_any_length_goes_on_as_torch_goes_on(length: int, fp32: hwc.Model, language: Cli) -> None:
    ids = np.random.default_rng(length).integers(0, 250, length).tolist()
    found = fp32.generate(ids, max_new_tokens=12)
    expected = greedy(language.cwd / MODEL, ids, 12)
    count = len(found.token_ids)
    assert count == 12 or found.finish == "stop"
    assert list(found.token_ids) == expected[:count]


def test_a_new_text_knows_nothing_of_the_one_before(fp32: hwc.Model) -> None:
    first = fp32.generate("the first text", max_new_tokens=8)
    fp32.generate("another text that is a good deal longer than the first one", max_new_tokens=8)
    assert fp32.generate("the first text", max_new_tokens=8).token_ids == first.token_ids


def test_the_serving_metadata_tells_the_cache_and_both_latencies(built: Mapping[str, Any]) -> None:
    document = built["w4a16"]
    told = document["model"]
    assert told["kv_bytes_per_token"] == 2 * 2 * 2 * 16 * 4
    assert told["max_context_tokens"] == 192
    assert {cell["isl"] for cell in document["profile"]["prefill"]} == {16, 128}
    assert {cell["context"] for cell in document["profile"]["decode"]} == {192}
    assert "ttft" in document["definitions"]
    assert "tpot" in document["definitions"]


def test_the_command_line_prints_the_text_alone(language: Cli, built: Mapping[str, Any]) -> None:
    assert built
    ran = language("run", f"{MODEL}#llvm-cpu-host/fp32", "--prompt", "hello", "--max-new-tokens", "5").ok()
    again = language("run", f"{MODEL}#llvm-cpu-host/fp32", "--prompt", "hello", "--max-new-tokens", "5").ok()
    assert ran.stdout == again.stdout
    assert "tokens/s" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--prompt", ""), "empty"),
        (("--prompt", "x" * 400), "192"),
        (("--text", "a"), "--prompt"),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused(
    arguments: tuple[str, ...], told: str, language: Cli, built: Mapping[str, Any]
) -> None:
    assert built
    ran = language("run", f"{MODEL}#llvm-cpu-host/fp32", *arguments)
    assert ran.code == 2
    assert told in ran.stderr


def test_an_unchanged_build_does_nothing(language: Cli, built: Mapping[str, Any]) -> None:
    assert built
    ran = language("build", f"./{MODEL}", "-t", "llvm-cpu-host", "-q", "fp32", "-q", "w4a16", "-q", "fp8").ok()
    assert "nothing to do" in ran.stderr


def test_the_bundle_is_checked_again_from_its_own_golden_data(language: Cli, built: Mapping[str, Any]) -> None:
    assert built
    assert "passed" in language("check", f"{MODEL}#llvm-cpu-host/w4a16").ok().stdout


def test_an_export_that_would_share_the_cache_between_requests_is_refused(
    language: Cli, built: Mapping[str, Any]
) -> None:
    assert built
    ran = language("export", "triton", MODEL, language.cwd / "repository")
    assert ran.code == 2
    assert "keeps a cache between calls" in ran.stderr
    assert not (language.cwd / "repository").exists()


@pytest.mark.parametrize("verb", ["inspect", "report"])
def test_a_language_model_is_shown_like_any_other(verb: str, language: Cli, built: Mapping[str, Any]) -> None:
    assert built
    options = ("-o", language.cwd / "page.html") if verb == "report" else ()
    language(verb, MODEL, *options).ok()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "changed"),
    [
        ("qwen2", {}),
        ("qwen3", {"tie_word_embeddings": False}),
        ("mistral", {"sliding_window": 32}),
        ("gemma3_text", {"sliding_window": 32, "layer_types": ["sliding_attention", "full_attention"]}),
    ],
)
def test_other_decoders_build_and_match_torch(model_type: str, changed: dict[str, Any], tmp_path: Path) -> None:
    causal_folder(tmp_path / "model", model_type=model_type, **changed)
    cli = Cli(home=tmp_path / "home", store=tmp_path / "store", cwd=tmp_path)
    ran = cli("build", "./model", "-t", "llvm-cpu-host", "-q", "fp32", "--smoke", "--format", "json").ok()
    told = metrics(ran.json()[0]["variants"][0])
    assert told["greedy_tokens"] == 64
    assert told["parity_max_abs"] < 1e-3
