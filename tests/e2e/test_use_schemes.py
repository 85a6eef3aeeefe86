"""Schemes with options build what their names say, and schemes that round activations are held to their own parity."""

from __future__ import annotations

import pytest

from command import Cli

pytestmark = pytest.mark.slow
OPTIONS = {
    "w4a16-b5.5": {"int4 g32", "int8 g32"},
    "w4a16-awq": {"int4 g32", "int8 g32"},
    "w4a16-asym-g64-e4": {"int4 g64 zero points", "int4 g32"},
    "w8a16": {"int8 g32"},
}


def test_options_give_a_language_model_the_formats_they_name(language: Cli) -> None:
    schemes = [part for name in OPTIONS for part in ("-q", name)]
    language("build", "./tiny-llama", "-t", "llvm-cpu-host", *schemes, "--smoke", "--tag", "options").ok()
    facts = language("inspect", "tiny-llama:options", "--format", "json").ok().json()["facts"]
    for name, formats in OPTIONS.items():
        audit = facts[f"llvm-cpu-host/{name}"]["audit"]
        assert set(audit["parameters_by_format"]) == formats
    linears = facts["llvm-cpu-host/w4a16-b5.5"]["audit"]["parameters_by_format"]
    assert linears["int8 g32"] > 0


def test_fp8_activations_hold_their_parity_on_a_network_that_carries_nothing_on(shared_mlp: Cli) -> None:
    schemes = ("-q", "fp8-dynamic", "-q", "fp8-static")
    built = shared_mlp(
        "build", "mlp", "-t", "llvm-cpu-host", *schemes, "--smoke", "--tag", "rounded", "--format", "json"
    ).ok().json()
    for document in built[0]["variants"]:
        quality = {row["metric"]: row["value"] for row in document["quality"]}
        assert quality["cosine_mean"] > 0.99
        assert 0 < quality["parity_max_abs"] <= 5e-3


def test_fp8_activations_are_refused_where_one_rounding_changes_all_that_follows(language: Cli) -> None:
    refused = language("build", "./tiny-llama", "-t", "llvm-cpu-host", "-q", "fp8-dynamic", "--smoke", "--tag", "no")
    assert refused.code == 3
    assert "on the same quantised graph, at most 1.00e-01" in refused.stderr
    assert "tiny-llama:no" not in str(language.tags())
