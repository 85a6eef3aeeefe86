"""A language model from its folder to text: the bundle goes on as torch does, whatever the prompt's length."""

from __future__ import annotations

import json
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
def built(built_language: Mapping[str, Any]) -> Mapping[str, Any]:
    return built_language


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
    for scheme, kl, parity in (("fp8", 0.1, 1e-3), ("w4a16", 1.0, 2e-3)):  # a kernel rounds activations to 16 bits
        told = metrics(built[scheme])
        assert told["parity_max_abs"] < parity
        assert 0 < told["kl_mean"] < kl


def test_calibrated_int4_is_told_as_a_share_of_rounding_to_nearest_with_its_interval(built: Mapping[str, Any]) -> None:
    rows = {row["metric"]: row for row in built["w4a16"]["quality"]}
    told = rows["kl_vs_rtn"]
    assert 0 < told["value"] < 0.5
    assert told["ci95"][0] < told["value"] < told["ci95"][1]
    assert told["n"] == rows["kl_mean"]["n"] > 1000
    assert not {"kl_vs_rtn"} & ({*metrics(built["fp32"])} | {*metrics(built["fp8"])})


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
    assert [cell["isl"] for cell in document["profile"]["prefill"]] == [1, 16, 32, 64, 128, 192]
    assert {cell["isl"]: cell["calls"] for cell in document["profile"]["prefill"]}[192] > 1
    assert len(document["profile"]["decode"]) == 6
    assert max(cell["context"] for cell in document["profile"]["decode"]) == 192
    assert "ttft" in document["definitions"]
    assert "tpot" in document["definitions"]


def test_the_serving_metadata_tells_what_it_takes_to_serve(built: Mapping[str, Any]) -> None:
    for document in built.values():
        told = document["resources"]
        assert (told["max_num_seqs"], told["max_kv_tokens"]) == (1, 192)
        assert told["peak"][0]["context_tokens"] == 192
        assert told["peak"][0]["peak_bytes"] > told["weights_bytes"]
        assert told["cold_start_s"] > told["load_s"] > 0
        prices = {(row["phase"], row["tokens"]) for row in document["cost"]["usd_per_million_tokens"]}
        assert {("prefill", 16), ("prefill", 192), ("decode", 192)} <= prices


def test_the_router_prices_a_text_from_the_metadata(language: Cli, built: Mapping[str, Any], tmp_path: Path) -> None:
    assert built
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(f'[[node]]\nname = "here"\nbundles = ["{MODEL}"]\n')
    ask = ("route", "--fleet", fleet, "--model", MODEL, "--completion-tokens", "10", "--slo-ttft-ms", "60000")
    refused = language(*ask, "--prompt-tokens", "190")
    assert refused.code == 3
    assert "a cache of 192 tokens" in refused.stderr or "no latency was measured that may be trusted" in refused.stderr
    ran = language(*ask, "--prompt-tokens", "40", "--format", "json")
    quiet = [
        name for name, document in built.items()
        if all(any(cell["valid"] for cell in document["profile"][phase]) for phase in ("prefill", "decode"))
    ]
    assert ran.code == (0 if quiet else 3)
    if quiet:
        assert ran.json()["chosen"]["variant"].partition("/")[2] in quiet
        assert ran.json()["ttft_p99_ms"] < ran.json()["predicted_p99_ms"]


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
        ("mistral", {"sliding_window": 16}),
        (
            "gemma3_text",
            {
                "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"],
                "query_pre_attn_scalar": 16, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
            },
        ),
        (
            "gemma3_text",
            {
                "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"], "head_dim": 256,
                "num_key_value_heads": 1, "query_pre_attn_scalar": 256, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
            },
        ),
        ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    ],
)
def test_other_decoders_build_and_match_torch(model_type: str, changed: dict[str, Any], tmp_path: Path) -> None:
    """The golden prompt has 24 tokens, more than the windows."""
    causal_folder(tmp_path / "model", model_type=model_type, **changed)
    cli = Cli(home=tmp_path / "home", store=tmp_path / "store", cwd=tmp_path)
    ran = cli("build", "./model", "-t", "llvm-cpu-host", "-q", "fp32", "--smoke", "--format", "json").ok()
    told = metrics(ran.json()[0]["variants"][0])
    assert told["greedy_tokens"] == 64
    assert told["parity_max_abs"] < 1e-3
    (lowered,) = (tmp_path / "home").rglob("lower.json")
    attention = json.loads(lowered.read_text())["vendor"]["kernels"]["attention"]["matched"]
    assert len(attention) == 4
    assert set(attention.values()) == {2}
