"""Kernels of CPU targets use what their artefact asks for and no more; without a compiler they are left out."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cpu_targets import TARGETS, V3, V4, shipped

from hwc import machine
from hwc.errors import MachineError, UsageError
from hwc.lower import cpu_flags, kernel_objects, vendor
from hwc.pipeline.plan import encodings_of
from hwc.quantise.scheme import find
from hwc.spec.legality import LegalityRule
from hwc.spec.target import TargetSpec

CPUS = ("llvm-cpu-host", "x86-64-v3", "x86-64-v4")


def objects(features: tuple[str, ...], work: Path) -> Path:
    """Return the folder of the shipped kernels, compiled for these features."""
    spec, _ = cpu_flags.resolved(shipped("x86-64-v3"), "x86_64", features)
    door = vendor.door(vendor.params(spec, TARGETS), TARGETS, 60.0)
    assert door is not None
    work.mkdir(exist_ok=True)
    kernel_objects.make(door, "x86_64", work)
    return work / kernel_objects.FOLDER


@pytest.mark.skipif(not (shutil.which("cc") and shutil.which("objdump")), reason="needs cc and objdump")
def test_objects_hold_no_instruction_beyond_the_features_that_the_artefact_asks_for(tmp_path: Path) -> None:
    for features, holds, lacks in (
        (V3, ("vpmaddubsw", "%ymm"), ("%zmm", "vpdpbusd")),
        ((*V4, "+avx512vnni"), ("%zmm", "vpdpbusd"), ("vdpbf16ps",)),
    ):
        made = objects(features, tmp_path / str(len(features)))
        told = subprocess.run(
            ["objdump", "-d", str(made / "w4a16.o")], capture_output=True, text=True, check=True
        ).stdout
        assert [word for word in holds if word not in told] == []
        assert [word for word in lacks if word in told] == []


def test_flags_are_a_subset_of_the_features_by_which_loading_is_refused() -> None:
    flags = cpu_flags.flags("x86_64", (*V4, "-avx512vnni", "+x87"))
    assert flags[0] == "-march=x86-64"
    assert {f"+{flag[2:]}" for flag in flags[1:]} <= set(V4)
    assert "-mavx512bw" in flags
    foreign = (*V4, "+avx512vnni", "+wbnoinvd")
    lacking = machine.missing_features(foreign, frozenset({"avx2", "fma"}))
    assert {"avx512f", "avx512bw", "avx512vl"} <= {name.removeprefix("+") for name in lacking}


def test_an_artefact_for_a_cpu_that_is_not_here_is_refused_with_what_to_use_instead(monkeypatch) -> None:
    monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset({"avx", "avx2", "fma", "f16c", "bmi1", "bmi2"}))
    with pytest.raises(MachineError) as refused:
        machine.require_cpu("", (*V4, "+avx512vnni"))
    assert "avx512bw" in refused.value.what
    assert "x86-64-v3" in refused.value.hint


def test_arm_features_get_arms_names() -> None:
    assert cpu_flags.flags("aarch64", ("+dotprod", "+fullfp16", "+neon")) == ("-march=armv8.2-a+dotprod+fp16",)
    with pytest.raises(UsageError, match="riscv64"):
        cpu_flags.flags("riscv64", ("+v",))


@pytest.mark.parametrize("name", CPUS)
def test_without_the_compiler_kernels_are_left_out_and_weights_lie_by_row(name: str, monkeypatch) -> None:
    scheme, held = find("w4a16"), shipped(name)
    whole, note = cpu_flags.resolved(held, "x86_64", V3)
    assert (note, encodings_of(whole, scheme)["int4"]) == ("", "i4-tiled")
    monkeypatch.setattr(shutil, "which", lambda program: None)
    bare, note = cpu_flags.resolved(held, "x86_64", V3)
    assert note.startswith("cc is not installed")
    assert "w4a16" in note
    assert encodings_of(bare, scheme)["int4"] == "i4-grouped"
    assert vendor.params(bare, TARGETS) == {} != vendor.params(whole, TARGETS)


def test_rules_that_name_a_kernel_go_with_it(monkeypatch) -> None:
    rule = LegalityRule(ops=("matmul",), action="kernel", kernel="w4a16")
    held = TargetSpec.model_validate({**shipped("x86-64-v3").model_dump(), "legality": [rule.model_dump()]})
    monkeypatch.setattr(shutil, "which", lambda program: None)
    bare, _ = cpu_flags.resolved(held, "x86_64", V3)
    assert (bare.kernels, bare.legality) == ({}, ())


def test_a_kernel_that_has_to_be_there_is_not_left_out(monkeypatch) -> None:
    held = shipped("x86-64-v3")
    held = held.model_copy(update={"vendor": held.vendor.model_copy(update={"optional": False})})
    monkeypatch.setattr(shutil, "which", lambda program: None)
    kept, note = cpu_flags.resolved(held, "x86_64", V3)
    assert (set(kept.kernels), note) == (set(held.kernels), "")
