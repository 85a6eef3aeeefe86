"""A text-book vendor's three chips: kernels that are linked, a compiler that is called, and a hand-over."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from command import ROOT
from registry_server import REPOSITORY, Server

if TYPE_CHECKING:
    from command import Cli, Ran

ACME = ROOT / "tests" / "vendor_acme"
pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


def build(cli: Cli, folder: Path, target: str, *schemes: str) -> Ran:
    """Build the perceptron for one of Acme's chips."""
    chosen = [part for scheme in schemes for part in ("-q", scheme)]
    options = ("--smoke", "--format", "json")
    return cli("build", "mlp", "-t", target, *chosen, *options, env={"HWC_TARGETS_DIR": str(folder)})


def facts(cli: Cli, variant: str) -> dict:
    return cli("inspect", f"mlp#{variant}", "--format", "json").ok().json()["facts"][variant]["lower"]["vendor"]


@pytest.fixture
def acme(tmp_path: Path) -> Path:
    """Return a copy of Acme's folder, to be changed at will."""
    return Path(shutil.copytree(ACME, tmp_path / "acme"))


@pytest.mark.slow
def test_kernels_are_linked_into_a_verified_artefact_in_every_scheme(shared_quantised_mlp: Cli, tmp_path: Path):
    cli = shared_quantised_mlp.copied_to(tmp_path)
    ran = build(cli, ACME, "acme-one", "fp32", "w4a16", "w4a16-asym", "fp8").ok()
    for variant in ran.json()[0]["variants"]:
        assert variant["status"] == "verified"
    for scheme, kernel in (
        ("fp32", "matmul-f32"), ("w4a16", "matmul-int4"), ("w4a16-asym", "matmul-int4"), ("fp8", "matmul-fp8"),
    ):
        kernels = facts(cli, f"acme-one/{scheme}")["kernels"]
        assert {name: told["linked"] for name, told in kernels.items() if told["linked"]} == {kernel: True}
        assert kernels[kernel]["matched"] == {"b1": 3, "b16": 3}


def test_a_changed_kernel_is_built_again_and_a_wrong_one_misses_the_parity_gate(warm: Cli, acme: Path):
    assert build(warm, acme, "acme-one", "fp32").ok().json()[0]["variants"][0]["status"] == "verified"
    before = warm.tags()
    source = acme / "kernels" / "acme.h"
    source.write_text(source.read_text().replace("lanes[k % ACME_LANES] += (term)", "lanes[k % ACME_LANES] -= (term)"))
    ran = build(warm, acme, "acme-one", "fp32")
    assert ran.code == 3
    assert "max abs" in ran.stderr
    assert warm.tags() == before


BROKEN = {
    "source that does not compile": (
        lambda folder: (folder / "kernels" / "matmul_f32.c").write_text("HWC("), 5, "matmul_f32.c does not compile",
    ),
    "symbol that is not there": (
        lambda folder: edit(folder, 'symbol = "acme_matmul_f32"', 'symbol = "acme_gone"'), 5,
        "does not define the symbol `acme_gone`",
    ),
    "source that is not there": (
        lambda folder: edit(folder, 'source = "kernels/matmul_f32.c"', 'source = "kernels/gone.c"'), 2,
        "there is no file kernels/gone.c beside the descriptor",
    ),
    "compiler that is not there": (
        lambda folder: edit(folder, 'compiler = ["gcc"]', 'compiler = ["acme-gone-cc"]'), 4, "acme-gone-cc",
    ),
    "rule that sends it nothing": (
        lambda folder: (folder / "acme-one.toml").open("a").write(
            '\n[[legality]]\nops = ["matmul"]\nat_least = { m = 1000000 }\naction = "kernel"\nkernel = "matmul-f32"\n'
        ), 5, "matmul_f32 matched 0 of 6 linears",
    ),
}


def edit(folder: Path, before: str, after: str) -> None:
    file = folder / "acme-one.toml"
    assert before in file.read_text()
    file.write_text(file.read_text().replace(before, after))


@pytest.mark.parametrize("name", BROKEN)
def test_a_kernel_that_cannot_take_part_ends_the_build_and_publishes_nothing(name: str, warm: Cli, acme: Path):
    change, code, words = BROKEN[name]
    change(acme)
    before = warm.tags()
    ran = build(warm, acme, "acme-one", "fp32")
    assert (ran.code, words in ran.stderr) == (code, True), ran.stderr
    assert warm.tags() == before


def test_the_vendors_compiler_gives_objects_that_are_linked_and_verified(warm: Cli):
    assert build(warm, ACME, "acme-two", "fp32").ok().json()[0]["variants"][0]["status"] == "verified"
    told = facts(warm, "acme-two/fp32")["hook"]
    assert len(told["executables"]) == 6
    assert told["changed"] == ["b1$async_dispatch_1", "b16$async_dispatch_1"]
    assert told["objects"] == ["b16_async_dispatch_1.o", "b1_async_dispatch_1.o"]


def test_a_tool_that_fails_ends_the_build_with_its_words_and_publishes_nothing(warm: Cli, acme: Path):
    (acme / "acme_cc.py").write_text("import sys; sys.exit('acme: licence expired')")
    before = warm.tags()
    ran = build(warm, acme, "acme-two", "fp32")
    assert ran.code == 5
    assert "the vendor's tool on executable `b" in ran.stderr
    assert "acme: licence expired" in ran.stderr
    assert warm.tags() == before


@pytest.fixture(scope="module")
def handed(shared_quantised_mlp: Cli, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The perceptron handed over to Acme. Read it, never change it."""
    cli = shared_quantised_mlp.copied_to(tmp_path_factory.mktemp("handed"))
    build(cli, ACME, "acme-three", "fp32", "w4a16", "fp8").ok()
    return cli


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["fp32", "w4a16", "fp8"])
def test_a_hand_over_is_enough_to_compute_the_golden_answers(scheme: str, handed: Cli, tmp_path: Path):
    handed("export", "dir", f"mlp#acme-three/{scheme}", tmp_path / "out").ok()
    folder = tmp_path / "out" / "acme-three" / scheme
    ran = subprocess.run(
        [sys.executable, str(ACME / "acme_reader.py"), str(folder)], capture_output=True, text=True, check=True
    )
    worst, _, count = ran.stdout.partition(" over ")
    assert float(worst) <= json.loads((folder / "facts.json").read_text())["parity_max_abs"]
    assert int(count.split()[0]) > 10
    damaged = folder / "weights" / "linears.irpa"
    data = bytearray(damaged.read_bytes())
    middle = len(data) // 2  # inside a weight: the archive's end is filled up
    data[middle : middle + 2000] = bytes(byte ^ 0x3F for byte in data[middle : middle + 2000])
    damaged.write_bytes(data)
    ran = subprocess.run(
        [sys.executable, str(ACME / "acme_reader.py"), str(folder)], capture_output=True, text=True, check=True
    )
    assert not float(ran.stdout.partition(" over ")[0]) <= 1e-4


@pytest.mark.slow
def test_a_hand_over_holds_sources_and_is_never_run_measured_or_promoted(handed: Cli):
    told = handed("inspect", "mlp#acme-three/fp32", "--format", "json").ok().json()
    assert [row["status"] for row in told["serving"]] == ["hand-over"]
    assert told["facts"]["acme-three/fp32"]["lower"]["hand_over"]["executables"] > 0
    for verb in ("check", "profile"):
        ran = handed(verb, "mlp#acme-three/fp32")
        assert (ran.code, "the variant is a hand-over" in ran.stderr) == (2, True), ran.stderr
    ran = handed("tag", "mlp:dev", "1.0.0")
    assert ran.code == 3
    assert "acme-three/fp32" in ran.stderr


@pytest.mark.slow
def test_a_hand_over_is_pushed_and_pulled_like_any_bundle(handed: Cli, tmp_path: Path):
    there = handed.copied_to(tmp_path)
    with Server() as server:
        remote = f"oci://{server.host}/{REPOSITORY}"
        there("push", "mlp:dev", remote, "--plain-http").ok()
        other = type(there)(home=tmp_path / "home", store=tmp_path / "other", cwd=tmp_path)
        other("pull", f"{remote}:dev#acme-three/fp8", "--plain-http").ok()
        (tag,) = other.tags()
        pulled = other("inspect", f"{tag}#acme-three/fp8", "--format", "json").ok().json()
    assert [row["status"] for row in pulled["serving"]] == ["hand-over"]
