"""A chip from its data sheet: a descriptor is begun, checked and shown; what contradicts itself is built by nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from command import Cli

CHIP = Path(__file__).parents[1] / "data" / "descriptors" / "npu-7.toml"


@pytest.fixture
def chip(cli: Cli) -> Path:
    """A right descriptor in the project's own targets."""
    path = cli.cwd / "targets" / "npu-7.toml"
    path.parent.mkdir()
    shutil.copyfile(CHIP, path)
    return path


def verdicts(told: Any) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for finding in told["findings"]:
        found.setdefault(finding["check"], set()).add(finding["verdict"])
    return found


def test_a_new_target_is_written_and_checked_and_never_overwritten(cli: Cli) -> None:
    written = cli("targets", "new", "my-chip").ok().stdout.strip()
    assert written == str(cli.cwd / "targets" / "my-chip.toml")
    told = cli("targets", "check", "my-chip", "--format", "json").ok().json()
    assert (told["target"], "fails" in told["verdicts"]) == ("my-chip", False)
    assert verdicts(told)["compiler"] == {"not applicable"}
    text = Path(written).read_text()
    again = cli("targets", "new", "my-chip", "--from", "h200")
    assert (again.code, Path(written).read_text() == text) == (2, True)
    assert cli("targets", "new", "h200").code == 2  # it would hide the shipped one


@pytest.mark.parametrize("name", ["../out", "UPPER", "", "a/b"])
def test_a_new_target_needs_a_plain_name(name: str, cli: Cli) -> None:
    ran = cli("targets", "new", name)
    assert (ran.code, list(cli.cwd.rglob("*.toml"))) == (2, [])
    assert "name" in ran.stderr


def test_a_new_target_may_start_from_another(cli: Cli) -> None:
    cli("targets", "new", "next-npu", "--from", "rv64gcv-npu").ok()
    shown = cli("targets", "show", "next-npu", "--format", "json").ok().json()
    assert (shown["name"], shown["made"], shown["lowering"]["vlen_bits"]) == ("next-npu", "build", 256)
    assert {fact["source"] for fact in shown["figures"]} == {"assumed", "estimated"}


def test_show_tells_each_figure_with_unit_source_and_spread(cli: Cli) -> None:
    shown = cli("targets", "show", "b200").ok().stdout
    assert "2.25 Pflop/s" in shown
    assert "8 TB/s (7.7 to 8)" in shown
    assert "DGX B200 data sheet" in shown


def test_the_shipped_risc_v_chip_passes_its_check_with_the_tools_at_hand(cli: Cli) -> None:
    if shutil.which("qemu-riscv64") is None or shutil.which("riscv64-linux-gnu-gcc") is None:
        pytest.skip("qemu-riscv64 or riscv64-linux-gnu-gcc is not installed (tools/install-debian.sh)")
    told = cli("targets", "check", "rv64gcv-npu", "--strict", "--format", "json").ok().json()
    assert verdicts(told)["compiler"] == verdicts(told)["emulator"] == {"ok"}


def test_a_missing_emulator_is_a_warning_and_a_failure_when_strict(chip: Path, cli: Cli, tmp_path: Path) -> None:
    nothing = {"PATH": str(tmp_path)}
    told = cli("targets", "check", "npu-7", "--format", "json", env=nothing).ok().json()
    assert verdicts(told)["emulator"] == {"warning"}
    strict = cli("targets", "check", "npu-7", "--strict", env=nothing)
    assert strict.code == 4
    assert "execution.emulator.program" in strict.stderr


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("clock_hz = 1.2e9", "clock_hz = 0", "hardware.units.npu.clock_hz"),
        ("read_bytes_per_s = 273e9", "read_bytes_per_s = 500e9", "hardware.memories.dram.read_bytes_per_s"),
        ("stack_limit_bytes = 131072", "matmul_tile_bytes = 33554432", "lowering.matmul_tile_bytes"),
        ('"+zfh"]', '"+zwarp"]', "lowering.cpu_features"),
    ],
    ids=["zero clock", "more bandwidth than the bus", "a tile larger than SRAM", "an unknown feature"],
)
def test_a_wrong_descriptor_fails_its_check_and_builds_nothing(
    old: str, new: str, key: str, chip: Path, cli: Cli
) -> None:
    chip.write_text(CHIP.read_text().replace(old, new, 1))
    checked = cli("targets", "check", "npu-7")
    assert (checked.code, f"`{key}`" in checked.stderr) == (2, True)
    built = cli("build", "mlp", "-t", "npu-7", "-q", "fp32", "--smoke")
    assert built.code == 2
    assert cli.tags() == {}


@pytest.mark.parametrize(("target", "reason"), [("h200", "sm_90"), ("b200", "sm_100")])
def test_what_nothing_compiles_for_is_refused_with_its_reason(target: str, reason: str, cli: Cli) -> None:
    ran = cli("build", "mlp", "-t", target)
    assert ran.code == 2
    assert reason in ran.stderr
    assert f"targets/{target}.toml" in ran.stderr
    assert cli.tags() == {}
