"""Quantised weights stay packed: in the store, which holds them once, and in memory while the artefact runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hwc.bundle.open import Variant, open_bundle
from hwc.bundle.reference import parse
from hwc.oci_layout import Layout

if TYPE_CHECKING:
    from command import Cli

K, N = 2048, 4096
FLOAT_BYTES = 4 * K * N
FACTORY = f"""import torch
from torch import nn
EXAMPLE_INPUTS = {{"x": torch.zeros(1, {K})}}
def create():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear({K}, {N}))
"""
BITS = {"fp32": 32, "fp8": 8, "w4a16": 4.5}
"""Bits a weight: codes, and for W4A16 a 16-bit scale for each 32."""


@pytest.fixture(scope="module")
def wide(shared_mlp: Cli, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """One linear of 2048 × 4096 at one row, in three schemes, for this CPU and for the level below it."""
    folder = tmp_path_factory.mktemp("wide")
    cli = type(shared_mlp)(home=folder / "home", store=folder / "store", cwd=folder)
    (folder / "wide.py").write_text(FACTORY)
    cli("models", "new", "wide.py:create", "-o", "wide.toml").ok()
    toml = (folder / "wide.toml").read_text()
    assert "{ batch = 8 }" in toml
    (folder / "wide.toml").write_text(toml.replace(", { batch = 8 }", ""))
    schemes = [part for scheme in BITS for part in ("-q", scheme)]
    cli("build", folder / "wide.toml", "-t", "llvm-cpu-host", "-t", "x86-64-v3", *schemes, "--smoke").ok()
    return cli


def variants(cli: Cli) -> dict[str, Variant]:
    bundle = open_bundle(Layout(cli.store), parse("wide:dev", default_store=cli.store))
    return {entry.name: entry for entry in bundle.variants}


def memory(variant: Variant) -> dict[str, Any]:
    return dict(variant.measurements[0].documents["check.json"]["memory"])


@pytest.mark.parametrize("scheme", BITS)
def test_archives_hold_as_many_bytes_as_the_scheme_has_bits(scheme: str, wide: Cli) -> None:
    files = variants(wide)[f"llvm-cpu-host/{scheme}"].files
    held = sum(blob.length for role, blob in files.items() if role.startswith("weights/"))
    assert K * N * BITS[scheme] / 8 <= held <= K * N * BITS[scheme] / 8 * 1.02 + 100_000


@pytest.mark.parametrize("scheme", BITS)
def test_weights_are_stored_once_for_two_targets_of_one_encoding(scheme: str, wide: Cli) -> None:
    host, level = (variants(wide)[f"{target}/{scheme}"].files for target in ("llvm-cpu-host", "x86-64-v3"))
    assert host["code/module.vmfb"].archive.digest != level["code/module.vmfb"].archive.digest
    for role in ("weights/float.irpa", "weights/linears.irpa"):
        assert host[role].archive.digest == level[role].archive.digest
        assert host[role].path == level[role].path


@pytest.mark.parametrize("when", ["after_load", "after_run"])
@pytest.mark.parametrize("scheme", BITS)
def test_private_memory_grows_by_far_less_than_the_float_weights(scheme: str, when: str, wide: Cli) -> None:
    told = memory(variants(wide)[f"llvm-cpu-host/{scheme}"])
    growth = told[f"private_{when}_bytes"] - told["private_before_load_bytes"]
    assert growth < FLOAT_BYTES / 4, f"{growth / 2**20:.1f} MiB beside {FLOAT_BYTES / 2**20:.0f} MiB of float weights"


def test_resident_memory_counts_the_mapped_weights(wide: Cli) -> None:
    """Shows that the figures above can grow at all: what a scheme reads becomes resident, in its own size."""
    grown = {}
    for scheme in BITS:
        told = memory(variants(wide)[f"llvm-cpu-host/{scheme}"])
        grown[scheme] = told["rss_after_run_bytes"] - told["rss_before_load_bytes"]
    assert grown["w4a16"] < grown["fp8"] < grown["fp32"]
    assert grown["fp32"] > FLOAT_BYTES * 0.9
