"""One scheme makes the same tokens on every kind of device; where it does not, the first layer that parts is named."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from test_planted_faults import inverted_byte, layers, made

from command import ROOT, Cli
from hwc.pipeline.stages import program
from hwc.quantise.encode import read_archive
from hwc.runtime.session import Session

sys.path.insert(0, str(ROOT / "tests" / "unit"))  # emulated_parts.py

from emulated_parts import needs_emulator

CPU, REFERENCE, VULKAN, EMULATED = "llvm-cpu-host", "vmvx-reference", "vulkan-lavapipe", "rv64gcv-npu"
FAULTY = "model.model.layers.1.mlp.down_proj"
"""A layer near the end, so that what comes before it agrees."""


def build(cli: Cli, *targets: str, schemes: tuple[str, ...] = ("w4a16",)) -> list[dict[str, Any]]:
    chosen = [part for target in targets for part in ("-t", target)]
    chosen += [part for scheme in schemes for part in ("-q", scheme)]
    ran = cli("build", cli.cwd / "tiny-llama", *chosen, "--smoke", "--format", "json").ok()
    found: list[dict[str, Any]] = ran.json()[0]["variants"]
    return found


def alike(documents: list[dict[str, Any]]) -> dict[str, list[str]]:
    return {row["identity"]["variant_id"]: row["equivalence"].get("variants", []) for row in documents}


def copied(language: Cli, folder: Any) -> Cli:
    cli = language.copied_to(folder)
    shutil.copytree(language.cwd / "tiny-llama", folder / "tiny-llama")
    return cli


pytestmark = pytest.mark.slow  # a language model for three targets takes minutes


@pytest.fixture(scope="module")
def side_by_side(
    language: Cli, built_language: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Cli, list[dict[str, Any]]]:
    """The model for this CPU and for the backend without an instruction set. Read it, never change it."""
    assert built_language
    cli = copied(language, tmp_path_factory.mktemp("equivalence"))
    return cli, build(cli, CPU, REFERENCE)


def test_the_reference_backend_goes_on_with_the_same_tokens(side_by_side: tuple[Cli, list[dict[str, Any]]]) -> None:
    _, documents = side_by_side
    assert alike(documents) == {f"{CPU}/w4a16": [f"{REFERENCE}/w4a16"], f"{REFERENCE}/w4a16": [f"{CPU}/w4a16"]}
    told = {row["metric"]: row["value"] for row in documents[1]["quality"]}
    assert set(told) == {"greedy_tokens", "parity_max_abs"}
    assert told["parity_max_abs"] < 1e-3


@pytest.mark.vulkan
def test_lavapipe_goes_on_with_the_same_tokens(
    language: Cli, built_language: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert built_language
    documents = build(copied(language, tmp_path_factory.mktemp("lavapipe")), CPU, VULKAN)
    assert [row["status"] for row in documents] == ["verified", "verified"]
    assert alike(documents) == {f"{CPU}/w4a16": [f"{VULKAN}/w4a16"], f"{VULKAN}/w4a16": [f"{CPU}/w4a16"]}


def test_a_fault_in_one_layer_of_one_target_fails_the_build_and_names_the_layer(
    side_by_side: tuple[Cli, list[dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    cli = copied(side_by_side[0], tmp_path_factory.mktemp("fault"))
    case = made(cli, str(cli.cwd / "tiny-llama"), "w4a16", target=REFERENCE)
    archive = case.path(case.variant.encode) / "linears.irpa"
    (layer,) = [name for name in layers(read_archive(archive)) if FAULTY in name]
    faulty = case.with_fault(inverted_byte, layer, tmp_path_factory.mktemp("encoded") / "encoded")
    shutil.copyfile(faulty / archive.name, archive)
    argv = ("build", cli.cwd / "tiny-llama", "-t", CPU, "-t", REFERENCE, "-q", "w4a16", "--smoke")
    ran = cli(*argv, "--refresh", "check")
    assert ran.code == 3
    assert f"{REFERENCE}/w4a16: logits are past their parity" in ran.stderr
    assert "model.model.layers.1 is the first layer that is off" in ran.stderr
    assert "model.model.layers.0 is" not in ran.stderr


@pytest.mark.vulkan
def test_every_scheme_makes_the_same_tokens_on_all_three(
    language: Cli, built_language: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert built_language
    schemes = ("fp32", "fp8", "w4a16")
    found = alike(build(copied(language, tmp_path_factory.mktemp("all")), CPU, REFERENCE, VULKAN, schemes=schemes))
    for scheme in schemes:
        for target in (CPU, REFERENCE, VULKAN):
            others = {f"{other}/{scheme}" for other in (CPU, REFERENCE, VULKAN)} - {f"{target}/{scheme}"}
            assert others <= set(found[f"{target}/{scheme}"])


@pytest.mark.vulkan
def test_smollm2_makes_the_same_tokens_on_lavapipe(cli: Cli) -> None:
    chosen = ("-t", CPU, "-t", VULKAN, "-q", "fp32", "-q", "w4a16-rtn")
    found = alike(cli("build", "smollm2", *chosen, "--smoke", "--format", "json").ok().json()[0]["variants"])
    for scheme in ("fp32", "w4a16-rtn"):
        assert f"{VULKAN}/{scheme}" in found[f"{CPU}/{scheme}"]


@needs_emulator
def test_an_emulated_chip_takes_the_same_decode_steps(
    side_by_side: tuple[Cli, list[dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each step's logits are the reference's. Prompts need QEMU 8.1: older ones cannot translate some of their code."""
    cli = copied(side_by_side[0], tmp_path_factory.mktemp("emulated"))
    monkeypatch.setenv("HWC_HOME", str(cli.home))
    ran = cli("build", cli.cwd / "tiny-llama", "-t", EMULATED, "-q", "w4a16", "--smoke")
    told = ran.code == 4 and "a fault of QEMU before 8.1" in ran.stderr and "bookworm-backports" in ran.stderr
    assert ran.code == 0 or told, ran.stderr  # what the steps below are of is made before the check
    sessions = []
    for target in (EMULATED, REFERENCE):  # the CPU's kernels round activations
        case = made(cli, str(cli.cwd / "tiny-llama"), "w4a16", target=target)
        built = case.variant
        sessions.append(Session(program(case.path(built.encode), case.path(built.lower), built.target.device)))
    for position, token in enumerate((72, 101, 108)):
        feeds = {
            "input_ids": np.array([[token]]), "start": np.array([position]), "logit_index": np.array([[0]]),
        }
        found, due = (session.call("b1_s1_l1", feeds)["logits"] for session in sessions)
        np.testing.assert_allclose(found, due, atol=1e-4)
    executed = sessions[0].executed()
    assert executed is not None
    assert executed["instructions"] > 0
