"""A CPU that lacks a feature an artefact was compiled for is refused with the features' names."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from hwc import machine
from hwc.errors import MachineError
from hwc.lower import iree
from hwc.lower.flags import HOST_FLAGS

HASWELL = frozenset(
    "fpu sse sse2 pni ssse3 sse4_1 sse4_2 avx avx2 fma f16c bmi1 bmi2 abm movbe popcnt aes".split()  # noqa: SIM905
)


def test_a_cpu_without_avx512_is_told_which_features_it_lacks() -> None:
    wanted = ["+avx2", "+avx512f", "+avx512vnni", "+fma"]
    assert machine.missing_features(wanted, HASWELL) == ["avx512f", "avx512vnni"]


def test_llvms_names_are_found_under_linuxs_names() -> None:
    wanted = ["+sse3", "+sse4.1", "+sse4.2", "+lzcnt", "+bmi", "+bmi2"]
    assert machine.missing_features(wanted, HASWELL) == []
    assert machine.missing_features(wanted, frozenset()) == ["sse3", "sse4.1", "sse4.2", "lzcnt", "bmi", "bmi2"]


def test_features_that_matter_to_no_code_generator_are_not_asked_for() -> None:
    assert machine.missing_features(["+wbnoinvd", "+mwaitx", "+prefer-256-bit"], frozenset()) == []


def test_a_sapphire_rapids_has_what_its_compiler_names() -> None:
    wanted = ["+amx-bf16", "+amx-int8", "+amx-tile", "+avx512bf16", "+avx512fp16", "+avx512ifma", "+avxvnni"]
    linux = frozenset({"amx_bf16", "amx_int8", "amx_tile", "avx512_bf16", "avx512_fp16", "avx512ifma", "avx_vnni"})
    assert machine.missing_features(wanted, linux) == []
    assert machine.missing_features(wanted, linux - {"amx_bf16"}) == ["amx-bf16"]


def test_features_that_linux_never_shows_are_not_held_against_a_cpu() -> None:
    hidden = ["+amx-fp16", "+amx-complex", "+avxifma", "+avxvnniint8", "+avxneconvert", "+avx10.1"]
    assert machine.missing_features(hidden, frozenset()) == []


def test_what_the_compiler_finds_on_this_cpu_is_not_lacking_here(tmp_path: Path) -> None:
    found = iree.probe_cpu(HOST_FLAGS, tmp_path)
    assert found.features
    assert machine.missing_features(found.features, machine.cpu_flags()) == []


def test_arms_names_are_found_under_linuxs_names() -> None:
    have = frozenset({"asimd", "asimddp", "asimdhp"})
    assert machine.missing_features(["+neon", "+dotprod", "+fullfp16", "+sve", "+i8mm"], have) == ["sve", "i8mm"]


def test_this_machine_is_refused_with_the_names_of_what_it_lacks() -> None:
    foreign = ["+sve", "+i8mm"] if platform.machine() == "x86_64" else ["+avx512f", "+avx512vnni"]
    with pytest.raises(MachineError, match=", ".join(name.removeprefix("+") for name in foreign)) as caught:
        machine.require_cpu(platform.machine(), [*foreign, "+wbnoinvd"])
    assert "older CPU" in caught.value.hint


def test_this_machine_has_what_it_reports() -> None:
    machine.require_cpu(platform.machine(), ["+avx2" if "avx2" in machine.cpu_flags() else "+wbnoinvd"])
    machine.require_cpu("", [])


def test_code_for_another_architecture_is_refused() -> None:
    other = "aarch64" if platform.machine() == "x86_64" else "x86_64"
    with pytest.raises(MachineError, match=f"holds {other} code"):
        machine.require_cpu(other, [])


def test_a_device_is_chosen_by_pattern_whatever_its_case() -> None:
    names = ["NVIDIA A100", "llvmpipe (LLVM 15.0.7, 256 bits)"]
    assert machine.choose_device(names, "LLVMPIPE|lavapipe") == 1
    assert machine.choose_device(names, "radeon") is None
    assert machine.choose_device([], "") is None


def test_a_fingerprint_is_the_same_in_another_process_and_changes_with_the_facts() -> None:
    mine = machine.describe()
    told = subprocess.run(
        [sys.executable, "-c", "from hwc import machine; print(machine.describe().fingerprint)"],
        capture_output=True, text=True, check=True,
    )
    assert told.stdout.strip() == mine.fingerprint
    facts = {name: getattr(mine, name) for name in machine.Machine.__slots__}
    assert machine.Machine(**{**facts, "cpu_model": "another"}).fingerprint != mine.fingerprint
