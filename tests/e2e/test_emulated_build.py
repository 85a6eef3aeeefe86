"""A chip that exists as a descriptor alone: built, checked and run on an emulated core, from the command line."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from command import ROOT, Cli
from hwc import digest
from hwc.bundle.open import open_bundle
from hwc.bundle.reference import parse
from hwc.lower import isa, riscv, vmfb
from hwc.measure.check import check
from hwc.oci_layout import Layout
from hwc.pipeline.stages import program
from hwc.program import Slice

sys.path.insert(0, str(ROOT / "tests" / "unit"))  # emulated_parts.py

from emulated_parts import needs_emulator, with_flipped_instruction
from test_planted_faults import made

pytestmark = needs_emulator
CHIP, KERNEL = "rv64gcv-npu", "hwc_array_f32"


@pytest.fixture(scope="module")
def emulated(shared_quantised_mlp: Cli, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The perceptron on the chip, in float and in four bits."""
    cli = shared_quantised_mlp.copied_to(tmp_path_factory.mktemp("emulated"))
    cli("build", "mlp", "-t", CHIP, "-q", "fp32", "-q", "w4a16").ok()
    return cli


def shipped(cli: Cli, scheme: str) -> tuple[bytes, dict[str, object]]:
    """Return a variant's code and facts, as they lie in the bundle."""
    named = parse(f"mlp:dev#{CHIP}/{scheme}", default_store=str(cli.store))
    (variant,) = open_bundle(Layout(cli.store), named).variants
    return variant.files["code/module.vmfb"].read_bytes(), dict(variant.facts)


@pytest.mark.parametrize("scheme", ["fp32", "w4a16"])
def test_it_is_verified_and_has_no_latency(emulated: Cli, scheme: str) -> None:
    (found,) = emulated("inspect", f"mlp:dev#{CHIP}/{scheme}", "--format", "json").ok().json()["serving"]
    assert found["status"] == "verified"
    assert not found["profile"].get("request")
    assert found["resources"].get("load_s") is None
    assert next(row["value"] for row in found["quality"] if row["metric"] == "parity_max_abs") < 1e-5


@pytest.mark.parametrize("scheme", ["fp32", "w4a16"])
def test_the_bundle_tells_what_its_executables_are_for(emulated: Cli, scheme: str) -> None:
    code, facts = shipped(emulated, scheme)
    (told,) = facts["lower"]["executables"]
    (elf,) = (one.data for one in vmfb.Module(code).segments if riscv.is_riscv(one.data))
    assert told["sha256"] == digest.of_bytes(elf)
    assert told["vlen_bits"] == 256
    assert told["arch"].startswith("rv64i")
    assert facts["target_sha256"].startswith("sha256:")
    assert facts["target"]["hardware_status"] == "emulated"
    assert b"rv64gcv-npu-v1" in [one.data for one in vmfb.Module(code).segments]


@pytest.mark.parametrize(("scheme", "kernel"), [("fp32", "matmul-f32"), ("w4a16", "matmul-int4")])
def test_its_matrix_unit_is_modelled_and_says_so(emulated: Cli, scheme: str, kernel: str) -> None:
    name = f"mlp:dev#{CHIP}/{scheme}"
    told = emulated("inspect", name, "--format", "json").ok().json()
    assert told["serving"][0]["target"]["device"].endswith("; its unit npu is modelled, not executed")
    kernels = told["facts"][f"{CHIP}/{scheme}"]["lower"]["vendor"]["kernels"]
    assert [row for row, facts in kernels.items() if facts["linked"]] == [kernel]
    assert kernels[kernel]["matched"] == {"b1": 3}
    words = r"executed ([\d,]+) instructions .*\n *modelled: the unit npu was not executed; ([\d,]+) of the"
    (counts,) = re.findall(words, emulated("inspect", name).ok().stdout)
    whole, stood_in = (int(count.replace(",", "")) for count in counts)
    assert whole // 2 < stood_in < whole


def test_a_kernel_in_vector_instructions_is_executed_as_such(shared_quantised_mlp: Cli, tmp_path: Path) -> None:
    cli = shared_quantised_mlp.copied_to(tmp_path / "vectors")
    cli("build", "mlp", "-t", "spacemit-k1", "-q", "w4a16").ok()
    name = "mlp:dev#spacemit-k1/w4a16"
    told = cli("inspect", name, "--format", "json").ok().json()
    (found,) = told["serving"]
    assert found["status"] == "verified"
    assert "modelled" not in found["target"]["device"]
    (kernel,) = told["facts"]["spacemit-k1/w4a16"]["lower"]["vendor"]["kernels"].values()
    assert (kernel["linked"], kernel["matched"]) == (True, {"b1": 3})
    assert "kernel_hwc_rvv_w4a16" in cli("inspect", name).ok().stdout


def test_without_the_cross_compiler_generated_code_is_built_and_told(shared_mlp: Cli, tmp_path: Path) -> None:
    cli = shared_mlp.copied_to(tmp_path / "without")
    (tmp_path / "bin").mkdir()
    for name in ("gcc", "qemu-riscv64"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    ran = cli("build", "mlp", "-t", CHIP, "-q", "fp32", "--format", "json", env={"PATH": str(tmp_path / "bin")}).ok()
    (variant,) = ran.json()[0]["variants"]
    assert variant["status"] == "unverified"
    assert variant["target"]["device"].endswith("; its unit npu is modelled, not executed")
    assert "riscv64-linux-gnu-gcc is not installed: generated code instead of the kernels matmul-f32" in ran.stderr
    assert "apt-get install gcc-riscv64-linux-gnu" in ran.json()[0]["unverified_reasons"][0]


def test_it_computes_what_the_host_computes(emulated: Cli, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", features=np.random.default_rng(3).uniform(-1, 1, (1, 256)).astype(np.float32))
    results = []
    for target in (CHIP, "llvm-cpu-host"):
        out = tmp_path / f"{target}.npz"
        emulated("run", f"mlp:dev#{target}/w4a16", "--input", tmp_path / "in.npz", "--output", out).ok()
        results.append(np.load(out)["logits"])
    np.testing.assert_allclose(*results, atol=1e-5)


def test_a_check_passes_and_a_profile_is_refused(emulated: Cli) -> None:
    emulated("check", f"mlp:dev#{CHIP}/fp32").ok()
    refused = emulated("profile", f"mlp:dev#{CHIP}/fp32")
    assert refused.code == 2
    assert "an emulated chip has no latency" in refused.stderr


def test_without_the_emulator_a_run_refuses(emulated: Cli, tmp_path: Path) -> None:
    for name in ("gcc", "riscv64-linux-gnu-gcc"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    np.savez(tmp_path / "in.npz", features=np.zeros((1, 256), np.float32))
    refused = emulated(
        "run", f"mlp:dev#{CHIP}/fp32", "--input", tmp_path / "in.npz", env={"PATH": str(tmp_path)}
    )
    assert refused.code == 4
    assert "qemu-riscv64 is not installed" in refused.stderr
    assert "apt-get install qemu-user" in refused.stderr


def test_a_flipped_instruction_fails_the_check(emulated: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HWC_HOME", str(emulated.home))
    built = made(emulated, "mlp", "fp32", target=CHIP)
    whole = program(
        built.path(built.variant.encode), built.path(built.variant.lower), built.variant.target.device
    )
    code = whole.code.path.read_bytes()
    (tmp_path / "flipped.vmfb").write_bytes(with_flipped_instruction(code, KERNEL))
    assert isa.executables(code) != isa.executables((tmp_path / "flipped.vmfb").read_bytes())
    parity = {}
    for name, path in (("whole", whole.code.path), ("flipped", tmp_path / "flipped.vmfb")):
        report = check(
            replace(whole, code=Slice(path=path)), built.spec.evaluation, folder=built.folder,
            cases=built.path(built.variant.cases), reference=built.path(built.variant.cases), work=tmp_path / name,
            timeout_s=600, memory_bytes=8 << 30,
        )
        parity[name] = report["parity"]["max_abs"]
        assert report["executed"]["instructions"] > 0
        assert "load_s" not in report
    assert parity["whole"] < built.spec.parity_max_abs < parity["flipped"]
