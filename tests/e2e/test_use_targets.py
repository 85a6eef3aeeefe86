"""Targets beside this CPU: a software Vulkan device is checked like any; what cannot run here is unverified."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from command import Cli

NO_VULKAN = {"VK_ICD_FILENAMES": "/nonexistent.json", "VK_DRIVER_FILES": "/nonexistent.json"}
SCHEMES = ("fp32", "fp8", "w4a16", "w4a16-asym")
ELSEWHERE = ("aarch64-neoverse", "vulkan-ampere", "vulkan-rdna3", "cuda-sm80")
LEVELS = ("x86-64-v3", "x86-64-v4")


def options(targets: tuple[str, ...], schemes: tuple[str, ...]) -> list[str]:
    return [part for target in targets for part in ("-t", target)] + [part for name in schemes for part in ("-q", name)]


def quality(variant: dict[str, Any]) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in variant["quality"]}


@pytest.mark.vulkan
def test_a_vulkan_device_is_verified_against_onnx_runtime(shared_mlp: Cli, tmp_path: Path) -> None:
    cli = shared_mlp.copied_to(tmp_path)
    schemes = ("fp32", "fp8", "w4a16")
    built = cli("build", "mlp", *options(("vulkan-lavapipe",), schemes), "--format", "json").ok().json()[0]
    for variant, scheme in zip(built["variants"], schemes, strict=True):
        assert (variant["identity"]["variant_id"], variant["status"]) == (f"vulkan-lavapipe/{scheme}", "verified")
        assert quality(variant)["parity_max_abs"] <= 5e-5
        assert quality(variant)["cosine_mean"] > {"fp32": 0.99999, "fp8": 0.99, "w4a16": 0.985}[scheme]
        assert variant["profile"]["request"][0]["latency_ms"]["p50"] > 0
        assert "cost" not in variant  # a software device says nothing about the price of a real one
    cli("tag", "mlp:dev", "1.0.0").ok()


def test_without_a_vulkan_driver_variants_are_compiled_but_never_shown_as_passed(
    shared_mlp: Cli, tmp_path: Path
) -> None:
    cli = shared_mlp.copied_to(tmp_path)
    schemes = ("fp32", "w4a16")
    ran = cli("build", "mlp", *options(("vulkan-lavapipe",), schemes), "--format", "json", env=NO_VULKAN).ok()
    built = ran.json()[0]
    for variant, reason in zip(built["variants"], built["unverified_reasons"], strict=True):
        assert (variant["status"], variant["profile"]["request"], variant["quality"]) == ("unverified", [], [])
        assert "no vulkan device" in reason
    refused = cli("tag", "mlp:dev", "1.0.0", env=NO_VULKAN)
    assert refused.code == 3
    assert "vulkan-lavapipe" in refused.stderr
    assert list(cli.tags()) == ["mlp:dev"]
    ran = cli("check", "mlp:dev#vulkan-lavapipe/fp32", env=NO_VULKAN)
    assert ran.code == 4
    assert "no vulkan device" in ran.stderr


@pytest.mark.vulkan
def test_what_was_compiled_without_a_device_is_verified_where_there_is_one(shared_mlp: Cli, tmp_path: Path) -> None:
    cli = shared_mlp.copied_to(tmp_path)
    build = ["build", "mlp", *options(("vulkan-lavapipe",), ("fp32",)), "--format", "json"]
    compiled = cli(*build, env=NO_VULKAN).ok().json()[0]["variants"][0]
    cli("profile", "mlp:dev#vulkan-lavapipe/fp32").ok()
    told = cli("inspect", "mlp:dev#vulkan-lavapipe/fp32", "--format", "json").ok().json()["serving"][0]
    assert (compiled["status"], told["status"]) == ("unverified", "verified")
    assert compiled["identity"]["content_sha256"] == told["identity"]["content_sha256"]
    cli("tag", "mlp:dev", "1.0.0").ok()


def test_doctor_and_targets_list_say_what_does_not_run_here(shared_mlp: Cli) -> None:
    rows = {row["name"]: row for row in shared_mlp("targets", "list", "--format", "json").ok().json()}
    assert rows["llvm-cpu-host"]["runs_here"] != "no"
    assert rows["vulkan-rdna3"]["runs_here"] == "no" or "Radeon" in rows["vulkan-rdna3"]["runs_here"]
    report = shared_mlp("doctor", "--format", "json", env=NO_VULKAN).ok().json()
    vulkan = next(row for row in report["targets"] if row["name"] == "vulkan-lavapipe")
    assert (vulkan["builds"], vulkan["runs"]) == ("yes", "no")
    assert "mesa-vulkan-drivers" in vulkan["advice"]


@pytest.mark.slow
def test_every_shipped_target_compiles_every_scheme(shared_quantised_mlp: Cli, tmp_path: Path) -> None:
    cli = shared_quantised_mlp.copied_to(tmp_path)
    build = ["build", "mlp", *options(ELSEWHERE + LEVELS, SCHEMES), "--smoke", "--format", "json"]
    built = cli(*build, env=NO_VULKAN).ok().json()[0]
    statuses = {row["identity"]["variant_id"]: row["status"] for row in built["variants"]}
    assert set(statuses) == {f"{target}/{scheme}" for target in ELSEWHERE + LEVELS for scheme in SCHEMES}
    reasons = dict(zip(statuses, built["unverified_reasons"], strict=True))
    assert statuses == {name: "unverified" if reason else "verified" for name, reason in reasons.items()}
    assert all(reasons[f"vulkan-{gpu}/fp32"] for gpu in ("ampere", "rdna3"))
