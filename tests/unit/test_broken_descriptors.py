"""Broken descriptors are refused with the key that is wrong, its line where it has one, and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest
from broken_parts import CHIP, CONTRADICTIONS, ILL_TOOLED, UNREADABLE, Broken

from hwc.errors import UsageError
from hwc.lower.toolchain import Bench, probe
from hwc.spec.conformance import CHECKS, examine
from hwc.spec.project import Project, locate_target, open_project, read_target


def project_with(folder: Path, text: str) -> Project:
    (folder / "targets").mkdir()
    (folder / "targets" / "npu-7.toml").write_text(text, encoding="utf-8")
    return open_project(folder, env={"XDG_CONFIG_HOME": str(folder), "HWC_HOME": str(folder / "home")})


def named(cases: list[Broken]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case.named for case in cases])


def refusal(folder: Path, text: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        locate_target(project_with(folder, text), "npu-7")
    return caught.value


def test_the_descriptor_that_mistakes_are_made_in_is_right(tmp_path: Path) -> None:
    found = read_target(project_with(tmp_path, CHIP), "npu-7")
    assert {finding.verdict for finding in examine(found.spec)} == {"ok"}


@named(UNREADABLE)
def test_a_descriptor_the_schema_refuses_is_told_by_its_key(case: Broken, tmp_path: Path) -> None:
    error = refusal(tmp_path, case.text())
    assert error.exit_code == 2
    assert case.key in str(error)
    assert case.told in str(error)
    assert "npu-7.toml" in error.where


@named(CONTRADICTIONS)
def test_a_descriptor_that_contradicts_itself_is_refused_by_its_key_and_line(case: Broken, tmp_path: Path) -> None:
    error = refusal(tmp_path, case.text())
    assert error.exit_code == 2
    assert error.what.startswith(f"`{case.key}`: ")
    assert case.told in error.what
    assert case.key.startswith("legality") or error.where.rpartition(":")[2].isdigit()


@named(CONTRADICTIONS)
def test_a_contradiction_is_one_failing_check_and_no_more(case: Broken, tmp_path: Path) -> None:
    found = read_target(project_with(tmp_path, case.text()), "npu-7")
    failed = {(finding.check, finding.key) for finding in examine(found.spec) if finding.verdict == "fails"}
    assert len(failed) == 1
    assert failed.pop()[1] == case.key


def test_every_pure_check_but_those_that_only_warn_is_broken_by_some_case(tmp_path: Path) -> None:
    broken = set()
    for number, case in enumerate(CONTRADICTIONS):
        folder = tmp_path / str(number)
        folder.mkdir()
        found = read_target(project_with(folder, case.text()), "npu-7")
        broken |= {finding.check for finding in examine(found.spec) if finding.verdict == "fails"}
    assert set(CHECKS) - broken == {"sources", "figures", "magnitudes", "ridge"}


@pytest.mark.parametrize(
    ("check", "old", "new", "key"),
    [
        ("magnitudes", "dispatch_s = { low = 1e-6, base = 2e-6, high = 5e-6 }", "dispatch_s = 2",
         "hardware.overheads.dispatch_s"),
        ("ridge", "read_bytes_per_s = 273e9", "read_bytes_per_s = 273e6", "hardware.units.npu.rates"),
        ("figures", "read_bytes_per_s = 273e9\n", "", "hardware.memories.dram.read_bytes_per_s"),
        ("figures", 'price = "asic-rv64gcv-npu"\n', "", "price"),
        ("power", "tdp_w = 60", "tdp_w = 30", "hardware.power.tdp_w"),
        ("sources", 'hardware_status = "emulated"', 'hardware_status = "available"', "hardware.core.clock_hz"),
        ("sources", '{ kind = "assumed", where = "the design', '{ kind = "datasheet", where = "the design',
         "sources.hardware"),
        ("legality", 'elements = ["int8"]\naction', 'elements = ["int16"]\naction', "legality[2].elements"),
        ("peak-rates", "flop_per_s = 96e9, pj_per_flop = { low = 3",
         "flop_per_s = { low = 9e9, base = 9e9, high = 9e13 }, pj_per_flop = { low = 3", "hardware.units.rvv.rates"),
        ("memory-order", "read_bytes_per_s = 1.229e12", "read_bytes_per_s = { low = 1e10, base = 1e11, high = 2e12 }",
         "hardware.memories.sram.read_bytes_per_s"),
    ],
)
def test_what_may_be_wrong_is_a_warning_and_builds(
    check: str, old: str, new: str, key: str, tmp_path: Path
) -> None:
    assert old in CHIP
    target = locate_target(project_with(tmp_path, CHIP.replace(old, new, 1)), "npu-7").spec
    assert (check, key) in {(found.check, found.key) for found in examine(target) if found.verdict == "warning"}


@named(ILL_TOOLED)
def test_what_the_tools_answer_otherwise_fails_by_its_key(case: Broken, tmp_path: Path) -> None:
    project = project_with(tmp_path, case.text().replace('driver = "emulated"', 'driver = "none"').replace(
        "[execution.emulator]\n", "").replace('program = "qemu-riscv64"\n', "").replace(
        'min_version = "7.2"', "#").replace('cpu = "rv64,', '#cpu = "rv64,'))
    found = read_target(project, "npu-7")
    findings = probe(Bench(target=found.spec, folder=found.folder, home=project.home))
    failed = {finding.key: finding.reason for finding in findings if finding.verdict == "fails"}
    assert case.key in failed, findings
    assert case.told in failed[case.key]
