"""An artefact for another machine: built here, and refused by name where this machine cannot run it."""

from __future__ import annotations

import json
import platform
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

import hwc
from hwc import machine
from hwc.errors import MachineError
from hwc.spec.project import facts_dir

if TYPE_CHECKING:
    from command import Cli

RARE = ("avx512fp16", "amx-tile", "avx512bf16", "fma4")
"""CPU features that few machines have; the last, AMD's of 2011 alone, is for those that have all the others."""


@pytest.fixture(scope="module")
def lacking() -> str:
    """Return a CPU feature that LLVM knows and this machine lacks."""
    found = machine.missing_features(RARE, machine.cpu_flags())
    if platform.machine() != "x86_64" or not found:
        pytest.skip(f"NOT TESTED: this machine is no x86-64 CPU that lacks one of {', '.join(RARE)}")
    return found[0]


@pytest.fixture(scope="module")
def foreign(shared_mlp: Cli, lacking: str, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The perceptron for this CPU, for Arm, and for a CPU with a feature that this one lacks."""
    cli = shared_mlp.copied_to(tmp_path_factory.mktemp("foreign"))
    descriptor = (facts_dir("targets") / "x86-64-v3.toml").read_text()
    assert 'name = "x86-64-v3"' in descriptor
    own = descriptor.replace('name = "x86-64-v3"', 'name = "rare-cpu"').replace(
        'cpu = "x86-64-v3"', f'cpu = "x86-64-v3"\ncpu_features = ["+{lacking}"]'
    )
    shutil.copytree(facts_dir("targets") / "kernels", cli.cwd / "targets" / "kernels")  # which the descriptor names
    (cli.cwd / "targets" / "rare-cpu.toml").write_text(own)
    built = cli("build", "mlp", "-t", "rare-cpu", "-t", "aarch64-neoverse", "-q", "fp32", "--format", "json").ok()
    assert [row["status"] for row in built.json()[0]["variants"]] == ["unverified", "unverified"]
    return cli


@pytest.mark.parametrize("command", ["run", "check", "profile"])
@pytest.mark.parametrize("target", ["rare-cpu", "aarch64-neoverse"])
def test_a_command_refuses_what_this_machine_cannot_run(command, target, foreign: Cli, lacking: str) -> None:
    np.savez(foreign.cwd / "in.npz", features=np.zeros((1, 256), np.float32))
    arguments = ["--input", foreign.cwd / "in.npz"] if command == "run" else []
    before = foreign.tags()
    ran = foreign(command, f"mlp:dev#{target}/fp32", *arguments)
    assert ran.code == 4
    assert (lacking if target == "rare-cpu" else "aarch64") in ran.stderr
    assert "hint:" in ran.stderr
    assert (ran.stdout, foreign.tags()) == ("", before)


@pytest.mark.parametrize("target", ["rare-cpu", "aarch64-neoverse"])
def test_opening_it_from_python_is_refused(target: str, foreign: Cli, lacking: str) -> None:
    with pytest.raises(MachineError, match=lacking if target == "rare-cpu" else "aarch64"):
        hwc.open(f"mlp:dev#{target}/fp32", store=foreign.store)


def test_the_variant_of_this_machine_still_runs_beside_them(foreign: Cli) -> None:
    model = hwc.open("mlp:dev#llvm-cpu-host/fp32", store=foreign.store)
    assert model.run({"features": np.zeros((2, 256), np.float32)})["logits"].shape == (2, 10)


def test_targets_show_tells_what_is_lacking(foreign: Cli, lacking: str) -> None:
    shown = foreign("targets", "show", "rare-cpu", "--format", "json").ok().json()["resolved"]
    assert shown["device_on_this_machine"] == ""
    assert lacking in shown["absent_reason"]
    assert f"+{lacking}" in shown["required_isa_features"]


def test_the_host_target_is_pinned_to_the_cpu_that_was_found(shared_mlp: Cli) -> None:
    facts = shared_mlp("inspect", "mlp", "--format", "json").ok().json()["facts"]["llvm-cpu-host/fp32"]
    assert facts["target"]["lowering"]["cpu"] not in ("", "host")
    assert machine.missing_features(facts["device"]["isa_features"], machine.cpu_flags()) == []
    assert "host" not in json.dumps(facts["lower"]["flags"])
