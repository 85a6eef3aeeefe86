"""A mixture of experts from its folder: built in every scheme, as torch has it, with its parameters told truly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from language_parts import causal_folder, greedy

import hwc
from command import Cli
from hwc.api import find_variant

pytestmark = pytest.mark.slow
EXPERTS, PER_TOKEN, HIDDEN, INNER = 4, 2, 64, 32
LAYERS = ("model.model.layers.0.mlp", "model.model.layers.1.mlp")


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """A command line in a folder with the model as ``./tiny-moe``."""
    folder = tmp_path_factory.mktemp("mixture")
    causal_folder(
        folder / "tiny-moe", model_type="qwen3_moe", num_experts=EXPERTS, num_experts_per_tok=PER_TOKEN,
        moe_intermediate_size=INNER, norm_topk_prob=True,
    )
    return Cli(home=folder / "home", store=folder / "store", cwd=folder)


@pytest.fixture(scope="module")
def built(mixture: Cli) -> Mapping[str, Any]:
    schemes = ("-q", "fp32", "-q", "w4a16", "-q", "fp8")
    ran = mixture("build", "./tiny-moe", "-t", "llvm-cpu-host", *schemes, "--format", "json").ok()
    documents = ran.json()[0]["variants"]
    return {document["identity"]["variant_id"].partition("/")[2]: document for document in documents}


def metrics(document: Mapping[str, Any]) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in document["quality"]}


def test_float_code_is_the_model_in_torch(built: Mapping[str, Any], mixture: Cli) -> None:
    told = metrics(built["fp32"])
    assert told["greedy_tokens"] == 64
    assert abs(told["kl_mean"]) < 1e-6
    ids = list(range(60, 160))
    found = hwc.open("tiny-moe#llvm-cpu-host/fp32", store=mixture.store).generate(ids, max_new_tokens=16).token_ids
    assert list(found) == greedy(mixture.cwd / "tiny-moe", ids, len(found))


def test_quantised_code_is_the_quantised_graph_and_near_the_model(built: Mapping[str, Any]) -> None:
    for scheme, kl in (("fp8", 0.1), ("w4a16", 0.5)):
        told = metrics(built[scheme])
        assert told["parity_max_abs"] < 1e-3
        assert 0 < told["kl_mean"] < kl


def test_active_parameters_leave_out_the_experts_a_token_is_not_sent_to(built: Mapping[str, Any], mixture: Cli) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(mixture.cwd / "tiny-moe", dtype=torch.float32)
    total = sum(weight.numel() for weight in model.parameters())
    idle = 2 * (EXPERTS - PER_TOKEN) * 3 * HIDDEN * INNER
    for document in built.values():
        told = document["model"]
        assert (told["arch"], told["experts"]) == ("moe", EXPERTS)
        assert (told["params"], told["active_params"]) == (total, total - idle)
    facts = find_variant("tiny-moe#llvm-cpu-host/fp32", store=mixture.store).facts["generation"]
    assert (facts["parameters"], facts["active_parameters"]) == (total, total - idle)
    assert facts["experts_per_token"] == PER_TOKEN


def test_every_expert_is_quantised_and_no_router(built: Mapping[str, Any], mixture: Cli) -> None:
    assert built
    audit = find_variant("tiny-moe#llvm-cpu-host/w4a16", store=mixture.store).facts["audit"]
    kept = {row["layer"]: row["reason"] for row in audit["kept_float"]}
    for layer in LAYERS:
        assert "excluded" in kept[f"{layer}.gate"]
    assert not any("experts" in layer for layer in kept)
