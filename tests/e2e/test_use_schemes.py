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


FP8 = ("fp8-dynamic", "fp8-static")


def rounded(cli: Cli, model: str, *schemes: str) -> dict[str, tuple[dict[str, float], float]]:
    """Build schemes that round activations; return scheme to its metrics and the bound of its parity."""
    asked = [part for name in schemes for part in ("-q", name)]
    built = cli("build", model, "-t", "llvm-cpu-host", *asked, "--smoke", "--tag", "rounded", "--format", "json")
    tag = built.ok().json()[0]["tag"]
    facts = cli("inspect", tag, "--format", "json").ok().json()["facts"]
    found = {}
    for document in built.json()[0]["variants"]:
        name = document["identity"]["variant_id"]
        metrics = {row["metric"]: row["value"] for row in document["quality"]}
        found[name.partition("/")[2]] = (metrics, facts[name]["parity_max_abs"])
    return found


def test_fp8_activations_hold_a_parity_that_is_measured_on_their_own_reference(shared_mlp: Cli) -> None:
    for metrics, bound in rounded(shared_mlp, "mlp", *FP8).values():
        assert metrics["cosine_mean"] > 0.99
        assert 0 < metrics["parity_max_abs"] <= bound < 2e-2


def test_a_language_model_with_fp8_activations_is_held_to_the_noise_of_its_reference(language: Cli) -> None:
    for metrics, bound in rounded(language, "./tiny-llama", *FP8).values():
        assert metrics["kl_mean"] < 0.05
        assert 0.01 < metrics["parity_max_abs"] <= bound < 2.5  # the artefact of one is 3.5 from the other's reference


def test_int8_activations_are_a_scheme_of_their_own_verified_by_its_own_kernel(shared_mlp: Cli) -> None:
    ((metrics, bound),) = rounded(shared_mlp, "mlp", "w4a8").values()
    assert metrics["cosine_mean"] > 0.985
    assert 0 < metrics["parity_max_abs"] <= bound < 2e-2
    (facts,) = shared_mlp("inspect", "mlp:rounded", "--format", "json").ok().json()["facts"].values()
    assert facts["scheme"]["name"] == "w4a8"
    assert set(facts["audit"]["parameters_by_format"]) == {"int4 g32, int8 activations"}
    kernels = facts["lower"]["vendor"]["kernels"]
    assert [name for name, kernel in kernels.items() if kernel["linked"]] == ["w4a8"]


def test_int8_activations_are_generated_code_where_there_is_no_kernel(shared_mlp: Cli) -> None:
    built = shared_mlp("build", "mlp", "-t", "vmvx-reference", "-q", "w4a8", "--smoke", "--format", "json").ok()
    (document,) = built.json()[0]["variants"]
    assert document["identity"]["variant_id"] == "vmvx-reference/w4a8"
    assert document["status"] == "verified"
    assert document["model"]["act_dtype"] == "float32, int8 in products"
