"""A bundle in use: shown, exported, frozen, measured again, removed; and the cache beside it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import hwc
from hwc import digest
from hwc.bundle.open import Bundle, open_bundle
from hwc.bundle.reference import parse
from hwc.measure.dispatches import tool_path
from hwc.oci_layout import Layout

if TYPE_CHECKING:
    from command import Cli

W4 = "mlp:dev#llvm-cpu-host/w4a16"
SCHEMES = ("fp32", "fp8", "w4a16", "w4a16-asym")


@pytest.fixture
def four(shared_quantised_mlp: Cli, tmp_path: Path) -> Cli:
    """A copy of the perceptron in four schemes, to be changed at will."""
    return shared_quantised_mlp.copied_to(tmp_path)


def bundle(cli: Cli, reference: str = "mlp:dev") -> Bundle:
    return open_bundle(Layout(cli.store), parse(reference, default_store=str(cli.store)))


def title(cli: Cli, tag: str) -> str:
    layout = Layout(cli.store)
    return json.loads(layout.read_bytes(layout.tags()[tag]))["annotations"]["org.opencontainers.image.title"]


@pytest.fixture(scope="session")
def with_arm(shared_quantised_mlp: Cli, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The same bundle with a variant that no x86-64 machine can verify."""
    cli = shared_quantised_mlp.copied_to(tmp_path_factory.mktemp("arm"))
    cli("build", "mlp", "-t", "aarch64-neoverse", "-q", "w4a16").ok()
    return cli


def test_inspect_shows_every_variant_with_its_figures(shared_quantised_mlp: Cli) -> None:
    shown = shared_quantised_mlp("inspect", "mlp").ok().stdout
    for scheme in SCHEMES:
        assert f"llvm-cpu-host/{scheme}" in shown
    assert shown.count("verified") == 4
    assert "3 of 3 linears" in shown


def test_inspect_gives_the_same_as_json(shared_quantised_mlp: Cli) -> None:
    told = shared_quantised_mlp("inspect", "mlp", "--format", "json").ok().json()
    found = {row["identity"]["variant_id"]: row for row in told["serving"]}
    assert set(found) == {f"llvm-cpu-host/{scheme}" for scheme in SCHEMES}
    bits = {name: facts["audit"]["bits_per_parameter"] for name, facts in told["facts"].items()}
    assert bits["llvm-cpu-host/w4a16"] < 5 < bits["llvm-cpu-host/fp8"] < 9 < 32 <= bits["llvm-cpu-host/fp32"] < 33
    assert found["llvm-cpu-host/fp32"]["profile"]["request"]
    assert not found["llvm-cpu-host/fp8"]["profile"]["request"]  # built with --smoke: no latency is told


def test_inspect_of_one_variant_shows_that_one(shared_quantised_mlp: Cli) -> None:
    told = shared_quantised_mlp("inspect", W4, "--format", "json").ok().json()
    assert [row["identity"]["variant_id"] for row in told["serving"]] == ["llvm-cpu-host/w4a16"]


def test_an_exported_folder_holds_the_bundle_byte_for_byte(shared_quantised_mlp: Cli, tmp_path: Path) -> None:
    shared_quantised_mlp("export", "dir", "mlp", tmp_path / "out").ok()
    for variant in bundle(shared_quantised_mlp).variants:
        folder = tmp_path / "out" / variant.target / variant.scheme
        assert {role: digest.of_file(folder / role) for role in variant.files} == {
            role: blob.sha256 for role, blob in variant.files.items()
        }
        assert json.loads((folder / "serving.json").read_text())["identity"]["variant_id"] == variant.name


@pytest.mark.parametrize("scheme", ["fp32", "fp8", "w4a16"])
def test_exported_files_run_in_irees_own_tool(scheme: str, shared_quantised_mlp: Cli, tmp_path: Path) -> None:
    reference = f"mlp:dev#llvm-cpu-host/{scheme}"
    shared_quantised_mlp("export", "dir", reference, tmp_path / "out").ok()
    folder = tmp_path / "out" / "llvm-cpu-host" / scheme
    x = np.random.default_rng(5).uniform(-1, 1, (1, 256)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    subprocess.run(
        [
            *(str(tool_path("iree-run-module")), f"--module={folder / 'code/module.vmfb'}", "--device=local-sync"),
            *(f"--parameters=model={folder / 'weights' / name}.irpa" for name in ("float", "linears")),
            *("--function=b1", f"--input=@{tmp_path / 'x.npy'}", f"--output=@{tmp_path / 'y.npy'}"),
        ],
        check=True, capture_output=True, timeout=120,
    )
    expected = hwc.open(reference, store=shared_quantised_mlp.store).run({"features": x})["logits"]
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-6)


def test_an_export_never_writes_into_a_folder_that_holds_something(shared_quantised_mlp: Cli, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert shared_quantised_mlp("export", "dir", "mlp", tmp_path / "out").code == 2
    assert [file.name for file in (tmp_path / "out").rglob("*")] == ["mine.txt"]


def test_a_frozen_version_is_the_bundle_and_never_changes(four: Cli) -> None:
    before = four.tags()["mlp:dev"]
    assert four("tag", "mlp:dev", "1.0.0").ok().stdout.split() == ["mlp:1.0.0", before]
    four("tag", "mlp:dev", "1.0.0").ok()  # the same content again is no change
    assert four.tags() == {"mlp:dev": before, "mlp:1.0.0": before}


def test_other_content_under_a_frozen_version_is_refused_to_tag_and_to_build(four: Cli) -> None:
    four("tag", "mlp:dev", "1.0.0").ok()
    before = four.tags()["mlp:1.0.0"]
    other = ("build", "mlp", "-t", "x86-64-v3", "-q", "fp32", "--smoke")
    built = four(*other, "--tag", "1.0.0")
    assert (built.code, "frozen" in built.stderr) == (2, True)
    four(*other).ok()
    assert four.tags()["mlp:dev"] != before
    tagged = four("tag", "mlp:dev", "1.0.0")
    assert (tagged.code, "a version never changes" in tagged.stderr) == (2, True)
    assert four.tags()["mlp:1.0.0"] == before


def test_a_measurement_may_be_added_to_a_frozen_version(four: Cli) -> None:
    four("tag", "mlp:dev", "1.0.0").ok()
    before = {variant.name: variant.content_sha256 for variant in bundle(four, "mlp:1.0.0").variants}
    four("profile", "mlp:1.0.0#llvm-cpu-host/fp8").ok()
    after = bundle(four, "mlp:1.0.0").variants
    assert before == {variant.name: variant.content_sha256 for variant in after}
    assert {row.method for variant in after for row in variant.measurements} == {"build", "profile"}
    four("build", "mlp", "-t", "llvm-cpu-host", "-q", "fp32", "--tag", "1.0.0").ok()  # what it holds already
    assert before == {variant.name: variant.content_sha256 for variant in bundle(four, "mlp:1.0.0").variants}


def test_a_bundle_with_an_unverified_variant_cannot_be_frozen(with_arm: Cli) -> None:
    refused = with_arm("tag", "mlp:dev", "1.0.0")
    assert refused.code == 3
    assert "aarch64-neoverse/w4a16" in refused.stderr
    assert "mlp:1.0.0" not in with_arm.tags()


def test_naming_a_verified_variant_does_not_freeze_the_unverified_beside_it(with_arm: Cli) -> None:
    refused = with_arm("tag", W4, "1.0.0")
    assert refused.code in (2, 3)
    assert "mlp:1.0.0" not in with_arm.tags()


def test_a_bundle_named_by_its_digest_can_be_frozen(four: Cli) -> None:
    before = four.tags()["mlp:dev"]
    four("tag", f"oci:{four.store}@{before}", "1.0.0").ok()
    assert four.tags() == {"mlp:dev": before, "mlp:1.0.0": before}


@pytest.mark.parametrize("version", ["dev", "1.0.0 beta", "", "-1", "a/b"])
def test_a_version_that_is_none_is_refused(version: str, four: Cli) -> None:
    before = four.tags()
    assert four("tag", "mlp:dev", "--", version).code == 2
    assert four.tags() == before


def test_an_unverified_variant_tells_no_latency_and_no_quality(with_arm: Cli) -> None:
    told = with_arm("inspect", "mlp:dev#aarch64-neoverse/w4a16", "--format", "json").ok().json()["serving"][0]
    assert (told["status"], told["profile"]["request"], told["quality"]) == ("unverified", [], [])
    assert "unverified" in with_arm("inspect", "mlp").ok().stdout


def test_removing_one_of_two_tags_keeps_what_the_other_uses(four: Cli) -> None:
    four("tag", "mlp:dev", "1.0.0").ok()
    four("rm", "mlp:dev").ok()
    assert list(four.tags()) == ["mlp:1.0.0"]
    x = {"features": np.zeros((1, 256), np.float32)}
    assert hwc.open("mlp:1.0.0#llvm-cpu-host/w4a16", store=four.store).run(x)["logits"].shape == (1, 10)


def test_removing_the_last_tag_frees_its_bytes(four: Cli) -> None:
    before = sum(file.stat().st_size for file in Layout(four.store).blob_files())
    assert before > 1_500_000
    assert "freed" in four("rm", "mlp:dev").ok().stdout
    assert Layout(four.store).blob_files() == []
    assert four("run", W4, "--text", "a").code == 2


def test_removing_a_tag_can_keep_the_bytes(four: Cli) -> None:
    before = Layout(four.store).blob_files()
    four("rm", "mlp:dev", "--keep-blobs").ok()
    assert (four.tags(), Layout(four.store).blob_files()) == ({}, before)


@pytest.mark.parametrize("reference", ["mlp:2.0.0", W4, "nothing"])
def test_removing_what_is_no_tag_changes_nothing(reference: str, four: Cli) -> None:
    before = four.tags()
    assert four("rm", reference).code == 2
    assert four.tags() == before


def test_a_rebuild_after_removal_takes_everything_from_the_cache(four: Cli) -> None:
    content = {variant.name: variant.content_sha256 for variant in bundle(four).variants}
    four("rm", "mlp:dev").ok()
    build = ["build", "mlp", "-t", "llvm-cpu-host", *(part for scheme in SCHEMES for part in ("-q", scheme))]
    built = four(*build, "--smoke", "--format", "json").ok().json()[0]
    assert built["steps_run"] == 0
    assert content == {variant.name: variant.content_sha256 for variant in bundle(four).variants}


@pytest.mark.parametrize("command", ["check", "profile"])
def test_measuring_again_changes_no_content(command: str, four: Cli) -> None:
    before = {variant.name: (variant.content_sha256, variant.digest) for variant in bundle(four).variants}
    named, measured = title(four, "mlp:dev"), bundle(four, W4).variants[0].measurements
    rows = four(command, W4, "--format", "json").ok().json()
    assert [row["variant"] for row in rows] == ["llvm-cpu-host/w4a16"]
    assert rows[0]["check"]["parity"]["max_abs"] < 5e-5
    assert before == {variant.name: (variant.content_sha256, variant.digest) for variant in bundle(four).variants}
    assert title(four, "mlp:dev") == named
    after = bundle(four, W4).variants[0].measurements
    if command == "check":
        assert after == measured
    else:
        added = [row for row in after if row not in measured]
        assert [row.method for row in added] == ["profile"]
        assert {row["bucket"] for row in added[0].serving["profile"]["request"]} == {"b1", "b16"}
        shown = four("inspect", W4, "--format", "json").ok().json()["serving"][0]
        assert {row["bucket"] for row in shown["profile"]["request"]} == {"b1", "b16"}


def test_profiling_a_bundle_named_by_digest_says_that_a_tag_is_needed(four: Cli) -> None:
    before = four.tags()
    refused = four("profile", f"oci:{four.store}@{before['mlp:dev']}#llvm-cpu-host/w4a16")
    assert refused.code == 2
    assert four.tags() == before


def test_the_cache_is_counted_verified_and_emptied_without_touching_bundles(four: Cli) -> None:
    counted = four("cache", "du", "--format", "json").ok().json()
    assert counted["lower"]["outputs"] == 4
    assert sum(row["bytes"] for row in counted.values()) > 1_500_000
    assert "every output is whole" in four("cache", "verify").ok().stdout
    weights = next(four.home.glob("store/encode/*/linears.irpa"))
    payload = bytearray(weights.read_bytes())
    payload[-1] ^= 1
    os.chmod(weights, 0o644)
    weights.write_bytes(payload)
    assert "1 damaged" in four("cache", "verify").ok().stdout
    assert four("cache", "du", "--format", "json").ok().json()["encode"]["outputs"] == counted["encode"]["outputs"] - 1
    four("cache", "gc", "--older-than-days", "0").ok()
    assert four("cache", "du", "--format", "json").ok().json() == {}
    x = {"features": np.zeros((1, 256), np.float32)}
    assert hwc.open(W4, store=four.store).run(x)["logits"].shape == (1, 10)


def test_a_young_cache_survives_the_usual_collection(four: Cli) -> None:
    before = four.outputs()
    four("cache", "gc").ok()
    assert four.outputs() == before
